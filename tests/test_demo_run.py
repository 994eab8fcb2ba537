"""The whole demo, run over a few tickets with both real frameworks and a scripted small model."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest
from otlp_receiver import attributes, http_receiver
from rich.console import Console

from slm_adapters import CallStore
from slm_adapters.calls import ToolCall
from slm_adapters.demo.command import show_demo
from slm_adapters.demo.processes import side_by_side
from slm_adapters.demo.quiet import quiet
from slm_adapters.demo.report import SWAPPED
from slm_adapters.demo.roles import REPLY, TRIAGE
from slm_adapters.demo.running import run_demo
from slm_adapters.demo.settings import DemoError, Settings, tickets_for
from slm_adapters.demo.standin import StandIn
from slm_adapters.demo.tickets import generate, write
from slm_adapters.errors import InvalidReplyError, RequestError
from slm_adapters.testing import ScriptedModel

COUNT = 6
TICKETS = generate(COUNT)


def scripted_slm() -> ScriptedModel:
    """Right, but for the second ticket's triage (wrong) and the third's (no usable answer)."""
    script = StandIn(TICKETS)

    def answer(request) -> str | tuple[ToolCall, ...] | Exception:
        prompt = "\n".join(message.text for message in request.messages)
        triage = prompt.startswith(f"You are {TRIAGE.name}.")
        if triage and TICKETS[1].text.strip() in prompt:
            return '{"category":"nonsense"}'
        if triage and TICKETS[2].text.strip() in prompt:
            return InvalidReplyError("half a tool call.")
        message = script.answer(request.messages)
        return message.tool_calls or message.text

    return ScriptedModel(answer, name="tiny")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(report, what was printed, output folder, what an OTLP backend received)."""
    folder = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with http_receiver() as received:
        settings = Settings(
            output=folder, count=COUNT, slm=scripted_slm(), quantization="none",
            otlp=received.endpoint,
        )  # fmt: skip
        report = show_demo(settings, Console(file=printed, width=100))
    return report, printed.getvalue(), folder, received


def row(report, flow: str, role: str, stage: str):
    """One row of the report's table."""
    (found,) = [r for r in report.rows if (r.flow, r.role, r.stage) == (flow, role, stage)]
    return found


@pytest.mark.parametrize("flow", ["crewai", "langgraph"])
def test_the_same_errors_are_found_in_both_frameworks(ran, flow) -> None:
    """One wrong triage of six; the unusable one was saved by the fallback, and said so."""
    report, *_ = ran
    for role in (*SWAPPED, REPLY.name):
        assert row(report, flow, role, "before").correct.right == COUNT
        assert not row(report, flow, role, "before").local
    triage = row(report, flow, TRIAGE.name, "after")
    assert (triage.correct.right, triage.correct.n) == (COUNT - 1, COUNT)
    assert triage.stats.models == ("tiny",)
    assert triage.stats.calls == COUNT
    assert triage.stats.fallbacks == (("invalid_reply", 1),)
    assert row(report, flow, TRIAGE.name, "fallback").stats.models == ("stand-in",)
    assert row(report, flow, REPLY.name, "after").stats.models == ("stand-in",)
    assert report.failed == {}


def test_the_report_is_recomputable_from_the_store(ran) -> None:
    """The printed shares follow from the calls at rest."""
    report, _, folder, _ = ran
    with CallStore(folder / "demo-calls.db") as store:
        calls = list(store)
    assert {call.app for call in calls} == {"slm-adapters demo"}
    orders = sum(ticket.order is not None for ticket in TICKETS)
    per_flow = COUNT + (COUNT + orders) + COUNT
    for moved in report.moved:
        flow = [c for c in calls if c.attributes["flow"] == moved.flow]
        before = [c for c in flow if c.attributes["stage"] == "before"]
        assert len(before) == per_flow
        assert moved.llm_tokens_before == sum(c.usage.total_tokens for c in before)
        assert (moved.slm_calls, moved.calls) == (2 * COUNT + orders - 1, per_flow)
    assert len(calls) == 4 * per_flow + 2  # two fallbacks asked twice


@pytest.mark.parametrize(
    ("flow", "root", "parents"),
    [
        ("crewai", "invoke_workflow Support desk", 2),
        ("langgraph", "invoke_workflow Support desk", 1),
    ],
)
def test_one_ticket_is_shown_as_one_tree(ran, flow, root, parents) -> None:
    """A single root with the three roles in order, the model's and the tool's spans inside."""
    report, *_ = ran
    (tree,) = report.traces[flow]
    assert tree.name == root
    level = tree.children
    for _ in range(parents - 1):
        level = [child for node in level for child in node.children]
    assert len(level) == 3
    triage, lookup, reply = level
    assert [child.name for child in triage.children] == ["chat tiny"]
    tool = ["chat tiny", "execute_tool lookup_order", "chat tiny"]
    assert [child.name for child in lookup.children] == tool
    assert [child.name for child in reply.children] == ["chat stand-in"]
    assert "tokens in" in triage.children[0].details[0]


def test_the_terminal_shows_tables_trees_and_files_and_no_framework(ran) -> None:
    """Everything a reader needs; nothing that CrewAI or LangChain print by themselves."""
    report, printed, folder, _ = ran
    for words in ("CrewAI", "LangGraph", "5/6 83.3 %", "fell back 1 (invalid_reply 1)",
                  "stand-in", "no model's latency", "execute_tool lookup_order",
                  "peak memory", "report.html", "moved"):  # fmt: skip
        assert words in printed
    for noise in ("Crew Execution", "Traceback", "Using an approximate", "WARNING", "Tracing"):
        assert noise not in printed
    assert report.peak_mib is None or report.peak_mib > 10
    assert {path.name for path in folder.iterdir()} >= {
        "report.html", "demo-calls.db", "demo.log", "tickets",
    }  # fmt: skip


def test_examples_show_wrong_answers_too(ran) -> None:
    """The wrong triage is among the examples, with what was expected."""
    report, *_ = ran
    wrong = [example for example in report.examples if not example.right]
    assert [example.ticket.id for example in wrong] == [TICKETS[1].id]
    triage = wrong[0].answers[0]
    assert triage.problem == "not the expected fields"
    assert '"category"' in triage.expected


def test_spans_reach_an_otlp_backend_without_content(ran) -> None:
    """All stages are exported, with their tokens; no ticket text is on any span."""
    *_, received = ran
    spans = received.spans()
    chats = [attributes(span) for span in spans if span.name.startswith("chat ")]
    orders = sum(ticket.order is not None for ticket in TICKETS)
    assert len(chats) == 4 * (3 * COUNT + orders) + 2
    assert all("gen_ai.usage.input_tokens" in a for a in chats if not _fell_back(a))
    assert sum(_fell_back(a) for a in chats) == 2
    assert b"Subject:" not in b"".join(received.raw)
    assert received.resource_attributes()["service.name"] == "support-desk"


def _fell_back(span: dict[str, object]) -> bool:
    return "slm_adapters.fallback.reason" in span


def test_a_second_run_does_not_mix_with_the_first(tmp_path) -> None:
    """The store of an earlier run is replaced, and a smaller one can run on the same folder."""
    for count in (3, 2):
        settings = Settings(
            output=tmp_path, count=count, flows=("langgraph",), slm=scripted_slm(),
            quantization="none", workers=1,
        )  # fmt: skip
        report = run_demo(settings, NoProgress())
        assert report.tickets == count
        assert row(report, "langgraph", TRIAGE.name, "before").stats.calls == count


class NoProgress:
    """Progress that nobody watches."""

    def start(self, flow: str, title: str, total: int) -> None: ...

    def advance(self, flow: str) -> None: ...

    def warn(self, text: str) -> None: ...


def test_a_desk_that_fails_on_the_first_tickets_is_given_up(tmp_path) -> None:
    """An error of the SLM without a way out costs three tickets, not all."""
    slm = ScriptedModel(lambda request: ValueError("broken weights"), name="broken")
    settings = Settings(output=tmp_path, count=20, flows=("langgraph",), slm=slm,
                        quantization="none")  # fmt: skip
    with pytest.raises(DemoError, match=r"failed on each of the first tickets \(ValueError\)"):
        run_demo(settings, NoProgress())
    with CallStore(tmp_path / "demo-calls.db") as store:
        assert sum(call.attributes["stage"] == "after" for call in store) == 3


def test_an_endpoint_that_is_down_costs_one_warning(tmp_path, monkeypatch) -> None:
    """The demo goes on and says once that nobody takes its spans."""
    from slm_adapters.telemetry import harmless

    monkeypatch.setattr(harmless, "_counts", type(harmless._counts)())
    printed = io.StringIO()
    settings = Settings(
        output=tmp_path, count=2, flows=("langgraph",), slm=scripted_slm(), quantization="none",
        otlp="http://127.0.0.1:9",
    )  # fmt: skip
    show_demo(settings, Console(file=printed, width=200))
    assert printed.getvalue().count("no OTLP backend takes spans") == 1
    assert "report.html" in printed.getvalue()


def test_tickets_are_read_from_a_folder_of_ones_own(tmp_path) -> None:
    """A folder with tickets is read and left as it is; an empty or new one is filled."""
    own = generate(5, seed=7)
    write(tmp_path / "own", own)
    read, seed = tickets_for(Settings(output=tmp_path, folder=tmp_path / "own", count=3))
    assert (read, seed) == (own[:3], None)
    (tmp_path / "empty").mkdir()
    made, seed = tickets_for(Settings(output=tmp_path, folder=tmp_path / "empty", count=3, seed=4))
    assert (made, seed) == (generate(3, seed=4), 4)
    assert len(list((tmp_path / "empty").glob("*.txt"))) == 3


@pytest.mark.parametrize("truth", [None, "", "not json\n", '{"id": "x"}\n'])
def test_a_folder_without_tickets_is_refused(tmp_path, truth) -> None:
    """Somebody's folder without, with an empty or with a broken truth file is not touched."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    if truth is not None:
        (folder / "truth.jsonl").write_text(truth)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(RequestError, match="holds no tickets"):
        tickets_for(Settings(output=tmp_path, folder=folder))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_quiet_puts_everything_back(tmp_path) -> None:
    """Streams, log handlers, levels and environment are afterwards what they were before."""
    root = logging.getLogger()
    state = (sys.stdout, sys.stderr, list(root.handlers), root.level, dict(os.environ))
    warned: list[str] = []
    with quiet(tmp_path / "log", warned.append):
        print("printed")
        logging.getLogger("crewai").warning("logged")
        logging.getLogger("slm_adapters").warning("ours")
        assert os.environ["CREWAI_STORAGE_DIR"]
    assert (sys.stdout, sys.stderr, list(root.handlers), root.level, dict(os.environ)) == state
    log = (tmp_path / "log").read_text()
    assert "printed" in log
    assert "logged" in log
    assert warned == ["ours"]


class _Dies:
    """Ends the process that unpickles it, as the kernel does when memory runs out."""

    def __reduce__(self):
        return os._exit, (9,)


def test_processes_side_by_side_report_what_went_wrong(tmp_path) -> None:
    """A child's wrong input is the parent's; a child that vanished is not waited for."""
    both = {"output": tmp_path, "count": 1, "slm": "no-such-model-anywhere"}
    with pytest.raises(RequestError, match=r"no-such-model-anywhere|no-such-llm"):
        side_by_side(Settings(**both, llm="no-such-llm"), TICKETS[:1], NoProgress())
    settings = Settings(output=tmp_path, slm=_Dies())
    with pytest.raises(DemoError, match=r"died \(exit code 9\)"):
        side_by_side(settings, TICKETS[:1], NoProgress())
