"""The forty traps of telemetry, each with the tests that hold it shut.

``TRAPS`` says what goes wrong elsewhere, which tests of ours would fail if it went wrong here, and
which see the old way fail first; a test of the table checks that they exist.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
Places = dict[str, list[str]]

#: Number -> what goes wrong elsewhere, where ours is tested, and where the old way is seen to fail
#: first (file: test names' beginnings) - or, in a sentence, why there is no old way to run.
TRAPS: dict[int, tuple[str, Places, Places | str]] = {
    1: ("an end event before its start event",
        {"crewai_recorder": ["test_t1_"], "crewai_old_way": ["test_t1_a_start"]},
        {"crewai_old_way": ["test_t1_an_end"]}),
    2: ("slow handlers of others cost parents or time",
        {"crewai_recorder": ["test_t2_"]},
        {"crewai_old_way": ["test_t2_two_hundred"]}),
    3: ("internal flows as parents",
        {"crewai_recorder": ["test_t3_"]},
        {"crewai_old_way_trees": ["test_t3_"]}),
    4: ("entry points that are not seen, or outside the caller's trace",
        {"crewai_recorder": ["test_t4_"],
         "crewai_coverage": ["test_t4_every_entry", "test_t4_kick"],
         "crewai_llm_kinds": ["test_t4_an_agent", "test_t4_a_flow"]},
        {"crewai_old_way_trees": ["test_t4_"]}),
    5: ("concurrent crews mix",
        {"crewai_recorder": ["test_t5_"], "crewai_coverage": ["test_t5_a_hundred"]},
        {"crewai_old_way_trees": ["test_t5_"]}),
    6: ("parallel tools and tasks under strangers",
        {"crewai_recorder": ["test_t6_parallel", "test_t6_an_async_task"],
         "crewai_coverage": ["test_t6_delegated"], "tool_timeouts": ["test_t6_"]},
        {"crewai_old_way_trees": ["test_t6_"]}),
    7: ("HTTP spans beside their call",
        {"crewai_recorder": ["test_t7_"], "langchain_nesting": ["test_t7_"]},
        {"crewai_old_way": ["test_t7_"], "old_ways": ["test_t7_"]}),
    8: ("contexts detached elsewhere, leaks",
        {"langchain_nesting": ["test_t8_"]},
        {"old_ways": ["test_t8_"]}),
    9: ("cancelled calls stay open",
        {"crewai_slm": ["test_t9_cancelled"], "crewai_recorder": ["test_t9_"]},
        {"crewai_old_way": ["test_t9_"]}),
    10: ("context-length errors and interrupts leak spans",
         {"crewai_recorder": ["test_t10_"]},
         {"crewai_old_way": ["test_t10_"]}),
    11: ("retries overlap or count tokens twice",
         {"crewai_recorder": ["test_t11_"]},
         {"crewai_old_way_trees": ["test_t11_"]}),
    12: ("CrewAI silences LiteLLM's loggers; three layers, three spans",
         {"litellm_recorder": ["test_t12_"], "litellm_crewai": ["test_t12_"],
          "crewai_recorder": ["test_t12_"]},
         {"crewai_old_way": ["test_t12_"]}),
    13: ("LiteLLM's retries leave a span open",
         {"litellm_recorder": ["test_t13_"], "litellm_retries": ["test_t13_"]},
         {"old_ways": ["test_t13_"]}),
    14: ("LiteLLM tells nobody of abandoned streams",
         {"litellm_recorder": ["test_t14_"]},
         {"old_ways": ["test_t14_"]}),
    15: ("LiteLLM calls by keyword",
         {"litellm_recorder": ["test_t15_"]},
         {"old_ways": ["test_t15_"]}),
    16: ("an instrumented client makes a second LLM span",
         {"one_llm_span": ["test_t16_"], "one_span_in_layers": ["test_t16_"]},
         {"langchain_old_way": ["test_t16_"]}),
    17: ("two registrations, two spans",
         {"langchain_recorder": ["test_t17_"], "langchain_nesting": ["test_t17_"],
          "instrument": ["test_t17_"], "crewai_recorder": ["test_t17_"]},
         {"old_ways": ["test_t17_"]}),
    18: ("closed streams are called errors",
         {"langchain_recorder": ["test_t18_"], "recorder": ["test_t18_"],
          "langchain_broken_off": ["test_t18_"]},
         {"old_ways": ["test_t18_"]}),
    19: ("interrupts are called errors",
         {"langchain_graphs": ["test_t19_"]},
         {"old_ways": ["test_t19_"]}),
    20: ("cancelled ainvoke leaks",
         {"langchain_recorder": ["test_t20_"], "langchain_graphs": ["test_t20_"],
          "langchain_nesting": ["test_t20_"]},
         {"old_ways": ["test_t20_"]}),
    21: ("usage of streams, and zeros made up",
         {"traps": ["test_t21_"], "recorder": ["test_t21_"], "langchain_recorder": ["test_t21_"]},
         {"langchain_old_way": ["test_t21_"]}),
    22: ("time to first chunk of what is no stream",
         {"langchain_recorder": ["test_t22_"], "recorder": ["test_t22_"]},
         {"langchain_old_way": ["test_t22_"]}),
    23: ("models without a name are dropped",
         {"langchain_recorder": ["test_t23_"]},
         {"old_ways": ["test_t23_"]}),
    24: ("batches and choices",
         {"langchain_recorder": ["test_t24_"]},
         {"langchain_old_way": ["test_t24_"]}),
    25: ("content leaks though it is off",
         {"traps": ["test_t25_"], "recorder": ["test_t25_"], "crewai_recorder": ["test_t25_"],
          "langchain_recorder": ["test_t25_"]},
         {"langchain_old_way": ["test_t25_"], "crewai_old_way_content": ["test_t25_"]}),
    26: ("a redactor that fails",
         {"traps": ["test_t26_"], "recorder": ["test_t26_"], "langchain_recorder": ["test_t26_"],
          "langchain_coverage": ["test_t26_"], "litellm_bad_input": ["test_t26_"]},
         {"langchain_old_way": ["test_t26_"], "crewai_old_way_content": ["test_t26_"]}),
    27: ("content no collector takes",
         {"content": ["test_t27_"], "traps": ["test_t27_"], "litellm_bad_input": ["test_t27_"],
          "crewai_old_way_content": ["test_t27_"]},
         {"langchain_old_way": ["test_t27_"]}),
    28: ("long runs are ended by the clock",
         {"crewai_recorder": ["test_t28_"], "traps": ["test_t28_"]},
         {"langchain_old_way": ["test_t28_"]}),
    29: ("unfinished runs pile up",
         {"langchain_recorder": ["test_t29_"], "crewai_recorder": ["test_t29_"]},
         {"langchain_old_way": ["test_t29_"], "crewai_old_way_program": ["test_t29_"]}),
    30: ("telemetry nobody asked for costs",
         {"traps": ["test_t30_"], "recorder": ["test_t30_"], "langchain_recorder": ["test_t30_"],
          "crewai_old_way_program": ["test_t30_an_event"]},
         {"crewai_old_way_program": ["test_t30_an_import"]}),
    31: ("exporters that block or fail",
         {"traps": ["test_t31_"], "export": ["test_t31_"], "litellm_bad_input": ["test_t31_"],
          "crewai_old_way_program": ["test_t31_"]},
         {"langchain_old_way": ["test_t31_"]}),
    32: ("the user's provider is taken over",
         {"export": ["test_t32_"], "langchain_nesting": ["test_t32_"],
          "crewai_old_way_program": ["test_t32_"], "litellm_real_http": ["test_t32_"]},
         {"langchain_old_way": ["test_t32_"]}),
    33: ("nothing is restored",
         {"instrument": ["test_t33_"], "langchain_nesting": ["test_t33_"], "traps": ["test_t33_"],
          "crewai_recorder": ["test_t33_"], "litellm_real_http": ["test_t33_"]},
         {"crewai_old_way_trees": ["test_t33_"]}),
    34: ("the observer's failures reach the user",
         {"recorder": ["test_t34_"], "langchain_recorder": ["test_t34_"],
          "litellm_recorder": ["test_t34_"], "crewai_recorder": ["test_t34_"]},
         {"crewai_old_way_program": ["test_t34_"]}),
    35: ("scoped handlers and replay",
         {"crewai_recorder": ["test_t35_"]},
         {"crewai_old_way_trees": ["test_t35_"]}),
    36: ("a framework that is absent",
         {"traps": ["test_t36_"]},
         "no handler in it: a module that imports all three frameworks fails by definition"),
    37: ("a conversation that is made up",
         {"langchain_recorder": ["test_t37_"], "crewai_old_way_program": ["test_t37_"]},
         "a made-up id looks like any other: only its absence can be asserted"),
    38: ("names that grow without bound",
         {"crewai_recorder": ["test_t38_"], "crewai_old_way_program": ["test_t38_"]},
         {"crewai_old_way_trees": ["test_t38_"]}),
    39: ("lifetime counters as a run's usage",
         {"traps": ["test_t39_"], "crewai_coverage": ["test_t39_"]},
         {"crewai_old_way": ["test_t39_"]}),
    40: ("signal handlers and threads",
         {"crewai_recorder": ["test_t40_"], "traps": ["test_t40_"]},
         {"crewai_old_way_program": ["test_t40_"]}),
}  # fmt: skip


def names_in(name: str) -> list[str]:
    tree = ast.parse((HERE / f"test_{name}.py").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds)]


def test_every_trap_has_a_test_that_carries_its_number() -> None:
    """T1 to T40, without a gap; every test named in the table exists."""
    assert sorted(TRAPS) == list(range(1, 41))
    for number, (_, ours, old) in TRAPS.items():
        both = [*ours.items(), *(old.items() if isinstance(old, dict) else ())]
        for file, beginnings in both:
            for beginning in beginnings:
                assert beginning.startswith(f"test_t{number}_")
                found = [name for name in names_in(file) if name.startswith(beginning)]
                assert found, f"T{number}: no {beginning}* in test_{file}.py"


def test_every_feature_we_claim_names_a_test_that_exists() -> None:
    """docs/features.md: no Y of ours without its test."""
    text = (HERE.parent / "docs" / "features.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "| Y `" in line]
    features = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(features) > 25
    for row in rows:
        file, _, test = row.rsplit("`", 2)[1].partition("::")
        assert test in names_in(file.removeprefix("test_").removesuffix(".py")), row
