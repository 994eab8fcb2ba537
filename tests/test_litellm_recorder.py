"""``slm_adapters.litellm.CallRecorder`` on real LiteLLM calls with mocked providers."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import litellm
import pytest
from conftest import all_dropped
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_llm import CustomLLM
from opentelemetry.trace import SpanKind, StatusCode

import slm_adapters.litellm as slm
from slm_adapters._litellm import recording, wrapping
from slm_adapters.calls import role, run
from slm_adapters.store.database import CallStore
from slm_adapters.telemetry.recorder import Recorder, as_current_call

QUESTION = [{"role": "user", "content": "SECRET-4711"}]
HOSTED = {"model": "openai/gpt-4o", "messages": QUESTION, "mock_response": "hi there you"}


class Slow(CustomLLM):
    """A provider that takes its time, and a failing one by name; stands in for hosted APIs."""

    attempts = 0

    def completion(self, *args, model_response, model, **kwargs):
        kwargs["logging_obj"].pre_call(input=[], api_key="")
        type(self).attempts += 1
        if model == "broken":
            raise litellm.InternalServerError("no", llm_provider="slow", model=model)
        model_response.choices[0].message.content = "slow answer"
        return model_response

    async def acompletion(self, *args, model_response, **kwargs):
        kwargs["logging_obj"].pre_call(input=[], api_key="")
        await asyncio.sleep(5)

    def embedding(self, *args, model_response, **kwargs):
        model_response.usage = litellm.Usage(prompt_tokens=4, completion_tokens=0, total_tokens=4)
        return model_response


@pytest.fixture(autouse=True)
def slow_provider():
    item = {"provider": "slow", "custom_handler": Slow()}
    litellm.custom_provider_map.append(item)
    litellm.suppress_debug_info = True
    Slow.attempts = 0
    yield
    litellm.custom_provider_map.remove(item)


@pytest.fixture
def recorder(spans, calls):
    with slm.CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]) as recorder:
        yield recorder


def settle(spans, count: int, seconds: float = 5.0):
    """LiteLLM reports from its own threads: wait for that many spans."""
    deadline = time.monotonic() + seconds
    while len(spans.all()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(spans.all()) == count, [span.name for span in spans.all()]
    return spans.all()


async def asettle(spans, count: int):
    for _ in range(300):
        if len(spans.all()) >= count:
            break
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(spans.all()) == count, [span.name for span in spans.all()]
    return spans.all()


def test_a_call_is_one_span_with_its_facts(spans, recorder, calls) -> None:
    """Provider, parameters, tokens and cost; the times are the call's own."""
    before = time.time_ns()
    litellm.completion(**HOSTED, temperature=0.5, stop=["x"])
    after = time.time_ns()
    (span,) = settle(spans, 1)
    assert span.name == "chat gpt-4o"
    assert span.kind is SpanKind.CLIENT
    assert span.attributes["gen_ai.provider.name"] == "openai"
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.request.stop_sequences"] == ("x",)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.response.id"].startswith("chatcmpl-")
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert "gen_ai.usage.reasoning.output_tokens" not in span.attributes
    assert before - 2_000_000 <= span.start_time <= span.end_time <= after + 2_000_000
    assert "SECRET" not in span.to_json()
    (call,) = calls
    assert call.framework == "litellm"
    assert call.messages[0].text == "SECRET-4711"
    assert call.replies[0].message.text == "hi there you"
    assert call.cost_source == "litellm"
    assert recorder.open_calls == 0


def test_the_parent_and_the_labels_are_the_callers(spans, recorder, calls) -> None:
    """Outcome hooks run on other threads; trace, role and run come from the call's place."""
    with (
        spans.provider.get_tracer("app").start_as_current_span("request"),
        run("r1"),
        role("triage"),
    ):
        litellm.completion(**HOSTED)
        list(litellm.completion(**HOSTED, stream=True))
    settle(spans, 3)
    assert [spans.parent_name(span) for span in spans.named("chat")] == ["request"] * 2
    assert [(call.role, call.run_id) for call in calls] == [("triage", "r1")] * 2


def test_streams_have_their_first_chunk(spans, recorder, calls) -> None:
    """A stream says so and when its first chunk came; a plain call does not."""
    text = "".join(
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**HOSTED, stream=True)
    )
    assert text == "hi there you"
    (span,) = settle(spans, 1)
    assert span.attributes["gen_ai.request.stream"] is True
    waited = span.attributes["gen_ai.response.time_to_first_chunk"]
    assert 0 < waited <= (span.end_time - span.start_time) / 1e9
    # LiteLLM counted itself: that is for the record, which says so.
    assert calls[0].usage.source == "estimated"
    assert "gen_ai.usage.output_tokens" not in span.attributes
    assert calls[0].cost is None
    assert calls[0].replies[0].message.text == "hi there you"


async def test_asynchronous_calls_and_streams(spans, recorder) -> None:
    """One span each, in the caller's trace."""
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await litellm.acompletion(**HOSTED)
        async for _ in await litellm.acompletion(**HOSTED, stream=True):
            pass
    await asettle(spans, 3)
    assert [spans.parent_name(span) for span in spans.named("chat")] == ["request"] * 2
    assert recorder.open_calls == 0


def test_text_completions_and_embeddings(spans, recorder) -> None:
    """They have their own operations."""
    litellm.text_completion(model="openai/gpt-3.5-turbo-instruct", prompt="q", mock_response="hi")
    litellm.embedding(model="slow/vectors", input=["a"])
    settle(spans, 2)
    assert spans.one("text_completion gpt-3.5-turbo-instruct").kind is SpanKind.CLIENT
    embedding = spans.one("embeddings vectors")
    assert embedding.attributes["gen_ai.usage.input_tokens"] == 4


def test_t13_a_retried_failure_is_one_span(spans, recorder) -> None:
    """pre, pre, failure, pre: one failed span, nothing left open."""
    with pytest.raises(litellm.InternalServerError):
        litellm.completion(model="slow/broken", messages=QUESTION, num_retries=2)
    assert Slow.attempts == 3
    gc.collect()
    (span,) = settle(spans, 1)
    assert span.attributes["error.type"] == "litellm.exceptions.InternalServerError"
    assert span.status.status_code is StatusCode.ERROR
    assert recorder.open_calls == 0


def test_an_answer_from_litellm_s_cache_costs_nothing(spans, recorder) -> None:
    """Its counts are those of the call that made it. Told as LiteLLM tells it: without its
    proxy's packages this version cannot answer from its cache."""
    answer = litellm.completion(**HOSTED)
    settle(spans, 1)
    asked = spans.one("chat").attributes
    told = {"start_time": time.time(), "end_time": time.time(), "response_obj": answer}
    kept = {"call_type": "completion", "litellm_call_id": "k", "model": "kept", "cache_hit": True}
    recorder.log_success_event(kwargs=kept, **told)
    assert asked["gen_ai.usage.output_tokens"] > 0
    kept = spans.one("chat kept").attributes
    assert kept["gen_ai.usage.input_tokens"] == kept["gen_ai.usage.output_tokens"] == 0
    assert "slm_adapters.cost.usd" not in kept


def test_t13_an_outcome_told_twice_counts_once(spans, recorder) -> None:
    """Whatever LiteLLM repeats under one call id, there is one span for each outcome."""
    told = {"start_time": time.time(), "end_time": time.time(), "response_obj": None}
    failed = {"call_type": "completion", "litellm_call_id": "a", "exception": ValueError()}
    done = {"call_type": "completion", "litellm_call_id": "b", "model": "m"}
    for _ in range(2):
        recorder.log_failure_event(kwargs=failed, **told)
        recorder.log_success_event(kwargs=done, **told)
    assert [span.attributes.get("error.type") for span in spans.all()] == ["ValueError", None]


def test_t29_an_unclosed_recorder_that_nobody_holds_is_freed(spans, monkeypatch) -> None:
    """What it made of calls goes with it, though another recorder listens and a hook holds it."""
    # LiteLLM itself keeps for ever what listened to its first call: this is not the first.
    monkeypatch.setattr(litellm.utils, "callback_list", ["somebody"])
    lost = slm.CallRecorder(tracer_provider=spans.provider)
    lost.recorder.hooks.append(lambda call, me=lost: me.closed)
    with slm.CallRecorder(tracer_provider=spans.provider):
        litellm.completion(**HOSTED)
        settle(spans, 1)
        assert lost.calls.made
        for listeners in recording._lists():
            listeners.remove(lost)
        gone = weakref.ref(lost)
        del lost
        for _ in range(100):
            gc.collect()
            if gone() is None:
                break
            time.sleep(0.02)
        assert gone() is None
        assert wrapping._users == 1


def test_t14_an_abandoned_stream_is_ended_when_it_dies(spans, recorder, calls) -> None:
    """LiteLLM reports nothing; dropping the stream ends the span, as no error."""
    stream = litellm.completion(**HOSTED, stream=True)
    next(stream)
    assert recorder.open_calls == 1
    del stream
    all_dropped(recorder)
    (span,) = settle(spans, 1)
    assert span.status.status_code is StatusCode.UNSET
    assert calls[0].outcome == "abandoned"


def test_t14_close_ends_what_is_open(spans) -> None:
    """A stream still held at close() is ended; its later end is not told twice."""
    recorder = slm.CallRecorder(tracer_provider=spans.provider)
    stream = litellm.completion(**HOSTED, stream=True)
    next(stream)
    recorder.close()
    assert len(spans.all()) == 1
    list(stream)
    time.sleep(0.2)
    assert len(spans.all()) == 1


async def test_t14_a_cancelled_call_is_ended(spans, recorder, calls) -> None:
    """Cancelling fires no hook; the call ends with the cancel class."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await litellm.acompletion(model="slow/x", messages=QUESTION)
    for _ in range(100):
        gc.collect()
        if recorder.open_calls == 0:
            break
        await asyncio.sleep(0.01)
    assert spans.one("chat x").attributes["error.type"].endswith("CancelledError")


def test_t14_a_loop_closed_right_after_the_call(spans, recorder) -> None:
    """The end time is the call's, however late LiteLLM reports it."""
    asyncio.run(litellm.acompletion(**HOSTED))
    ended = time.time_ns()
    time.sleep(0.2)
    # What LiteLLM itself does at exit.
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    GLOBAL_LOGGING_WORKER._flush_on_exit()
    (span,) = settle(spans, 1)
    assert span.end_time <= ended + 2_000_000


def test_t15_other_loggers_go_on(spans, recorder) -> None:
    """The user's own callbacks still get their calls."""
    seen = []

    class Mine(CustomLogger):
        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            seen.append(kwargs["model"])

    mine = Mine()
    litellm.callbacks.append(mine)
    try:
        litellm.completion(**HOSTED)
        settle(spans, 1)
        for _ in range(100):
            if seen:
                break
            time.sleep(0.02)
        assert seen == ["gpt-4o"]
    finally:
        litellm.logging_callback_manager.remove_callback_from_list_by_object(
            litellm.callbacks, mine
        )
        for listeners in (litellm.success_callback, litellm.failure_callback,
                          litellm.input_callback, litellm._async_success_callback,
                          litellm._async_failure_callback):  # fmt: skip
            if mine in listeners:
                listeners.remove(mine)


def test_t12_lists_replaced_by_others_are_joined_again(spans, recorder) -> None:
    """CrewAI replaces LiteLLM's lists; calls are still told, once."""
    litellm.callbacks = []
    litellm.success_callback = []
    litellm.failure_callback = []
    litellm.completion(**HOSTED)
    settle(spans, 1)


def test_t12_inside_an_open_call_there_is_one_span(spans, recorder) -> None:
    """A framework's recorder already has the call: LiteLLM's enriches it."""
    outer_recorder = Recorder(tracer_provider=spans.provider)
    outer = outer_recorder.open(framework="crewai", provider="openai", model="gpt-4o")
    with as_current_call(outer):
        litellm.completion(**HOSTED)
        time.sleep(0.3)
    outer.finish()
    (span,) = spans.all()
    assert recorder.open_calls == 0
    assert span.name == "chat gpt-4o"


def test_closing_removes_every_trace(spans) -> None:
    """After close() LiteLLM's lists are as before and calls are not seen."""
    lists = [
        litellm.input_callback, litellm.success_callback, litellm.failure_callback,
        litellm._async_success_callback, litellm._async_failure_callback,
    ]  # fmt: skip
    before = [list(listeners) for listeners in lists]
    slm.CallRecorder(tracer_provider=spans.provider).close()
    assert [list(listeners) for listeners in lists] == before
    litellm.completion(**HOSTED)
    time.sleep(0.2)
    assert spans.all() == []


def test_the_store_gets_every_call(tmp_path, spans) -> None:
    """A path is enough."""
    path = tmp_path / "calls.db"
    with slm.CallRecorder(store=path, tracer_provider=spans.provider):
        litellm.completion(**HOSTED)
        settle(spans, 1)
    with CallStore(path) as store:
        assert [call.model for call in store] == ["gpt-4o"]


def test_t34_hooks_that_fail_harm_nothing(spans) -> None:
    """A failing hook and an unreadable response leave the call alone."""

    def hook(call):
        raise RuntimeError("no")

    with slm.CallRecorder(tracer_provider=spans.provider, hooks=[hook]) as recorder:
        assert litellm.completion(**HOSTED).choices[0].message.content == "hi there you"
        settle(spans, 1)
        recorder.log_success_event(kwargs={}, response_obj=None, start_time=1, end_time=None)
        recorder.log_pre_api_call(model=None, messages=None, kwargs={"call_type": "completion"})
