"""OpenAI's Responses API through LiteLLM: asked for as it is, and made into a chat by LiteLLM."""

from __future__ import annotations

import asyncio
import contextlib

import litellm
import pytest
from conftest import all_dropped
from fake_openai import fake_openai
from litellm_cases import (
    ASYNC,
    STREAMED,
    asked,
    assert_nested,
    hanging,
    instrumented_httpx,
    let_go,
    settled,
)
from opentelemetry.trace import StatusCode

import slm_adapters.litellm as slm
from slm_adapters._litellm import responses
from slm_adapters.calls import Message, ToolCall

#: One provider has the API, of the other LiteLLM asks a chat.
MODELS = {"native": "openai/gpt-4o-mini", "bridged": "deepseek/deepseek-chat"}
LOOK = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
SAID = [
    {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
    {"type": "function_call", "call_id": "c0", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c0", "output": "seen"},
    {"type": "message", "role": "user", "content": "go on"},
]
MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@pytest.fixture(autouse=True)
def instrumented(spans):
    with instrumented_httpx(spans):
        yield


@pytest.fixture
def fake():
    """It looks before it answers, if it has a tool to do so."""
    looking = {"role": "assistant", "content": None, "tool_calls": [LOOK]}
    with fake_openai(lambda request: looking if request.get("tools") else "It is done.") as fake:
        yield fake


@pytest.fixture
def recorder(spans, calls):
    with slm.CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]) as recorder:
        yield recorder


@STREAMED
@ASYNC
@MODEL
def test_a_response_is_one_span_with_its_request_inside(
    spans, recorder, fake, calls, model, asynchronous, streamed
) -> None:
    """And one record of what was said, counted as the provider counts."""
    options = {"input": "q", "max_output_tokens": 99, "temperature": 0.5} | fake.options
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asked("responses", asynchronous, model=model, stream=streamed, **options)
    span = assert_nested(spans)
    assert spans.parent_name(span) == "request"
    assert span.name == f"chat {model.partition('/')[2]}"
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["server.address"] == "127.0.0.1"
    assert span.attributes["gen_ai.request.max_tokens"] == 99
    assert span.attributes["gen_ai.request.temperature"] == 0.5
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.response.id"]
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is streamed
    (call,) = calls
    assert [(message.role, message.text) for message in call.messages] == [("user", "q")]
    assert [reply.message.text.strip() for reply in call.replies] == ["It is done."]
    counted = (call.usage.input_tokens, call.usage.output_tokens, call.usage.source)
    assert counted == (11, 3, "provider")
    assert call.streamed is streamed
    assert recorder.open_calls == 0


@STREAMED
@ASYNC
@MODEL
def test_a_conversation_with_tools_is_recorded_as_a_chat(
    spans, recorder, fake, calls, model, asynchronous, streamed
) -> None:
    """Instructions, earlier calls and their results, and the call that the model makes now."""
    options = {"input": SAID, "instructions": "Be brief.", "tools": [TOOL]} | fake.options
    asked("responses", asynchronous, model=model, stream=streamed, **options)
    assert_nested(spans)
    (call,) = calls
    assert [(message.role, message.text) for message in call.messages] == [
        ("system", "Be brief."), ("user", "q"), ("assistant", ""), ("tool", "seen"),
        ("user", "go on"),
    ]  # fmt: skip
    assert call.messages[2].tool_calls == (ToolCall("c0", "look"),)
    assert call.messages[3].tool_call_id == "c0"
    assert [tool.name for tool in call.tools] == ["look"]
    (reply,) = call.replies
    assert reply.message.tool_calls == (ToolCall("call_1", "look", '{"a": 1}'),)
    assert reply.message.text == ""


@STREAMED
@ASYNC
def test_details_of_the_counts_and_the_price_are_the_provider_s(
    recorder, spans, fake, calls, asynchronous, streamed
) -> None:
    """Cached and reasoning tokens; an answer cut short says why it ended."""
    fake.response = {
        "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
    }  # fmt: skip
    options = {"model": MODELS["native"], "input": "q", **fake.options}
    asked("responses", asynchronous, stream=streamed, **options)
    span = assert_nested(spans)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["gen_ai.usage.cache_read.input_tokens"] == 2
    assert span.attributes["gen_ai.usage.reasoning.output_tokens"] == 1
    assert calls[0].cost > 0
    assert calls[0].cost_source == "litellm"


@STREAMED
@ASYNC
def test_what_litellm_counts_itself_is_not_the_provider_s(
    recorder, spans, fake, calls, asynchronous, streamed
) -> None:
    """It does so where there are no counts, or makes them zero."""
    fake.response = {"usage": None}
    options = {"model": MODELS["native"], "input": "q", **fake.options}
    asked("responses", asynchronous, stream=streamed, **options)
    assert_nested(spans)
    assert calls[0].usage is None or calls[0].usage.source == "estimated"


@STREAMED
@ASYNC
@MODEL
def test_t13_a_response_after_retries_is_one_span(
    spans, recorder, fake, calls, model, asynchronous, streamed
) -> None:
    """With the answer and its counts, which LiteLLM reports in another shape then."""
    fake.failures = 1
    options = {"model": model, "input": "q", "num_retries": 2} | fake.options
    asked("responses", asynchronous, stream=streamed, **options)
    span = assert_nested(spans, requests=2)
    assert span.status.status_code is StatusCode.UNSET
    (call,) = calls
    assert (call.outcome, call.attempt) == ("finished", 2)
    assert call.replies[0].message.text.strip() == "It is done."
    assert (call.usage.input_tokens, call.usage.output_tokens) == (11, 3)


@STREAMED
@ASYNC
@MODEL
def test_a_response_that_fails_is_a_failure(
    spans, recorder, fake, calls, model, asynchronous, streamed
) -> None:
    """Its request is inside."""
    fake.failures = 9
    with pytest.raises(litellm.InternalServerError):
        asked("responses", asynchronous, model=model, input="q", stream=streamed, **fake.options)
    span = assert_nested(spans)
    assert span.attributes["error.type"] == "litellm.exceptions.InternalServerError"
    assert [call.outcome for call in calls] == ["failed"]


@ASYNC
@MODEL
def test_a_stream_that_breaks_is_a_failure(
    spans, recorder, fake, calls, model, asynchronous
) -> None:
    """The connection is lost in its middle."""
    fake.cuts = True
    with pytest.raises(Exception, match=r"incomplete|peer closed"):
        asked("responses", asynchronous, model=model, input="q", stream=True, **fake.options)
    assert settled(spans, 1)[0].status.status_code is StatusCode.ERROR
    assert [call.outcome for call in calls] == ["failed"]


@ASYNC
def test_a_stream_that_ends_with_a_failure_is_one(
    spans, recorder, fake, calls, asynchronous
) -> None:
    """The provider says so in its last event."""
    error = {"code": "server_error", "message": "broken"}
    fake.response = {"status": "failed", "error": error, "output": [], "usage": None}
    options = {"model": MODELS["native"], "input": "q", "stream": True, **fake.options}
    with contextlib.suppress(litellm.exceptions.MidStreamFallbackError):  # newer versions raise it
        asked("responses", asynchronous, **options)
    assert settled(spans, 1)[0].status.status_code is StatusCode.ERROR
    assert [call.outcome for call in calls] == ["failed"]


@MODEL
def test_t14_a_stream_given_up_ends_when_it_is_dropped(spans, recorder, fake, calls, model) -> None:
    """As no error."""
    stream = litellm.responses(model=model, input="q", stream=True, **fake.options)
    next(iter(stream))
    assert recorder.open_calls == 1
    del stream
    all_dropped(recorder)
    assert assert_nested(spans).status.status_code is StatusCode.UNSET
    assert [call.outcome for call in calls] == ["abandoned"]


@MODEL
async def test_t14_an_asynchronous_stream_given_up_ends_when_it_is_dropped(
    recorder, fake, calls, model
) -> None:
    """The same on a loop that goes on."""
    stream = await litellm.aresponses(model=model, input="q", stream=True, **fake.options)
    await anext(aiter(stream))
    assert recorder.open_calls == 1
    del stream
    await let_go(recorder)
    assert [call.outcome for call in calls] == ["abandoned"]


@MODEL
async def test_t14_a_cancelled_response_is_ended(spans, recorder, calls, model) -> None:
    """With the cancel class, and its request inside."""
    async with hanging() as options:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await litellm.aresponses(model=model, input="q", **options)
        await let_go(recorder)
    assert [call.error_type for call in calls] == ["asyncio.exceptions.CancelledError"]
    (post,) = spans.named("POST")
    assert spans.parent_name(post) == spans.one("chat").name


@STREAMED
@ASYNC
def test_a_chat_that_litellm_makes_a_response_of_is_one_span(
    spans, recorder, fake, calls, asynchronous, streamed
) -> None:
    """The other way round, for models that have this API only."""
    question = [{"role": "user", "content": "q"}]
    options = {"model": "openai/responses/gpt-4o-mini", "messages": question, **fake.options}
    asked("completion", asynchronous, stream=streamed, **options)
    assert_nested(spans)
    (call,) = calls
    assert [message.text for message in call.messages] == ["q"]
    assert call.replies[0].message.text == "It is done."
    assert (call.usage.input_tokens, call.usage.output_tokens) == (11, 3)


def test_a_request_as_a_chat() -> None:
    """Calls that follow each other are one message's; what has no chat form is left as it is."""
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    document = {"type": "input_file", "file_id": "f"}
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    calls = [SAID[1], SAID[1] | {"call_id": "c1"}]
    said = [{"role": "user", "content": [picture, document]}, {"type": "reasoning"}, *calls]
    params = {"text": {"format": {"type": "json_schema", **schema}}}
    made = responses.as_chat({"input": said, "optional_params": params, "model": "m"})
    user, assistant = map(Message.from_openai, made["messages"])
    assert user.content == [
        {"type": "image_url", "image_url": {"url": picture["image_url"]}}, document,
    ]  # fmt: skip
    assert [call.id for call in assistant.tool_calls] == ["c0", "c1"]
    wanted = {"type": "json_schema", "json_schema": schema}
    assert made["optional_params"]["response_format"] == wanted
    assert made["model"] == "m"


def test_an_answer_s_thoughts_and_refusals_are_kept() -> None:
    """Whether LiteLLM has its items as dicts or as objects."""
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]},
    ]
    (reply,) = responses.replies_from({"output": output, "status": "completed"})
    assert reply.message == Message("assistant", "No.", reasoning="Hm.")
    assert reply.finish_reason == "stop"
    assert responses.usage_from({"usage": None}) is None
