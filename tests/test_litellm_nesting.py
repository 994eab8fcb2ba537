"""HTTP spans of an instrumented client nest under LiteLLM's call, over real sockets."""

from __future__ import annotations

import asyncio
import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import litellm
import openai
import pytest
from conftest import Spans, all_dropped, until
from crewai_cases import crew
from fake_openai import fake_openai
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_httpx.http_handler import HTTPHandler
from litellm_cases import (
    ASYNC,
    STREAMED,
    asked,
    assert_nested,
    hanging,
    instrumented_httpx,
    let_go,
    litellm_is_done,
    llm,
    settled,
)
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import slm_adapters.crewai
import slm_adapters.litellm as slm
from slm_adapters._litellm import clients

QUESTION = [{"role": "user", "content": "q"}]
OPENAI = {"model": "openai/gpt-4o-mini", "messages": QUESTION}
#: Asked by LiteLLM's own HTTP client.
DEEPSEEK = {"model": "deepseek/deepseek-chat", "messages": QUESTION}
AZURE = {"model": "azure/gpt-4o", "messages": QUESTION, "api_version": "2024-10-21"}
TEXT = {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "prompt": "q"}
EMBEDDING = {"model": "openai/text-embedding-3-small", "input": ["q"]}
VOYAGE = {"model": "voyage/voyage-3", "input": ["q"]}
CHATS = {
    "openai": OPENAI,
    "deepseek": DEEPSEEK,
    "azure": AZURE,
    "slm": OPENAI | {"model": "slm/far"},
}
#: Their methods do not tell LiteLLM's client for which call it asks.
UNTOLD = (
    ("embedding", {"model": "gemini/text-embedding-004", "input": ["q"]}),
    ("embedding", {"model": "cohere/embed-english-v3.0", "input": ["q"]}),
    ("text_completion", {"model": "text-completion-codestral/codestral-latest", "prompt": "q"}),
)
VECTORS = {"openai": EMBEDDING, "voyage": VOYAGE}


@pytest.fixture(autouse=True)
def instrumented(spans):
    """No context is left over either."""
    slm.register()
    before = otel_context.get_current()
    with instrumented_httpx(spans):
        yield
    assert otel_context.get_current() == before
    slm.unregister()


@pytest.fixture
def server():
    with fake_openai() as fake:
        yield fake.options


@pytest.fixture
def recorder(spans, calls):
    yield slm.instrument(tracer_provider=spans.provider, hooks=[calls.append])
    slm.uninstrument()


@pytest.fixture
def flaky():
    """A provider that answers 500 to the first requests, as many as its ``failures``."""
    with fake_openai() as fake:
        fake.failures = 1
        yield fake


@STREAMED
@ASYNC
@pytest.mark.parametrize("provider", CHATS)
def test_a_chat_s_request_is_inside_it(
    spans, recorder, server, provider, asynchronous, streamed
) -> None:
    """Through OpenAI's client, Azure's, LiteLLM's own and our provider; the parent is ours."""
    options = CHATS[provider] | server_of(provider, server) | ({"stream": True} if streamed else {})
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asked("completion", asynchronous, **options)
    call = assert_nested(spans)
    assert spans.parent_name(call) == "request"
    assert call.status.status_code is StatusCode.UNSET
    assert call.attributes["server.address"] == "127.0.0.1"
    assert ("gen_ai.response.time_to_first_chunk" in call.attributes) is streamed
    assert recorder.open_calls == 0


@STREAMED
@ASYNC
def test_a_text_completion_s_request_is_inside_it(
    spans, recorder, server, asynchronous, streamed
) -> None:
    """LiteLLM tells of these within the method that asks."""
    options = TEXT | server | ({"stream": True} if streamed else {})
    asked("text_completion", asynchronous, **options)
    assert assert_nested(spans).name.startswith("text_completion")


@ASYNC
@pytest.mark.parametrize("provider", VECTORS)
def test_an_embedding_s_request_is_inside_it(
    spans, recorder, server, provider, asynchronous
) -> None:
    """Through OpenAI's client and LiteLLM's own."""
    options = VECTORS[provider] | server
    if provider == "voyage":
        options["api_base"] += "/embeddings"
    asked("embedding", asynchronous, **options)
    assert assert_nested(spans).name.startswith("embeddings")


@ASYNC
@pytest.mark.parametrize(("entry", "call"), UNTOLD, ids=["gemini", "cohere", "codestral"])
def test_a_client_that_is_not_told_for_which_call_nests_too(
    spans, recorder, flaky, entry, call, asynchronous
) -> None:
    """Many providers' methods ask LiteLLM's client so; here the request fails."""
    flaky.failures = 99
    with pytest.raises(openai.APIError):
        asked(entry, asynchronous, **call | flaky.options)
    assert_nested(spans, requests=len(flaky.requests))


@ASYNC
def test_what_other_loggers_ask_is_not_inside_the_call(spans, server, asynchronous) -> None:
    """They do it when the answer is there, with the same client, while the call is not told yet."""

    class Asking(CustomLogger):
        def log_success_event(self, *_: Any, **__: Any) -> None:
            HTTPHandler().post(f"{server['api_base']}/logs", json=OPENAI)

        async def async_log_success_event(self, *_: Any, **__: Any) -> None:
            self.log_success_event()

    asking = Asking()
    listeners = (litellm.success_callback, litellm._async_success_callback)
    for one in listeners:
        one.append(asking)
    try:
        with slm.CallRecorder(tracer_provider=spans.provider):
            asked("completion", asynchronous, **DEEPSEEK, **server)
            settled(spans, 1)
    finally:
        for one in listeners:
            one.remove(asking)
    (call,) = llm(spans)
    inside = [post for post in spans.named("POST") if spans.parent_name(post) == call.name]
    assert len(inside) == 1
    assert len(spans.named("POST")) == 2


@ASYNC
def test_a_client_s_retries_are_inside_one_call(
    spans, recorder, flaky, calls, asynchronous
) -> None:
    """OpenAI's client asks again by itself."""
    asked("completion", asynchronous, **OPENAI, **flaky.options, max_retries=1)
    call = assert_nested(spans, requests=2)
    assert call.status.status_code is StatusCode.UNSET
    assert [one.outcome for one in calls] == ["finished"]


@ASYNC
def test_a_router_s_attempts_have_their_own_requests(
    spans, recorder, server, flaky, asynchronous
) -> None:
    """A deployment that fails and the one that answers, each with its HTTP span."""
    flaky.failures = 9
    broken = {"model": "openai/broken", "max_retries": 0, **flaky.options}
    router = litellm.Router(
        model_list=[
            {"model_name": "first", "litellm_params": broken},
            {"model_name": "second", "litellm_params": {"model": OPENAI["model"], **server}},
        ],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )

    async def arun() -> None:
        await router.acompletion("first", QUESTION)
        await litellm_is_done()

    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asyncio.run(arun()) if asynchronous else router.completion("first", QUESTION)
    found = settled(spans, 2)
    for call in found:
        assert spans.parent_name(call) == "request"
    posts = [spans.parent_name(post) for post in spans.named("POST")]
    assert sorted(posts) == sorted(call.name for call in found)


async def test_concurrent_tasks_do_not_cross(spans, recorder, server) -> None:
    """Each request is inside its own call, and each call inside its own caller."""
    tracer = spans.provider.get_tracer("app")

    async def one(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            provider = (OPENAI, DEEPSEEK)[number % 2]
            stream = await litellm.acompletion(**provider, **server, stream=number % 3 == 0)
            if number % 3 == 0:
                async for _ in stream:
                    await asyncio.sleep(0)

    await asyncio.gather(*(one(number) for number in range(12)))
    await until(lambda: len(llm(spans)) == 12)
    assert_one_each(spans, 12)


def test_concurrent_threads_do_not_cross(spans, recorder, server) -> None:
    """The same in a pool, whose threads are used again."""
    tracer = spans.provider.get_tracer("app")

    def one(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            litellm.completion(**(OPENAI, DEEPSEEK)[number % 2], **server)
        assert otel_context.get_current() == {}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(12)))
    settled(spans, 12)
    assert_one_each(spans, 12)


def assert_one_each(spans: Spans, count: int) -> None:
    requests = {span.context.span_id: span.name for span in spans.named("request")}
    calls = {span.context.span_id: requests[span.parent.span_id] for span in llm(spans)}
    assert sorted(calls.values()) == sorted(requests.values())
    posts = [calls[post.parent.span_id] for post in spans.named("POST")]
    assert sorted(posts) == sorted(requests.values())
    assert len(posts) == count


@pytest.mark.parametrize("provider", [*CHATS, "text"])
def test_t14_a_stream_given_up_keeps_its_request(spans, recorder, server, calls, provider) -> None:
    """Its span began with the request and ends, as no error, when it is dropped."""
    if provider == "text":
        stream = litellm.text_completion(**TEXT, **server, stream=True)
    else:
        stream = litellm.completion(**CHATS[provider] | server_of(provider, server), stream=True)
    next(stream)
    assert recorder.open_calls == 1
    del stream
    all_dropped(recorder)
    call = assert_nested(spans)
    assert call.status.status_code is StatusCode.UNSET
    assert [one.outcome for one in calls] == ["abandoned"]


@pytest.mark.parametrize("provider", CHATS)
async def test_t14_an_asynchronous_stream_given_up_keeps_its_request(
    spans, recorder, server, calls, provider
) -> None:
    """The same on a loop that goes on."""
    options = CHATS[provider] | server_of(provider, server)
    stream = await litellm.acompletion(**options, stream=True)
    await anext(stream)
    assert recorder.open_calls == 1
    del stream
    await let_go(recorder)
    assert [one.outcome for one in calls] == ["abandoned"]
    (post,) = spans.named("POST")
    assert spans.parent_name(post) == spans.one("chat").name


def server_of(provider: str, server: dict[str, str]) -> dict[str, str]:
    """Azure's addresses have no version in them."""
    base = server["api_base"]
    return server | {"api_base": base.removesuffix("/v1") if provider == "azure" else base}


async def test_t14_a_call_cancelled_during_its_request(spans, recorder, calls) -> None:
    """It has one span, with the cancel class."""
    async with hanging() as options:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await litellm.acompletion(**OPENAI, **options)
        await let_go(recorder)
    call = spans.one("chat")
    assert call.attributes["error.type"].endswith("CancelledError")
    assert [one.outcome for one in calls] == ["failed"]
    (post,) = spans.named("POST")
    assert post.parent.span_id == call.context.span_id


def test_two_recorders_share_the_span_and_its_request(spans, server) -> None:
    """With one destination; another destination has a span of its own."""
    other, ids = Spans(), {"one": [], "two": []}
    with (
        slm.CallRecorder(
            tracer_provider=spans.provider, hooks=[lambda c: ids["one"].append(c.span_id)]
        ),
        slm.CallRecorder(
            tracer_provider=spans.provider, hooks=[lambda c: ids["two"].append(c.span_id)]
        ),
        slm.CallRecorder(tracer_provider=other.provider),
    ):
        litellm.text_completion(**TEXT, **server)
        assert_nested(spans)
        settled(other, 1)
    assert ids["one"] == ids["two"] == [f"{llm(spans)[0].context.span_id:016x}"]
    assert not other.named("POST")


def test_t12_crewai_s_call_is_the_one_around_the_request(spans, recorder, server) -> None:
    """CrewAI's recorder has the call: LiteLLM's makes no second span, and the request is inside."""
    import crewai

    before = litellm.callbacks
    llm_of_crew = crewai.LLM(
        model=OPENAI["model"], is_litellm=True, base_url=server["api_base"], api_key="none"
    )
    try:
        with slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider):
            crew(llm_of_crew).kickoff()
        time.sleep(0.3)
    finally:
        litellm.callbacks = before
    chats = spans.named("chat")
    assert chats
    assert {spans.parent_name(post) for post in spans.named("POST")} == {chats[0].name}
    assert len(spans.named("POST")) == len(chats)
    assert recorder.open_calls == 0


@pytest.mark.parametrize(
    "module", ["opentelemetry.instrumentation.genai.openai", "opentelemetry.instrumentation.openai"]
)
@ASYNC
def test_t16_an_instrumented_client_keeps_quiet_in_between(
    spans, recorder, server, module, asynchronous
) -> None:
    """OpenAI's client makes no span of its own, the HTTP client does."""
    why = f"{module} is no part of this environment: the dev extra brings it"
    instrumentor = pytest.importorskip(module, reason=why).OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    try:
        asked("completion", asynchronous, **OPENAI, **server)
        asked("embedding", asynchronous, **EMBEDDING, **server)
        found = settled(spans, 2)
    finally:
        instrumentor.uninstrument()
    assert {span.instrumentation_scope.name for span in found} == {"slm_adapters"}
    parents = [spans.parent_name(post) for post in spans.named("POST")]
    assert sorted(parents) == sorted(span.name for span in found)


def test_an_entry_point_taken_before_nests_too(spans, server) -> None:
    """Nothing of LiteLLM's that a program imports is replaced."""
    completion = litellm.completion
    with slm.CallRecorder(tracer_provider=spans.provider):
        assert litellm.completion is completion
        completion(**OPENAI, **server)
        assert_nested(spans)


def test_what_is_not_sampled_is_called_all_the_same(server, calls) -> None:
    """The record is kept; there is no span."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    with slm.CallRecorder(tracer_provider=provider, hooks=[calls.append]):
        litellm.completion(**OPENAI, **server)
        asyncio.run(until(lambda: calls))
    assert calls[0].outcome == "finished"


def test_a_call_with_no_request_has_no_span_before_its_end(spans, recorder) -> None:
    """Mocked answers, local models, cached answers and early failures cost what they did."""
    started = []

    class Noting(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            started.append(time.time_ns())

    spans.provider.add_span_processor(Noting())
    litellm.completion(**OPENAI, mock_response="hi")
    (span,) = settled(spans, 1)
    assert started[0] >= span.end_time


def test_uninstrumenting_puts_litellm_s_methods_back() -> None:
    """Every one of them, also LiteLLM's HTTP client."""
    places = [*clients._PLACES, *clients._HTTP_PLACES, *clients._PRE_CALL]
    named = [place.split(":") for place in places]
    owners = [getattr(importlib.import_module(f"litellm.{path}"), kind) for path, kind in named]
    owners += [litellm, litellm.utils]
    before = [dict(vars(owner)) for owner in owners]
    slm.instrument(tracer_provider=TracerProvider())
    assert [dict(vars(owner)) for owner in owners] != before
    slm.uninstrument()
    assert [dict(vars(owner)) for owner in owners] == before
    assert trace.get_current_span() is trace.INVALID_SPAN
