"""``instrument()``, recorders side by side, and versions of CrewAI we do not know."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
from conftest import Spans
from crewai.events.event_bus import crewai_event_bus
from crewai_cases import WHOLE, HostedLLM, SilentLLM, asks, busy_bus, crew, tool, untappable
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slm_adapters._crewai import bus, guards, listening, replacing
from slm_adapters.calls import Call
from slm_adapters.crewai import SLM, CallRecorder, instrument, traced, uninstrument
from slm_adapters.telemetry import harmless
from slm_adapters.testing import ScriptedModel


@pytest.fixture(autouse=True)
def _uninstrumented():
    yield
    uninstrument()
    assert "emit" not in vars(crewai_event_bus)
    assert bus.sinks() == ()


@pytest.fixture
def told(caplog, monkeypatch):
    """What is logged, as if nothing had been logged before."""
    monkeypatch.setattr(harmless, "_counts", type(harmless._counts)())
    with caplog.at_level(logging.WARNING, logger="slm_adapters"):
        yield lambda: [r.getMessage() for r in caplog.records if r.name == "slm_adapters"]


def test_t17_instrument_twice_is_one_recorder_and_one_span(spans, told):
    """The same recorder comes back; other options are refused aloud."""
    first = instrument(tracer_provider=spans.provider, app="desk")
    assert instrument() is first
    assert told() == []
    assert instrument(app="other") is first
    assert "uninstrument() first" in told()[0]
    crew(HostedLLM()).kickoff()
    assert set(spans.tree()) == WHOLE
    assert len(spans.all()) == 4


def test_instrument_refuses_what_a_recorder_does_not_take():
    """A misspelt option is an error, and nothing is left behind."""
    with pytest.raises(TypeError, match="stroe"):
        instrument(stroe="calls.db")
    assert bus.sinks() == ()


def test_t33_uninstrument_restores_everything(spans):
    """The bus, the classes and the modules are what they were; twice does no harm."""
    holders = [replacing.holder_of(owner, name) for owner, name, _ in guards._WATCHED]
    names = [name for _, name, _ in guards._WATCHED]
    before = [vars(holder)[name] for holder, name in zip(holders, names, strict=True)]
    uninstrument()
    instrument(tracer_provider=spans.provider)
    during = [vars(holder)[name] for holder, name in zip(holders, names, strict=True)]
    assert not any(a is b for a, b in zip(before, during, strict=True))
    uninstrument()
    uninstrument()
    after = [vars(holder)[name] for holder, name in zip(holders, names, strict=True)]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert "emit" not in vars(crewai_event_bus)
    crew(HostedLLM()).kickoff()
    assert spans.all() == []


def test_t33_instrumenting_again_after_uninstrument_works(spans):
    """On, off, on: one span per call."""
    for _ in range(3):
        instrument(tracer_provider=spans.provider)
        HostedLLM().call("x")
        uninstrument()
        HostedLLM().call("x")
    assert [span.name for span in spans.all()] == ["chat hosted"] * 3


def test_t33_a_first_event_that_listeners_get_late_is_no_sign_of_a_tap_passed_by(spans, told):
    """CrewAI's threads may come to a recorder's first event when the next recorder is there."""
    with busy_bus():
        for _ in range(3):
            instrument(tracer_provider=spans.provider)
            HostedLLM().call("x")
            uninstrument()
        instrument(tracer_provider=spans.provider)
    HostedLLM().call("x")
    crewai_event_bus.flush()
    assert len(spans.all()) == 4
    assert not listening.active()
    assert told() == []


def test_t35_a_replay_before_the_first_event_is_no_sign_of_a_tap_passed_by(spans, told):
    """A resumed run begins with events of the one before: no spans of this one, and none twice."""
    from crewai.events.types.llm_events import LLMCallStartedEvent

    with CallRecorder(tracer_provider=spans.provider):
        crewai_event_bus.replay(None, LLMCallStartedEvent(model="m", call_id="1", messages="x"))
        crewai_event_bus.flush()
        HostedLLM().call("x")
        crewai_event_bus.flush()
        assert not listening.active()
    assert [span.name for span in spans.all()] == ["chat hosted"]
    assert told() == []


@pytest.mark.parametrize("first", ["instrument", "recorder"])
def test_t17_instrument_beside_a_recorder_is_one_span_and_a_record_each(spans, first):
    """Whichever came first makes the span; both get the call, with the same span id."""
    calls: dict[str, list[Call]] = {"instrument": [], "recorder": []}
    options = {"tracer_provider": spans.provider}
    if first == "instrument":
        instrument(hooks=[calls["instrument"].append], **options)
    with CallRecorder(hooks=[calls["recorder"].append], **options):
        if first == "recorder":
            instrument(hooks=[calls["instrument"].append], **options)
        crew(HostedLLM()).kickoff()
        SilentLLM(model="mine").call("x")
    assert set(spans.tree()) == WHOLE | {("chat mine", None)}
    assert len(spans.all()) == 5
    assert [len(made) for made in calls.values()] == [2, 2]
    ids = {(made[0].trace_id, made[0].span_id) for made in calls.values()}
    chat = spans.one("chat hosted").context
    assert ids == {(f"{chat.trace_id:032x}", f"{chat.span_id:016x}")}


def test_t17_two_destinations_have_a_span_each(spans):
    """A recorder with a provider of its own is not silenced by another."""
    other = Spans()
    instrument(tracer_provider=spans.provider)
    with CallRecorder(tracer_provider=other.provider):
        crew(HostedLLM()).kickoff()
    assert set(spans.tree()) == set(other.tree()) == WHOLE


def test_t17_the_one_that_stays_takes_over(spans):
    """Closing the recorder that made the spans leaves the other one making them."""
    first = CallRecorder(tracer_provider=spans.provider)
    instrument(tracer_provider=spans.provider)
    HostedLLM(model="one").call("x")
    first.close()
    HostedLLM(model="two").call("x")
    assert [span.name for span in spans.all()] == ["chat one", "chat two"]


def test_t17_a_traced_silent_llm_beside_a_recorder_is_one_span(spans):
    """Also where the model emits no events."""
    calls: list[Call] = []
    instrument(tracer_provider=spans.provider)
    llm = traced(SilentLLM(model="mine"), tracer_provider=spans.provider, hooks=[calls.append])
    llm.call("x")
    assert len(spans.all()) == len(calls) == 1


def test_t33_a_forked_process_goes_on_recording():
    """The child has its own spans, the parent is not disturbed."""
    program = """
import os, sys
sys.path[:0] = [os.environ["TESTS"]]
import conftest
from crewai_cases import HostedLLM
from slm_adapters.crewai import instrument
spans = conftest.Spans()
instrument(tracer_provider=spans.provider)
HostedLLM().call("x")
child = os.fork()
HostedLLM().call("y")
if child == 0:
    os._exit(0 if len(spans.all()) == 2 else 3)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), len(spans.all()))
sys.stdout.flush()
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"TESTS": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split()[-2:] == ["0", "2"], done.stdout + done.stderr[-2000:]


# Versions of CrewAI we do not know


def test_a_bus_that_passes_our_tap_by_is_listened_to_with_one_warning(spans, told):
    """As if CrewAI no longer looked at the instance: the first event shows it."""
    with CallRecorder(tracer_provider=spans.provider):
        del crewai_event_bus.emit
        for _ in range(2):
            crew(HostedLLM(asks(), "ok"), tools=[tool()]).kickoff()
            crewai_event_bus.flush()
    assert len(spans.named("invoke_workflow")) == 2
    assert set(spans.tree()) == WHOLE | {("execute_tool look_up", "invoke_agent Researcher")}
    assert len(told()) == 1
    assert "listeners" in told()[0]
    assert not listening.active()


def test_a_tap_that_works_leaves_no_listener_behind(spans, told):
    """The watch on the first event ends with it."""
    with CallRecorder(tracer_provider=spans.provider):
        crew(HostedLLM()).kickoff()
        crewai_event_bus.flush()
        assert not listening.active()
        assert listening._watchers == []
    assert told() == []


def test_the_watch_does_not_change_what_crewai_waits_for(spans):
    """A user's listener of the first event is done when the bus says so."""
    import time

    from crewai.events.types.llm_events import LLMCallStartedEvent

    done: list[str] = []
    with crewai_event_bus.scoped_handlers(), CallRecorder(tracer_provider=spans.provider):

        def slow(source, event) -> None:
            time.sleep(0.1)
            done.append(event.type)

        crewai_event_bus.on(LLMCallStartedEvent)(slow)
        HostedLLM().call("x")
        crewai_event_bus.flush()
        assert done == ["llm_call_started"]


def test_with_listeners_our_own_and_silent_models_are_still_one_span_each(spans, told, monkeypatch):
    """The local model's facts are found by the listener; a silent model is noticed."""
    untappable(monkeypatch)
    with CallRecorder(tracer_provider=spans.provider):
        crew(SLM(ScriptedModel(["one two three"]))).kickoff()
        SilentLLM(model="mine").call("x")
        HostedLLM().call("x")
        crewai_event_bus.flush()
    chats = {span.name: span for span in spans.named("chat")}
    assert sorted(span.name for span in spans.named("chat")) == [
        "chat hosted", "chat mine", "chat scripted",
    ]  # fmt: skip
    local = chats["chat scripted"]
    assert spans.parent_name(local) == "invoke_agent Researcher"
    assert local.attributes["gen_ai.usage.output_tokens"] == 3
    assert local.attributes["gen_ai.provider.name"] == "slm_adapters"
    assert len(told()) == 1


def test_missing_places_cost_one_warning_that_names_them(spans, told, monkeypatch):
    """Everything that has events is recorded all the same."""
    gone = (
        ("crewai.llms.base_llm", "retry_differently", guards._watched_loop),
        ("crewai.gone:Crew", "kickoff", guards._watched_entry),
        ("crewai:Crew", "fields", guards._watched_entry),
    )
    monkeypatch.setattr(guards, "_WATCHED", (*guards._WATCHED[2:], *gone))
    with CallRecorder(tracer_provider=spans.provider):
        crew(HostedLLM()).kickoff()
    assert set(spans.tree()) == WHOLE
    (warning,) = told()
    assert "base_llm.retry_differently, crewai.gone:Crew.kickoff, crewai:Crew.fields" in warning


def test_without_crewai_s_table_of_events_ours_is_used():
    """A version that moved the table: the same tree from our copy of 1.15's."""
    program = """
import os, sys, json
sys.path[:0] = [os.environ["TESTS"]]
import conftest, crewai
from crewai.events import event_context
del event_context.VALID_EVENT_PAIRS
from crewai_cases import HostedLLM, crew
from slm_adapters.crewai import CallRecorder
spans = conftest.Spans()
with CallRecorder(tracer_provider=spans.provider):
    crew(HostedLLM()).kickoff()
print("TREE", json.dumps(sorted(spans.tree(), key=str)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"TESTS": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    printed = [line for line in done.stdout.splitlines() if line.startswith("TREE ")]
    assert printed, done.stderr[-2000:]
    assert {tuple(pair) for pair in json.loads(printed[0][5:])} == WHOLE


def test_our_copy_of_the_table_agrees_with_this_version():
    """A new kind of end shows up here before it shows up as an open span."""
    from crewai.events.event_context import VALID_EVENT_PAIRS

    from slm_adapters._crewai import spans, tables

    ours = tables._PAIRS_OF_1_15
    assert ours.items() <= VALID_EVENT_PAIRS.items()
    missing = set(spans.OPENERS) - set(ours.values())
    assert missing == set()


# CrewAI's own tracing


def test_crewai_s_own_trace_session_and_ours_both_work(spans):
    """Two observers of one run: each has its whole tree, and ours does not get into theirs."""
    from crewai.telemetry.tracing.session import telemetry_session

    theirs = InMemorySpanExporter()
    with CallRecorder(tracer_provider=spans.provider):
        with telemetry_session("run-1", "desk", exporters=[theirs]):
            crew(HostedLLM(asks(), "ok"), tools=[tool()]).kickoff()
        crewai_event_bus.flush()
    assert set(spans.tree()) == WHOLE | {("execute_tool look_up", "invoke_agent Researcher")}
    assert len({span.context.trace_id for span in spans.all()}) == 1
    names = [span.name for span in theirs.get_finished_spans()]
    assert sum("llm" in name for name in names) == 2
    with CallRecorder(tracer_provider=spans.provider):
        HostedLLM().call("x")
    assert len(spans.named("chat")) == 3
