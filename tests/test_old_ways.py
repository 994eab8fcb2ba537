"""LangChain's and LiteLLM's traps, shown on the old way and passed by ours.

The old way is what a careful reader of their documentation writes: a span per start callback,
ended by its end or error callback. Each test sees it fail first. CrewAI's are in
``test_crewai_old_way.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import litellm
import pytest
from conftest import Spans, all_dropped, until
from langchain_models import NamelessChat
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_llm import CustomLLM
from old_langchain import Hosted, PlainHandler
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import slm_adapters.litellm
from slm_adapters.langchain import CallRecorder


class AttachingHandler(PlainHandler):
    """The same, with the span made current between its callbacks."""

    run_inline = False

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs: Any) -> None:
        span = self.tracer.start_span("chat")
        token = otel_context.attach(trace.set_span_in_context(span))
        self.open[run_id] = span, token

    def on_llm_end(self, response, *, run_id, **kwargs: Any) -> None:
        span, token = self.open.pop(run_id)
        otel_context.detach(token)
        span.end()


@pytest.fixture
def old() -> Spans:
    seen = Spans()
    seen.handler = PlainHandler(seen.provider)
    return seen


@pytest.fixture
def both(old, spans) -> dict[str, Any]:
    """Both ways at once, on the same calls."""
    return {"callbacks": [old.handler, CallRecorder(tracer_provider=spans.provider)]}


def test_t7_the_model_s_own_spans_nest(old, spans) -> None:
    """A callback cannot make its span current for the code that asks the model."""

    def asking(provider: Any) -> Hosted:
        class Asking(Hosted):
            def _generate(self, *args: Any, **kwargs: Any) -> Any:
                provider.get_tracer("http").start_span("POST").end()
                return super()._generate(*args, **kwargs)

        return Asking()

    asking(old.provider).invoke("q", {"callbacks": [old.handler]})
    asking(spans.provider).invoke(
        "q", {"callbacks": [CallRecorder(tracer_provider=spans.provider)]}
    )
    assert old.parent_name(old.one("POST")) is None
    assert spans.parent_name(spans.one("POST")) == "chat hosted-1"


async def test_t8_a_context_attached_in_a_callback_is_never_given_back(caplog, spans) -> None:
    """Asynchronous managers run handlers elsewhere: the token belongs to another context."""
    seen = Spans()
    await Hosted().ainvoke("q", {"callbacks": [AttachingHandler(seen.provider)]})
    assert "Failed to detach context" in caplog.text
    caplog.clear()
    await Hosted().ainvoke("q", {"callbacks": [CallRecorder(tracer_provider=spans.provider)]})
    assert caplog.text == ""
    assert len(spans.named("chat")) == 1


def test_t17_two_registrations_are_two_spans(old, spans) -> None:
    """One handler at the model and one at the call."""
    handlers = [PlainHandler(old.provider), PlainHandler(old.provider)]
    recorders = [CallRecorder(tracer_provider=spans.provider) for _ in range(2)]
    for first, second in (handlers, recorders):
        Hosted(callbacks=[first]).invoke("q", {"callbacks": [second]})
    assert len(old.named("chat")) == 2
    assert len(spans.named("chat")) == 1


def test_t18_a_stream_closed_early_is_called_an_error(old, spans, both) -> None:
    """LangChain reports the closing as an error."""
    stream = Hosted(replies=["one two three"]).stream("q", both)
    next(stream)
    stream.close()
    assert old.one("chat").status.status_code is StatusCode.ERROR
    assert spans.one("chat").status.status_code is StatusCode.UNSET


def test_t19_an_interrupt_is_called_an_error(old, spans, both) -> None:
    """LangGraph pauses by raising."""
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [interrupt("really?")]})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    graph.compile(name="desk", checkpointer=InMemorySaver()).invoke(
        {"messages": []}, both | {"configurable": {"thread_id": "1"}}
    )
    assert StatusCode.ERROR in {span.status.status_code for span in old.all()}
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


async def test_t20_cancelled_calls_stay_open(old, spans, both) -> None:
    """Nobody is told of a cancelled ``ainvoke``: 50 of them by each of the three ways."""
    model = Hosted(delay_s=30)

    async def by_task() -> None:
        before = len(model.asked)
        running = asyncio.create_task(model.ainvoke("q", both))
        await until(lambda: len(model.asked) > before)
        running.cancel()
        await running

    async def by_wait_for() -> None:
        await asyncio.wait_for(model.ainvoke("q", both), 0.002)

    async def by_timeout() -> None:
        async with asyncio.timeout(0.002):
            await model.ainvoke("q", both)

    for way in (by_task, by_wait_for, by_timeout):
        for _ in range(50):
            with pytest.raises((asyncio.CancelledError, TimeoutError)):
                await way()
    chats = spans.named("chat")
    assert len(old.handler.open) == len(chats) > 100
    assert {c.attributes["error.type"] for c in chats} == {"asyncio.exceptions.CancelledError"}
    assert both["callbacks"][1].open_runs == 0


def test_t23_a_model_without_a_name_is_dropped(old, spans, both) -> None:
    """Reading the name where it is documented loses every home-made model."""
    NamelessChat().invoke("q", both)
    assert old.all() == []
    assert len(spans.named("chat")) == 1


class Flaky(CustomLLM):
    """A provider that fails; stands in for a hosted API."""

    def completion(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["logging_obj"].pre_call(input=[], api_key="")
        raise litellm.InternalServerError("no", llm_provider="flaky", model="m")


class PlainLogger(CustomLogger):
    """A span from the pre-call hook to the success or failure hook."""

    def __init__(self, provider: Any) -> None:
        self.tracer, self.open, self.started = provider.get_tracer("plain"), {}, 0

    def log_pre_api_call(self, model, messages, kwargs) -> None:
        self.started += 1
        self.open[kwargs["litellm_call_id"]] = self.tracer.start_span(f"chat {model}")

    def log_success_event(self, kwargs, response_obj, start_time, end_time) -> None:
        self.open.pop(kwargs["litellm_call_id"]).end()

    log_failure_event = log_success_event


class OtherNames(CustomLogger):
    """The same hooks, with the arguments named as one likes."""

    told = 0

    def log_success_event(self, call, answer, began, ended) -> None:
        self.told += 1


@pytest.fixture
def logger(old):
    """The old way in LiteLLM's own list, and the lists as they were afterwards."""
    lists = ("callbacks", "input_callback", "success_callback", "failure_callback",
             "_async_success_callback", "_async_failure_callback")  # fmt: skip
    before = {name: list(getattr(litellm, name)) for name in lists}
    item = {"provider": "flaky", "custom_handler": Flaky()}
    litellm.custom_provider_map.append(item)
    made = PlainLogger(old.provider)
    litellm.callbacks.append(made)
    yield made
    litellm.custom_provider_map.remove(item)
    for name, kept in before.items():
        setattr(litellm, name, kept)


ASKED = {"messages": [{"role": "user", "content": "q"}], "api_key": "none"}


def wait_for(count: int, spans: Spans) -> None:
    """LiteLLM reports from its own threads."""
    for _ in range(500):
        if len(spans.all()) >= count:
            return
        time.sleep(0.01)


def test_t13_retries_leave_spans_open(old, spans, logger) -> None:
    """One id, several starts, one failure."""
    with (
        slm_adapters.litellm.CallRecorder(tracer_provider=spans.provider) as recorder,
        contextlib.suppress(litellm.InternalServerError),
    ):
        litellm.completion(model="flaky/m", num_retries=2, **ASKED)
    wait_for(1, spans)
    time.sleep(0.3)
    assert logger.started == 3
    assert len(old.all()) < 3
    assert len(spans.all()) == 1
    assert recorder.open_calls == 0


def test_t14_an_abandoned_stream_stays_open(old, spans, logger) -> None:
    """Neither success nor failure is told."""
    with slm_adapters.litellm.CallRecorder(tracer_provider=spans.provider) as recorder:
        stream = litellm.completion(
            model="openai/gpt-4o", mock_response="one two three", stream=True, **ASKED
        )
        next(stream)
        del stream
        all_dropped(recorder, 50)
        assert recorder.open_calls == 0
    time.sleep(0.2)
    assert len(logger.open) == 1
    assert old.all() == []
    assert spans.one("chat").status.status_code is StatusCode.UNSET


def test_t15_hooks_with_other_argument_names_hear_nothing(spans, logger) -> None:
    """LiteLLM calls by keyword, and swallows what that raises."""
    other = OtherNames()
    litellm.callbacks.append(other)
    with slm_adapters.litellm.CallRecorder(tracer_provider=spans.provider):
        litellm.completion(model="openai/gpt-4o", mock_response="fine", **ASKED)
        wait_for(1, spans)
        time.sleep(0.2)
    assert other.told == 0
    assert len(spans.named("chat")) == 1
