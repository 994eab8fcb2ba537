"""``slm_adapters.litellm.register``: local models behind ``litellm.completion``."""

from __future__ import annotations

import asyncio
import json
import time

import litellm
import pytest
from litellm.exceptions import MidStreamFallbackError
from litellm.llms.custom_llm import CustomLLM
from opentelemetry.trace import SpanKind
from tiny_models import teach, tiny_model

import slm_adapters.litellm as slm
from slm_adapters import errors
from slm_adapters.calls import ToolCall
from slm_adapters.engine.engine import ChatEngine, Chunk
from slm_adapters.telemetry import recorder as recording
from slm_adapters.testing import ScriptedModel, captured_calls

QUESTION = [{"role": "user", "content": "q"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": SCHEMA}}]
ADD = ToolCall("c1", "add", '{"a": 1}')


class Patient(ChatEngine):
    """Waits, as a slow machine would, and keeps its deadline as engines must."""

    name = "patient"

    def stream(self, request, cancel=None):
        began = time.monotonic()
        while time.monotonic() - began < 2:
            if cancel is not None and cancel.is_set():
                raise errors.CancelledGenerationError("cancelled.")
            if request.timeout is not None and time.monotonic() - began > request.timeout:
                raise errors.DeadlineExceededError("the answer took too long: raise timeout.")
            time.sleep(0.005)
            yield Chunk(text="w ")

    def count_tokens(self, messages, tools=()):
        return 1


@pytest.fixture(autouse=True)
def _quiet():
    litellm.suppress_debug_info = True
    yield
    slm.unregister()


def serve(*answers, name: str = "one", **options) -> ScriptedModel:
    engine = ScriptedModel(answers, name=name, **options)
    slm.register({name: engine})
    return engine


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_an_answer_in_openais_shape() -> None:
    """Text, finish reason, usage and model; the parameters reach the engine."""
    engine = serve("hello there you")
    answer = litellm.completion(
        model="slm/one", messages=QUESTION, temperature=0.4, max_tokens=9, top_p=0.9, seed=3,
        stop=["END"], top_k=5, timeout=7,
    )  # fmt: skip
    assert answer.choices[0].message.content == "hello there you"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "one"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 3)
    (request,) = engine.requests
    assert (request.temperature, request.max_tokens, request.top_p) == (0.4, 9, 0.9)
    assert (request.seed, request.stop, request.top_k, request.timeout) == (3, ("END",), 5, 7.0)


async def test_streams_and_asynchronous_calls() -> None:
    """All four ways give the same text; usage comes when it is asked for."""
    serve("hello there you")
    ask = {"model": "slm/one", "messages": QUESTION}
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == "hello there you"
    assert chunks[-1].usage.completion_tokens == 3
    assert (await litellm.acompletion(**ask)).choices[0].message.content == "hello there you"
    stream = await litellm.acompletion(**ask, stream=True)
    assert text_of([chunk async for chunk in stream]) == "hello there you"


async def test_tools_in_every_way() -> None:
    """Tool calls arrive whole, with their finish reason, plain and streamed."""
    engine = serve(ADD)
    ask = {"model": "slm/one", "messages": QUESTION, "tools": TOOLS, "tool_choice": "required"}
    choice = litellm.completion(**ask).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.arguments == '{"a": 1}'
    assert engine.requests[0].tool_choice == "required"
    assert engine.requests[0].tools[0].parameters == SCHEMA
    built = litellm.stream_chunk_builder(list(litellm.completion(**ask, stream=True)))
    assert built.choices[0].message.tool_calls[0].function.name == "add"
    assert built.choices[0].finish_reason == "tool_calls"


def test_response_format_is_asked_for_and_checked() -> None:
    """A schema reaches the engine; an answer that breaks it is not returned."""
    engine = serve('{"a": 1}', '{"a": "no"}')
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    ask = {"model": "slm/one", "messages": QUESTION, "response_format": wanted}
    assert json.loads(litellm.completion(**ask).choices[0].message.content) == {"a": 1}
    assert engine.requests[0].response_format["json_schema"]["schema"] == SCHEMA
    with pytest.raises(litellm.InternalServerError, match="schema"):
        litellm.completion(**ask)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ContextOverflowError("m", 9, 9, 9), litellm.ContextWindowExceededError),
        (errors.DeadlineExceededError("late."), litellm.Timeout),
        (errors.ModelNotFoundError("none."), litellm.NotFoundError),
        (errors.InvalidToolError("bad."), litellm.BadRequestError),
        (errors.EmptyReplyError("empty."), litellm.InternalServerError),
        (errors.ModelLoadError("memory."), litellm.ServiceUnavailableError),
    ],
)
async def test_errors_are_litellms_in_every_way(error, kind) -> None:
    """Routers and callers see LiteLLM's classes, with our sentence."""
    serve(error)
    ask = {"model": "slm/one", "messages": QUESTION}
    with pytest.raises(kind, match=str(error.args[0])[:6]):
        litellm.completion(**ask)
    # LiteLLM wraps what a router may retry when it comes out of a stream.
    streamed = (kind, MidStreamFallbackError)
    with pytest.raises(streamed):
        list(litellm.completion(**ask, stream=True))
    with pytest.raises(kind):
        await litellm.acompletion(**ask)
    with pytest.raises(streamed):
        _ = [c async for c in await litellm.acompletion(**ask, stream=True)]


def test_a_missing_model_and_a_silent_one() -> None:
    """Neither gives an invented answer."""
    serve("")
    with pytest.raises(litellm.InternalServerError, match="nothing"):
        litellm.completion(model="slm/one", messages=QUESTION)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="slm//no/such/folder", messages=QUESTION)


def test_t23_registering_keeps_other_providers() -> None:
    """Appended, known at once, and taken back alone."""
    other = {"provider": "other", "custom_handler": CustomLLM()}
    litellm.custom_provider_map.append(other)
    try:
        serve("x")
        slm.register()
        assert litellm.custom_provider_map[0] is other
        assert len(litellm.custom_provider_map) == 2
        assert litellm.supports_function_calling(model="slm/one")
        assert litellm.supports_response_schema(model="slm/one")
        assert litellm.get_model_info("slm/one")["max_input_tokens"] == 4096
        slm.unregister()
        assert litellm.custom_provider_map == [other]
        assert "slm" not in litellm.provider_list
        assert "slm/one" not in litellm.model_cost
    finally:
        litellm.custom_provider_map.remove(other)


async def test_t25_the_timeout_is_kept_and_the_loop_stays_free() -> None:
    """A slow model ends with Timeout in time, and two calls wait side by side."""
    slm.register({"patient": Patient()})
    ask = {"model": "slm/patient", "messages": QUESTION, "timeout": 0.2}
    began = time.monotonic()
    results = await asyncio.gather(
        litellm.acompletion(**ask), litellm.acompletion(**ask), return_exceptions=True
    )
    assert all(isinstance(result, litellm.Timeout) for result in results)
    assert time.monotonic() - began < 1.0


async def test_t26_a_router_falls_back_once() -> None:
    """Overflow goes to the router's context-window fallback."""
    small = serve(errors.ContextOverflowError("m", 9, 9, 9), name="small")
    large = serve("from the large one", name="large")
    router = litellm.Router(
        model_list=[
            {"model_name": n, "litellm_params": {"model": f"slm/{n}"}} for n in ("small", "large")
        ],
        context_window_fallbacks=[{"small": ["large"]}],
        num_retries=0,
    )
    answer = await router.acompletion(model="small", messages=QUESTION)
    assert answer.choices[0].message.content == "from the large one"
    assert (len(small.requests), len(large.requests)) == (1, 1)


def test_one_internal_span_with_a_recorder_and_without(spans, monkeypatch) -> None:
    """A recorder makes the span; without one the default recorder does; never both."""
    monkeypatch.setattr(recording, "_default", recording.Recorder(tracer_provider=spans.provider))
    serve("hello there you")
    ask = {"model": "slm/one", "messages": QUESTION}
    with captured_calls() as calls:
        litellm.completion(**ask)
        list(litellm.completion(**ask, stream=True))
        assert len(spans.all()) == 2
        with slm.CallRecorder(tracer_provider=spans.provider):
            litellm.completion(**ask)
            list(litellm.completion(**ask, stream=True))
            deadline = time.monotonic() + 5
            while len(spans.all()) < 4 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert [span.kind for span in spans.all()] == [SpanKind.INTERNAL] * 4
    assert {span.attributes["gen_ai.provider.name"] for span in spans.all()} == {"slm_adapters"}
    assert [span.attributes["gen_ai.usage.output_tokens"] for span in spans.all()] == [3] * 4
    assert len(calls) == 4


def test_real_weights(tmp_path, spans) -> None:
    """A taught transformers model answers with a tool call; its facts are on the span."""
    folder = tiny_model(tmp_path / "tiny", window=512)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    teach(folder, {"add one": call}, tools=TOOLS)
    slm.register({"tiny": folder})
    with slm.CallRecorder(tracer_provider=spans.provider):
        answer = litellm.completion(
            model="slm/tiny", messages=[{"role": "user", "content": "add one"}], tools=TOOLS,
            max_tokens=60,
        )  # fmt: skip
        assert answer.choices[0].message.tool_calls[0].function.name == "add"
        assert litellm.get_model_info("slm/tiny")["max_input_tokens"] == 512
        deadline = time.monotonic() + 5
        while not spans.all() and time.monotonic() < deadline:
            time.sleep(0.01)
    attributes = spans.one("chat tiny").attributes
    assert attributes["slm_adapters.device"] == "cpu"
    assert attributes["slm_adapters.decode.tokens_per_second"] > 0
    assert attributes["slm_adapters.queue.seconds"] >= 0
