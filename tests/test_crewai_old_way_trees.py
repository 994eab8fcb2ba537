"""CrewAI's traps of trees, entries and retries: an ordinary listener shows them, ours passes.

Both ways watch the same crews. What goes wrong inside one call is in ``test_crewai_old_way.py``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from conftest import Spans
from crewai import Crew
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallStartedEvent
from crewai_cases import HostedLLM, agent, crew, task, tool
from old_crewai import NestingListener, PlainListener, StackListener

from slm_adapters.calls import ToolCall
from slm_adapters.crewai import CallRecorder


def traces(spans: Spans) -> int:
    return len({span.context.trace_id for span in spans.all()})


def test_t3_a_call_inside_crewai_s_own_flow_has_lost_its_agent(old, spans, recorder):
    """The event names an internal flow as the parent; nobody who skips flows knows it."""
    NestingListener(old.provider)

    def answer() -> str:
        crewai_event_bus.flush()
        return "done"

    crew(HostedLLM(answer)).kickoff()
    crewai_event_bus.flush()
    assert old.parent_name(old.one("llm_call")) is None
    assert spans.parent_name(spans.one("chat")) == "invoke_agent Researcher"
    assert not [span for span in spans.all() if "Executor" in span.name]


def test_t4_a_wrapper_of_kickoff_misses_the_other_entries(spans, recorder, monkeypatch):
    """``akickoff``, ``Agent.kickoff`` and a bare call go past it; the events do not."""
    seen: list[str] = []
    original = Crew.kickoff

    def wrapped(self: Crew, *arguments: Any, **keywords: Any) -> Any:
        seen.append("kickoff")
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Crew, "kickoff", wrapped)
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        crew(HostedLLM()).kickoff()
        asyncio.run(crew(HostedLLM()).akickoff())
        agent(HostedLLM()).kickoff("x")
        HostedLLM(model="bare").call("x")
    assert seen == ["kickoff"]
    inside = sorted(name for name, parent in spans.tree() if parent == "request")
    assert inside == ["chat bare", "invoke_agent Researcher", *["invoke_workflow crew"] * 2]
    assert traces(spans) == 1


def test_t5_two_crews_at_once_become_one_trace(old, spans, recorder):
    """One list of what is open cannot tell two crews apart."""
    StackListener(old.provider)
    together = threading.Barrier(2)

    def answer() -> str:
        crewai_event_bus.flush()
        together.wait(60)
        return "done"

    threads = [threading.Thread(target=crew(HostedLLM(answer)).kickoff) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    crewai_event_bus.flush()
    assert traces(old) == 1
    assert traces(spans) == 2
    assert [parent for _, parent in spans.tree()].count(None) == 2


def test_t6_calls_inside_parallel_tools_are_under_one_of_them(old, spans, recorder):
    """Two tools of one answer run at once, and each asks a model of its own."""
    StackListener(old.provider)
    together = threading.Barrier(2)

    def both_are_there() -> str:
        crewai_event_bus.flush()
        together.wait(60)
        return "done"

    def during() -> None:
        both_are_there()
        HostedLLM(both_are_there, model="inner").call("x")

    asked = [ToolCall(n, "look_up", '{"word": "x"}').to_openai() for n in ("1", "2")]
    crew(HostedLLM(asked, "both"), tools=[tool(during)]).kickoff()
    crewai_event_bus.flush()

    def tools_with_a_call(seen: Spans, tools: str, calls: str) -> int:
        used = {span.context.span_id for span in seen.named(tools)}
        assert len(used) == 2
        return len({call.parent.span_id for call in seen.named(calls) if call.parent} & used)

    assert tools_with_a_call(old, "tool_usage", "llm_call") < 2
    assert tools_with_a_call(spans, "execute_tool", "chat inner") == 2


def test_t11_a_retry_overlaps_the_attempt_it_repeats(old, spans, recorder, monkeypatch):
    """Handlers take their time; an event's own time is when it happened."""
    monkeypatch.setattr("crewai.llms.retry.get_retry_delay_seconds", lambda **_: 0.0)
    both_run, calls = threading.Event(), []

    class Late(PlainListener):
        """Handles an end when the next attempt is already running."""

        def started(self, source: Any, event: Any) -> None:
            super().started(source, event)
            if len(self.open) == 2:
                both_run.set()

        def ended(self, source: Any, event: Any) -> None:
            both_run.wait(30)
            super().ended(source, event)

    Late(old.provider)
    recorder.recorder.hooks.append(calls.append)
    HostedLLM(RuntimeError("too many requests"), "ok").call("x")
    crewai_event_bus.flush()

    def overlap(seen: Spans) -> bool:
        first, later = sorted(seen.named("chat"), key=lambda span: span.start_time)
        return first.end_time > later.start_time

    assert overlap(old)
    assert not overlap(spans)
    assert [call.attempt for call in calls] == [1, 2]


def test_t33_restoring_what_one_saved_throws_others_out(spans):
    """Somebody wrapped ``kickoff`` after us: their wrapper is not ours to remove."""
    heard: list[str] = []
    untouched = Crew.kickoff

    def over(kickoff: Any) -> Any:
        def theirs(self: Crew, *arguments: Any, **keywords: Any) -> Any:
            heard.append("theirs")
            return kickoff(self, *arguments, **keywords)

        return theirs

    def the_old_way() -> Callable[[], None]:
        saved = Crew.kickoff
        Crew.kickoff = lambda self, *a, **k: saved(self, *a, **k)
        return lambda: setattr(Crew, "kickoff", saved)

    for way, wanted in (
        (the_old_way, []),
        (lambda: CallRecorder(tracer_provider=spans.provider).close, ["theirs"]),
    ):
        heard.clear()
        take_away = way()
        Crew.kickoff = over(Crew.kickoff)
        try:
            take_away()
            crew(HostedLLM()).kickoff()
        finally:
            Crew.kickoff = untouched
        assert heard == wanted
    assert spans.all() == []


def test_t35_a_listener_is_set_aside_and_hears_a_replay_again(old, spans, recorder):
    """``scoped_handlers()`` takes it away for a while; ``replay()`` tells it everything twice."""
    PlainListener(old.provider)
    events: list[Any] = []
    with crewai_event_bus.scoped_handlers():
        for kind in (LLMCallStartedEvent, LLMCallCompletedEvent):
            crewai_event_bus.on(kind)(lambda source, event: events.append(event))
        HostedLLM().call("x")
        crewai_event_bus.flush()
    assert len(old.all()) == 0
    assert len(spans.named("chat")) == 1
    for event in sorted(events, key=lambda event: event.timestamp):
        crewai_event_bus.replay(None, event)
        crewai_event_bus.flush()
    assert len(old.all()) == 1, "a call that was not made now"
    assert len(spans.named("chat")) == 1


def test_t38_a_task_s_text_names_its_span(old, spans, recorder):
    """Every order is a name of its own, and a prompt among the names."""
    NestingListener(old.provider)
    made = agent(HostedLLM())
    for order in ("4711", "4712"):
        Crew(agents=[made], tasks=[task(made, None, f"Find order {order}.")]).kickoff()
        crewai_event_bus.flush()
    assert {span.name for span in old.named("task")} == {
        "task Find order 4711.", "task Find order 4712."
    }  # fmt: skip
    assert {span.name for span in spans.named("execute_task")} == {"execute_task"}
