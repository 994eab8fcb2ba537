"""The traps of CrewAI, shown on the old way (a plain event listener) and passed by ours.

The listener is what a careful reader of CrewAI's documentation writes: a span per started event,
ended by its completed or failed event. Each test sees it fail first.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from conftest import Spans
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallStartedEvent
from crewai.llms.base_llm import llm_call_context
from crewai_cases import HostedLLM, SilentLLM, agent, crew, task
from old_crewai import PlainListener
from opentelemetry import trace
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from slm_adapters._crewai import bus
from slm_adapters.crewai import CallRecorder


@pytest.fixture
def old():
    """The old way on its own: its spans and its listener."""
    seen = Spans()
    with crewai_event_bus.scoped_handlers():
        seen.listener = PlainListener(seen.provider)
        yield seen


@pytest.fixture
def recorder(spans):
    with CallRecorder(tracer_provider=spans.provider) as made:
        yield made
        assert len(made._events.scopes) == 0


def test_t1_an_end_handled_before_its_start(old, spans, recorder):
    """Handlers run on a pool: the old way loses the span, ours is made on the spot."""
    old.listener.slow = 0.05
    for _ in range(5):
        HostedLLM().call("x")
    crewai_event_bus.flush()
    assert old.listener.lost
    assert len(spans.named("chat")) == 5
    assert all(span.end_time >= span.start_time for span in spans.all())


def test_t1_a_start_that_is_handled_five_seconds_late_has_the_right_times(spans, monkeypatch):
    """Where listeners must do, the event's own time counts, not the handler's."""

    def refuse(self, name, value):
        if name == "emit":
            raise AttributeError("read-only")
        object.__setattr__(self, name, value)

    monkeypatch.setattr(type(crewai_event_bus), "__setattr__", refuse)
    with CallRecorder(tracer_provider=spans.provider):
        before = time.time_ns()
        crewai_event_bus._ensure_executor_initialized()
        # Nothing is handled while the loop is busy.
        crewai_event_bus._loop.call_soon_threadsafe(time.sleep, 5)
        HostedLLM().call("x")
        after = time.time_ns()
        crewai_event_bus.flush()
        assert time.time_ns() - before > 4_500_000_000, "nothing was late"
    chat = spans.one("chat")
    assert before - 2_000_000 <= chat.start_time <= chat.end_time <= after + 2_000_000


def test_t2_two_hundred_calls_beside_slow_handlers_lose_no_parent(spans, recorder):
    """Other people's handlers are theirs: 200 calls keep their parents."""
    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.on(LLMCallStartedEvent)(lambda source, event: time.sleep(0.001))
        with spans.provider.get_tracer("app").start_as_current_span("request"):
            for _ in range(200):
                HostedLLM().call("x")
        crewai_event_bus.flush()
    chats = spans.named("chat")
    assert len(chats) == 200
    assert {spans.parent_name(chat) for chat in chats} == {"request"}


def test_t7_the_call_s_span_is_current_while_it_runs(old, spans, recorder):
    """A handler on another thread cannot make its span current; the tap can."""
    seen: list[str] = []

    def during() -> str:
        seen.append(getattr(trace.get_current_span(), "name", "none"))
        return "x"

    recorder.close()
    HostedLLM(during).call("x")
    assert seen == ["none"]
    with CallRecorder(tracer_provider=spans.provider):
        HostedLLM(during).call("x")
    assert seen == ["none", "chat hosted"]


class Interrupted(HostedLLM):
    """Starts and is stopped without any end event, as CrewAI's own classes are."""

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        with llm_call_context():
            self._emit_call_started_event(messages)
            raise KeyboardInterrupt


def test_t10_an_interrupted_call_is_ended(old, spans, recorder):
    """The old way keeps the span for ever."""
    with pytest.raises(KeyboardInterrupt):
        Interrupted().call("x")
    crewai_event_bus.flush()
    assert len(old.listener.open) == 1
    assert spans.one("chat").attributes["slm_adapters.outcome"] == "abandoned"


class Waiting(HostedLLM):
    """Its ``acall`` starts and waits for a long time."""

    async def acall(self, messages: Any, *_: Any, **__: Any) -> Any:
        with llm_call_context():
            self._emit_call_started_event(messages)
            await asyncio.sleep(30)


async def test_t9_cancelled_calls_are_ended_one_by_one(old, spans, recorder):
    """150 cancelled calls: the old way has 150 spans open, ours none."""

    async def cancelled() -> None:
        running = asyncio.create_task(Waiting().acall("x"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    for _ in range(150):
        await cancelled()
    await asyncio.to_thread(crewai_event_bus.flush)
    assert len(old.listener.open) == 150
    chats = spans.named("chat")
    assert len(chats) == 150
    assert {chat.attributes["slm_adapters.outcome"] for chat in chats} == {"abandoned"}
    assert len(recorder._events.scopes) == 0


def test_a_model_without_events_is_recorded(old, spans, recorder):
    """A listener cannot know of a call nobody announces."""
    SilentLLM(model="mine").call("x")
    crewai_event_bus.flush()
    assert old.all() == []
    assert len(spans.named("chat")) == 1


def test_t39_the_llm_s_own_counter_is_not_the_call_s_usage(spans, recorder):
    """The old way reads the LLM's counter, so the second call claims both; ours has its own."""
    llm, old = HostedLLM(), []
    for _ in range(2):
        llm.call("x")
        old.append(llm.get_token_usage_summary().prompt_tokens)
    assert old == [11, 22]
    assert [span.attributes["gen_ai.usage.input_tokens"] for span in spans.all()] == [11, 11]


def test_t12_a_logger_in_litellm_callbacks_is_thrown_out_by_crewai(spans, recorder):
    """The documented place is replaced on every call; a recorder of either kind goes on."""
    import litellm
    from crewai import LLM
    from litellm.integrations.custom_logger import CustomLogger

    from slm_adapters.litellm import CallRecorder as LiteLLMRecorder

    class Old(CustomLogger):
        count = 0

        def log_success_event(self, *_: Any, **__: Any) -> None:
            self.count += 1

    old, calls = Old(), []
    litellm.callbacks.append(old)
    with LiteLLMRecorder(tracer_provider=spans.provider, hooks=[calls.append]):
        options = {"mock_response": "fine", "api_key": "none", "callbacks": []}
        llm = LLM(model="gpt-4.1-mini", is_litellm=True, **options)
        assert crew(llm).kickoff().raw == "fine"
        time.sleep(0.3)
    assert old.count == 0
    assert len(spans.named("chat")) == 1
    if old in litellm.callbacks:
        litellm.callbacks.remove(old)


# Exporters, providers, names


class Blocked(SpanExporter):
    """Blocks until it is released, or fails at once."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.release.wait(20)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self.release.set()


class Failing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionError("down")

    def shutdown(self) -> None: ...


def test_t31_an_exporter_that_blocks_adds_no_latency():
    """A blocked batch exporter is the exporter's business."""
    from opentelemetry.sdk.trace import TracerProvider

    exporter, provider = Blocked(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1))
    with CallRecorder(tracer_provider=provider):
        started = time.perf_counter()
        assert crew(HostedLLM("right")).kickoff().raw == "right"
        assert time.perf_counter() - started < 10
    exporter.release.set()
    provider.shutdown()


def test_t31_an_exporter_that_raises_harms_nobody():
    """Not even on the caller's thread."""
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Failing()))
    with CallRecorder(tracer_provider=provider):
        assert crew(HostedLLM("right")).kickoff().raw == "right"


def test_t30_without_a_provider_an_event_costs_microseconds_and_no_thread():
    """The best of many rounds, so that a busy machine does not decide."""
    from slm_adapters._crewai.bus import Moment

    events: list[tuple[Any, Any]] = []
    original = crewai_event_bus.emit

    def note(source: Any, event: Any) -> Any:
        events.append((source, event))
        return original(source, event)

    crewai_event_bus.emit = note
    HostedLLM().call("x")
    del crewai_event_bus.emit
    assert len(events) == 2
    threads = threading.active_count()
    from opentelemetry import context

    with CallRecorder():
        best = float("inf")
        for _ in range(200):
            started = time.perf_counter()
            for source, event in events:
                bus._show(source, event, Moment(time.time_ns(), context.get_current()))
            best = min(best, time.perf_counter() - started)
    assert best / len(events) < 60e-6
    assert threading.active_count() == threads


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
    from crewai import Crew

    made = agent(HostedLLM())
    Crew(agents=[made], tasks=[task(made, None, "Find the order of Mr Smith. " * 20)]).kickoff()
    assert {span.name for span in spans.all()} == {
        "invoke_workflow crew",
        "execute_task",
        "invoke_agent Researcher",
        "chat hosted",
    }
