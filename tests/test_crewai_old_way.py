"""The traps of CrewAI, shown on the old way (a plain event listener) and passed by ours.

The listener is what a careful reader of CrewAI's documentation writes: a span per started event,
ended by its completed or failed event. Each test sees it fail first.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from crewai.events.event_bus import crewai_event_bus
from crewai.llms.base_llm import llm_call_context
from crewai_cases import HostedLLM, SilentLLM, busy_bus, crew, untappable
from old_crewai import PlainListener
from opentelemetry import trace

from slm_adapters.crewai import CallRecorder


@pytest.fixture
def old(old):
    """The old way with its listener."""
    old.listener = PlainListener(old.provider)
    return old


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
    untappable(monkeypatch)
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


def test_t2_two_hundred_calls_do_not_wait_for_the_handlers_of_others(old, spans, recorder):
    """Every thread of the bus is blocked: the old way has nothing yet, ours all 200 calls."""
    with busy_bus():
        with spans.provider.get_tracer("app").start_as_current_span("request"):
            for _ in range(200):
                HostedLLM().call("x")
        chats = spans.named("chat")
        assert len(old.all()) == 0
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
    assert spans.one("chat").attributes["error.type"] == "KeyboardInterrupt"


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
    kinds = {chat.attributes["error.type"] for chat in chats}
    assert kinds == {"asyncio.exceptions.CancelledError"}
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
