"""The fifty-one traps of local models, each with the tests that hold it shut.

``TRAPS`` says what goes wrong elsewhere. A trap counts as held when a test carries its number in
its name, ``test_t15_...`` or ``test_t19_t20_...``, in a file about models rather than telemetry,
which numbers traps of its own (``test_trap_table.py``).
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import test_langchain_standard as standard
import test_trap_table

HERE = Path(__file__).parent

TRAPS: dict[int, str] = {
    1: "an answer that plays the tool's part too: the invented observation survives",
    2: "a stop string split over tokens, in multi-byte text, at a stream's start",
    3: "text that cannot be parsed as ReAct becomes the final answer",
    4: "a tool call left as text on the native path",
    5: "an empty generation returned as an answer",
    6: "thinking inside the content",
    7: "broken arguments, unknown tools, wrong types, two calls in one message",
    8: "available_functions not executed",
    9: "histories of odd shapes",
    10: "methods CrewAI's base class lacks: conversion, summarizing",
    11: "overflow after compute, or a summary loop without end",
    12: "error texts that look like a throttled provider's",
    13: "usage counted twice when agents share a model",
    14: "copies with weights, or with each other's counters",
    15: "a time limit that comes after the reply",
    16: "stop words of one call in another",
    17: "streamed crews: order, tool-call chunks, another final value",
    18: "hooks and events missing or doubled",
    19: "output_pydantic and output_json, with and without tools, sync and async",
    20: "structured output that leaves the machine",
    21: "planning, managers, guardrails, delegation",
    22: "hooks that edit or block",
    23: "import order of LiteLLM providers",
    24: "llm_overlay's strings",
    25: "LiteLLM timeouts that nobody enforces",
    26: "a LiteLLM router that does not fall back, or twice",
    27: "an abandoned stream that keeps its slot",
    28: "parts of LangChain's standard suites left out",
    29: "one cache key for two adapters",
    30: "model= at call time ignored",
    31: "response_format together with tools",
    32: "a cancelled stream that goes on computing",
    33: "tool messages last, typed blocks, content lists",
    34: "templates that ignore tools",
    35: "templates without a system or tool role, strict alternation, nine-character ids",
    36: "transformers' own response parser on what models really write",
    37: "control tokens in results and user text",
    38: "max_tokens inside a tool call",
    39: "an oversized request that takes the worker along",
    40: "an adapter reading another's prefix",
    41: "a cancelled request whose waiter waits for ever",
    42: "results that need a running loop, or find the wrong waiter",
    43: "one sampling for the whole batch",
    44: "hybrid architectures",
    45: "caches that cannot be cropped",
    46: "4-bit weights saved after use",
    47: "shapes the 4-bit CPU kernel refuses",
    48: "kernels fetched at import",
    49: "JSON Schema features a grammar ignores",
    50: "a tokenizer shared by threads",
    51: "two quantizations of one base, unloading and forking in flight, memory, seeds",
}


def telemetry_files() -> set[str]:
    named: set[str] = {"traps"}
    for _, ours, old in test_trap_table.TRAPS.values():
        named |= {*ours, *(old if isinstance(old, dict) else ())}
    # These two are about models as well.
    return {f"test_{name}.py" for name in named - {"crewai_slm", "litellm_crewai"}}


def numbers_of(name: str) -> set[int]:
    """``{19, 20}`` for test_t19_t20_structured_output."""
    match = re.match(r"test((?:_t\d+)+)(?:_|$)", name)
    return {int(number) for number in re.findall(r"\d+", match.group(1))} if match else set()


def held_by() -> dict[int, list[str]]:
    """Number -> the tests that carry it, as ``file::name``."""
    found: dict[int, list[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        if path.name in telemetry_files():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in numbers_of(node.name):
                    found.setdefault(number, []).append(f"{path.name}::{node.name}")
    return found


def test_every_trap_is_held_by_a_test_with_its_number() -> None:
    """T1 to T51; and no test carries a number that is no trap."""
    assert sorted(TRAPS) == list(range(1, 52))
    found = held_by()
    assert not set(TRAPS) - set(found), f"no test holds {sorted(set(TRAPS) - set(found))}"
    assert not set(found) - set(TRAPS), {n: found[n] for n in set(found) - set(TRAPS)}


def test_names_are_read_as_meant() -> None:
    """The check above can fail."""
    assert numbers_of("test_t19_t20_structured_output_never_leaves") == {19, 20}
    assert numbers_of("test_t5_an_empty_answer") == {5}
    assert numbers_of("test_the_window") == numbers_of("test_tools_t5_") == set()


#: Inputs a text model has no use for.
NO_TEXT = {
    "supports_image_inputs", "supports_image_urls", "supports_pdf_inputs", "supports_audio_inputs",
    "supports_video_inputs", "supports_anthropic_inputs", "supports_image_tool_message",
    "supports_pdf_tool_message",
}  # fmt: skip


def test_t28_the_standard_suites_run_with_every_text_switch_on() -> None:
    """Every boolean switch but those of other inputs, the environment, a second model, details."""
    for kind in (standard.TestChatSLMUnit, standard.TestChatSLMIntegration):
        suite = kind()
        switches = {
            name: getattr(suite, name)
            for name, value in inspect.getmembers(kind, lambda item: isinstance(item, property))
            if name.startswith(("has_", "supports_", "returns_", "enable_"))
        }
        off = {name for name, value in switches.items() if value is False}
        unit = kind is standard.TestChatSLMUnit
        assert off == NO_TEXT | ({"enable_vcr_tests"} if unit else set())
        assert len(switches) > len(off)
        assert not [name for name in vars(kind) if name.startswith("test_")]
    assert standard.TestChatSLMUnit().init_from_env_params[0]
    suite = standard.TestChatSLMIntegration()
    assert suite.supports_model_override
    assert suite.model_override_value not in (None, suite.chat_model_params["model"])
    assert set(suite.supported_usage_metadata_details["stream"]) == {
        "cache_read_input", "reasoning_output",
    }  # fmt: skip
