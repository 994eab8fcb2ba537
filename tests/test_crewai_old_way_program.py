"""CrewAI's traps that reach the whole program: failures, exporters, providers, signals, cost.

Where a listener or CrewAI's own telemetry shows the trap it is run first. What a listener cannot
get wrong is asserted of ours alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Spans
from crewai import Crew
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallStartedEvent
from crewai_cases import HostedLLM, agent, crew, task
from floor import bare_span, function_calls
from old_crewai import PlainListener
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from slm_adapters._crewai import bus, scopes
from slm_adapters._crewai.bus import Moment
from slm_adapters.crewai import CallRecorder

# Failures and what never ends


def test_t29_what_never_ends_is_kept_for_ever(old, spans, monkeypatch):
    """A listener's table only grows; ours lets the oldest go."""
    import contextvars

    monkeypatch.setattr(scopes, "LIVE_LIMIT", 5)
    listener = PlainListener(old.provider)
    with CallRecorder(tracer_provider=spans.provider) as recorder:
        for number in range(50):
            event = LLMCallStartedEvent(model="m", call_id=str(number), messages="x")
            event.parent_event_id = "unknown"
            contextvars.copy_context().run(crewai_event_bus.emit, None, event)
        crewai_event_bus.flush()
        assert len(listener.open) == 50
        assert len(recorder._events.scopes) == 5


def test_t34_a_wrapper_s_failure_is_the_crew_s(spans, monkeypatch):
    """What observes by wrapping fails what it wraps, unless it takes care."""

    def told(result: Any) -> None:
        raise RuntimeError("the observer's own fault")

    original = Crew.kickoff

    def wrapped(self: Crew, *arguments: Any, **keywords: Any) -> Any:
        result = original(self, *arguments, **keywords)
        told(result)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Crew, "kickoff", wrapped)
        with pytest.raises(RuntimeError, match="observer"):
            crew(HostedLLM("right")).kickoff()
    with CallRecorder(tracer_provider=spans.provider, hooks=[told]):
        assert crew(HostedLLM("right")).kickoff().raw == "right"
    assert len(spans.named("chat")) == 1


# CrewAI's own telemetry, as it is when nobody switches it off

PROGRAM = """
import json, os, signal, sys, threading
sys.path.insert(0, "tests")
def changed():
    return [s.name for s in before if signal.getsignal(s) != before[s]]
def threads():
    return {t.name for t in threading.enumerate()}
before = {s: signal.getsignal(s) for s in signal.valid_signals()}
running = threads()
import crewai
theirs = {"signals": changed(), "threads": sorted(threads() - running)}
before = {s: signal.getsignal(s) for s in signal.valid_signals()}
running = threads()
import slm_adapters.crewai
slm_adapters.crewai.instrument()
ours = {"signals": changed(), "threads": sorted(threads() - running)}
slm_adapters.crewai.uninstrument()
print("FOUND", json.dumps([theirs, ours]), flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def after_import():
    """Signals and threads after importing CrewAI, and after instrumenting it on top."""
    off = ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={name: value for name, value in os.environ.items() if name not in off},
        capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stderr[-2000:]
    return json.loads(found[0].removeprefix("FOUND "))


def test_t40_an_import_takes_the_signals(after_import):
    """CrewAI's own telemetry handles five signals from its import on."""
    theirs, ours = after_import
    assert "SIGINT" in theirs["signals"]
    assert ours["signals"] == []


def test_t30_an_import_starts_a_thread(after_import):
    """A batch processor that nobody asked for; ours starts nothing."""
    theirs, ours = after_import
    assert any("Otel" in name for name in theirs["threads"])
    assert ours["threads"] == []


# Exporters, providers, names, cost


class Blocked(SpanExporter):
    """Blocks until it is released, or fails at once."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.release.wait(60)
        self.release.set()
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.release.set()


class Failing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionError("down")

    def shutdown(self) -> None: ...


def test_t31_an_exporter_that_blocks_adds_no_latency():
    """A blocked batch exporter is the exporter's business."""
    exporter, provider = Blocked(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
    with CallRecorder(tracer_provider=provider):
        assert crew(HostedLLM("right")).kickoff().raw == "right"
    assert not exporter.release.is_set(), "the crew waited for the exporter"
    exporter.release.set()
    provider.shutdown()


def test_t31_an_exporter_that_raises_harms_nobody():
    """Not even on the caller's thread."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Failing()))
    with CallRecorder(tracer_provider=provider):
        assert crew(HostedLLM("right")).kickoff().raw == "right"


@pytest.mark.parametrize(("with_provider", "spans_worth"), [(False, 1.25), (True, 2.5)])
def test_t30_an_event_costs_little_and_no_thread(capsys, with_provider, spans_worth):
    """A call's two events, in function calls: 20 us an event are about one bare span a call.

    With a provider it is 50 us; that a call has a span of its own is in it.
    """
    events: list[tuple[Any, Any]] = []
    original = crewai_event_bus.emit

    def note(source: Any, event: Any) -> Any:
        events.append((source, event))
        return original(source, event)

    crewai_event_bus.emit = note
    HostedLLM().call("x")
    del crewai_event_bus.emit
    assert len(events) == 2
    crewai_event_bus.flush()

    def both() -> None:
        for source, event in events:
            bus._show(source, event, Moment(time.time_ns(), context.get_current()))

    threads = threading.active_count()
    capsys.readouterr()
    with CallRecorder(tracer_provider=TracerProvider() if with_provider else None):
        assert function_calls(both) < spans_worth * bare_span()
    assert threading.active_count() == threads
    assert capsys.readouterr() == ("", "")


def test_t32_the_global_provider_is_left_alone_and_ours_apart(spans):
    """Two recorders with a provider each, at once and on threads: no span goes astray."""
    before = trace.get_tracer_provider()
    other = Spans()
    with (
        CallRecorder(tracer_provider=spans.provider),
        CallRecorder(tracer_provider=other.provider),
    ):
        crew(HostedLLM(), HostedLLM()).kickoff()
    assert trace.get_tracer_provider() is before
    assert set(spans.tree()) == set(other.tree())
    ours, theirs = ({s.context.trace_id for s in seen.all()} for seen in (spans, other))
    assert len(ours) == len(theirs) == 1


def test_t37_no_conversation_id_is_made_up(spans, recorder):
    """CrewAI has none: run ids, task ids and fingerprints are not conversations."""
    crew(HostedLLM()).kickoff()
    agent(HostedLLM()).kickoff("x")
    for span in spans.all():
        assert "gen_ai.conversation.id" not in span.attributes


def test_t38_a_long_task_names_no_span(spans, recorder):
    """Its text is a prompt; the agent's role is its name."""
    made = agent(HostedLLM())
    Crew(agents=[made], tasks=[task(made, None, "Find the order of Mr Smith. " * 20)]).kickoff()
    assert {span.name for span in spans.all()} == {
        "invoke_workflow crew",
        "execute_task",
        "invoke_agent Researcher",
        "chat hosted",
    }
