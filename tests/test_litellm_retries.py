"""LiteLLM's ``num_retries``: one call and one span, over real sockets and in both its ways."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from typing import Any

import litellm
import pytest
from conftest import all_dropped
from fake_openai import fake_openai
from litellm_cases import ASYNC, STREAMED, asked, assert_nested, instrumented_httpx, settled
from opentelemetry.trace import StatusCode

import slm_adapters.litellm as slm
from slm_adapters._litellm import retries
from slm_adapters.calls import Call

QUESTION = [{"role": "user", "content": "q"}]
#: Asked through OpenAI's client, and by LiteLLM's own.
CHATS = {
    "openai": {"model": "openai/gpt-4o-mini", "messages": QUESTION, "max_retries": 0},
    "deepseek": {"model": "deepseek/deepseek-chat", "messages": QUESTION},
}
PROVIDER = pytest.mark.parametrize("provider", CHATS)


@pytest.fixture(autouse=True)
def instrumented(spans):
    with instrumented_httpx(spans):
        yield


@pytest.fixture
def flaky():
    with fake_openai() as fake:
        yield fake


@pytest.fixture
def recorder(spans, calls):
    with slm.CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]) as recorder:
        yield recorder


@STREAMED
@ASYNC
@PROVIDER
@pytest.mark.parametrize("failures", [1, 2])
def test_t13_a_success_after_retries_is_one_span(
    spans, recorder, flaky, calls, failures, provider, asynchronous, streamed
) -> None:
    """Its attempts' requests are inside, from the first to the last; the answer is recorded."""
    flaky.failures = failures
    before = time.time_ns()
    options = CHATS[provider] | flaky.options | {"num_retries": 3, "stream": streamed}
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asked("completion", asynchronous, **options)
    call = assert_nested(spans, requests=failures + 1)
    assert spans.parent_name(call) == "request"
    assert call.status.status_code is StatusCode.UNSET
    assert before - 2_000_000 <= call.start_time
    (record,) = calls
    assert record.outcome == "finished"
    if provider == "deepseek":  # OpenAI's client asks again by itself first
        assert record.attempt == failures + 1
    assert record.replies[0].message.text.strip() == "It is done."
    if not streamed:
        assert (record.usage.input_tokens, record.usage.output_tokens) == (11, 3)
    assert recorder.open_calls == 0


@STREAMED
@ASYNC
@PROVIDER
def test_t13_a_call_that_fails_for_good_is_one_span(
    spans, recorder, flaky, calls, provider, asynchronous, streamed
) -> None:
    """Ended by what the program gets, when it gets it, with every request inside."""
    flaky.failures = 99
    options = CHATS[provider] | flaky.options | {"num_retries": 2, "stream": streamed}
    with pytest.raises(litellm.InternalServerError):
        asked("completion", asynchronous, **options)
    call = assert_nested(spans, requests=len(flaky.requests))
    assert len(flaky.requests) >= 3
    assert call.attributes["error.type"] == "litellm.exceptions.InternalServerError"
    assert [(one.outcome, one.attempt) for one in calls] == [("failed", 3)]
    gc.collect()
    assert recorder.open_calls == 0


@ASYNC
def test_t13_the_program_s_number_and_its_policy_count_too(
    spans, recorder, flaky, calls, asynchronous, monkeypatch
) -> None:
    """``litellm.num_retries`` and ``retry_policy=`` ask for retries as well."""
    monkeypatch.setattr(litellm, "num_retries", 2)
    flaky.status = 429
    for more in {}, {"retry_policy": {"RateLimitErrorRetries": 2}}:
        flaky.failures = 1
        asked("completion", asynchronous, **CHATS["deepseek"] | flaky.options | more)
    settled(spans, 2)
    assert [(one.outcome, one.attempt) for one in calls] == [("finished", 2)] * 2


@ASYNC
def test_t13_without_retries_a_failure_ends_at_once(
    spans, recorder, flaky, calls, asynchronous
) -> None:
    """Told as LiteLLM tells it, while the program still holds the exception."""
    flaky.failures = 1
    kept: list[Exception] = []
    try:
        asked("completion", asynchronous, **CHATS["openai"] | flaky.options)
    except litellm.InternalServerError as error:
        kept.append(error)
    (call,) = settled(spans, 1)
    assert call.status.status_code is StatusCode.ERROR
    assert recorder.open_calls == 0
    assert kept


@ASYNC
def test_t13_an_answer_after_retries_has_its_price(recorder, flaky, calls, asynchronous) -> None:
    """As LiteLLM reckons it, which it does not do of what it does not report."""
    flaky.failures = 1
    options = CHATS["openai"] | flaky.options
    asked("completion", asynchronous, **options, num_retries=1)
    asked("completion", asynchronous, **options)
    deadline = time.monotonic() + 10
    while len(calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    retried, plain = calls
    assert plain.cost is not None
    assert retried.cost == plain.cost
    assert retried.cost_source == "litellm"


async def test_t13_a_cancel_between_attempts_ends_the_call(spans, recorder, flaky, calls) -> None:
    """By the cancel, not by the failure that was told before."""
    flaky.failures = 99
    waiting = asyncio.Event()

    async def wait_for_ever(*_: Any, **__: Any) -> None:
        waiting.set()
        await asyncio.sleep(60)

    def retry(**options: Any) -> Any:
        return litellm.acompletion(**options, num_retries=3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenacity.AsyncRetrying.__call__", wait_for_ever)
        task = asyncio.create_task(retry(**CHATS["openai"] | flaky.options))
        await waiting.wait()
        assert recorder.open_calls == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (record,) = calls
    assert record.error_type == "asyncio.exceptions.CancelledError"
    assert recorder.open_calls == 0


@ASYNC
def test_t13_two_recorders_mean_the_same_call(spans, flaky, asynchronous) -> None:
    """One span of it, and both records carry that one."""
    one: list[Call] = []
    two: list[Call] = []
    flaky.failures = 2
    with (
        slm.CallRecorder(tracer_provider=spans.provider, hooks=[one.append]),
        slm.CallRecorder(tracer_provider=spans.provider, hooks=[two.append]),
    ):
        asked("completion", asynchronous, **CHATS["deepseek"] | flaky.options | {"num_retries": 3})
        settled(spans, 1)
    assert [call.outcome for call in one + two] == ["finished"] * 2
    assert one[0].span_id == two[0].span_id


@ASYNC
def test_a_stream_that_breaks_is_a_failure_at_once(
    spans, recorder, flaky, calls, asynchronous
) -> None:
    """Nobody asks again for what the program reads already, whatever was asked for."""
    flaky.cuts = True
    options = CHATS["openai"] | flaky.options | {"num_retries": 2, "stream": True}
    kept: list[Exception] = []
    try:
        asked("completion", asynchronous, **options)
    except (litellm.APIError, litellm.exceptions.MidStreamFallbackError) as error:
        kept.append(error)
    settled(spans, 1)
    assert [call.outcome for call in calls] == ["failed"]
    assert len(flaky.requests) == 1
    assert kept


def test_t13_a_decision_that_never_comes_ends_the_call_with_its_failure(
    spans, recorder, flaky, calls, monkeypatch
) -> None:
    """Another LiteLLM might not ask: the failure is told when the call's owner is gone."""
    monkeypatch.setattr(retries.together, "failed_for_good", lambda *_: None)
    flaky.failures = 1
    with contextlib.suppress(litellm.InternalServerError):
        asked("completion", True, **CHATS["openai"] | flaky.options)
    all_dropped(recorder)
    (call,) = settled(spans, 1)
    assert call.attributes["error.type"] == "litellm.exceptions.InternalServerError"
    assert recorder.open_calls == 0


@pytest.fixture
def other():
    """The provider of the fallback."""
    with fake_openai("The other one.") as fake:
        yield fake


@pytest.mark.parametrize(
    ("asynchronous", "streamed"),
    # LiteLLM gives a synchronous program a stream that it cannot read.
    [(False, False), (True, False), (True, True)],
    ids=["sync", "async", "async-streamed"],
)
def test_a_fallback_is_inside_the_call_that_asked_for_it(
    spans, recorder, flaky, other, calls, asynchronous, streamed
) -> None:
    """``fallbacks=``: one span of the model that was asked, with the answer of the one that gave
    it, which LiteLLM may not tell; also where the first one answers."""
    fallbacks = [{"model": "openai/gpt-4.1-mini", **other.options}]
    options = CHATS["deepseek"] | flaky.options | {"fallbacks": fallbacks, "stream": streamed}
    flaky.failures = 1
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asked("completion", asynchronous, **options)
    call = assert_nested(spans, requests=2)
    assert spans.parent_name(call) == "request"
    assert call.status.status_code is StatusCode.UNSET
    assert call.attributes["gen_ai.request.model"] == "deepseek-chat"
    assert call.attributes["gen_ai.response.model"].endswith("gpt-4.1-mini")
    (record,) = calls
    assert (record.outcome, record.attempt) == ("finished", 2)
    assert record.replies[0].message.text.strip() == "The other one."
    assert recorder.open_calls == 0

    asked("completion", asynchronous, **options)
    settled(spans, 2)
    assert calls[1].attempt == 1
    assert calls[1].replies[0].message.text.strip() == "It is done."
    assert recorder.open_calls == 0


@ASYNC
@pytest.mark.parametrize("num_retries", [0, 1])
def test_fallbacks_that_all_fail_are_one_failure(
    spans, recorder, flaky, other, calls, num_retries, asynchronous
) -> None:
    """Also with retries, of each and of all together; the first failure is the one to know, if
    no attempt of all together raises another."""
    fallbacks = [{"model": "openai/gpt-4.1-mini", **other.options}]
    flaky.failures = other.failures = 99
    flaky.status = 429
    options = CHATS["deepseek"] | flaky.options | {"fallbacks": fallbacks}
    with pytest.raises(Exception, match="All fallback attempts failed"):
        asked("completion", asynchronous, **options, num_retries=num_retries)
    call = assert_nested(spans, requests=len(flaky.requests + other.requests))
    error = "APIConnectionError" if num_retries and not asynchronous else "RateLimitError"
    assert call.attributes["error.type"] == f"litellm.exceptions.{error}"
    assert [one.outcome for one in calls] == ["failed"]
    gc.collect()
    assert recorder.open_calls == 0
