"""``slm_adapters.litellm.register``: local models behind ``litellm.completion``."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time

import fake_servers
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
    """Tool calls arrive with their finish reason, whole and, in streams, in pieces."""
    engine = serve(ADD)
    ask = {"model": "slm/one", "messages": QUESTION, "tools": TOOLS, "tool_choice": "required"}
    choice = litellm.completion(**ask).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.arguments == '{"a": 1}'
    assert engine.requests[0].tool_choice == "required"
    assert engine.requests[0].tools[0].parameters == SCHEMA
    chunks = list(litellm.completion(**ask, stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert len(deltas) > 2
    assert (deltas[0].id, deltas[0].function.name, deltas[0].index) == (ADD.id, "add", 0)
    assert "".join(delta.function.arguments for delta in deltas) == ADD.arguments
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.tool_calls[0].function.name == "add"
    assert built.choices[0].message.tool_calls[0].function.arguments == ADD.arguments
    assert built.choices[0].finish_reason == "tool_calls"


async def test_t6_thoughts_are_reasoning_content() -> None:
    """Of the message, and of a stream's deltas; what LiteLLM puts together has them too."""
    serve("<think>two and two</think>Four.")
    ask = {"model": "slm/one", "messages": QUESTION}
    plain = litellm.completion(**ask)
    chunks = list(litellm.completion(**ask, stream=True))
    achunks = [chunk async for chunk in await litellm.acompletion(**ask, stream=True)]
    for answer in (plain, litellm.stream_chunk_builder(chunks)):
        message = answer.choices[0].message
        assert (message.content, message.reasoning_content) == ("Four.", "two and two")
    assert plain.usage.completion_tokens_details.reasoning_tokens == 3
    for made in (chunks, achunks):
        deltas = [chunk.choices[0].delta for chunk in made]
        thoughts = [getattr(delta, "reasoning_content", None) for delta in deltas]
        assert [thought for thought in thoughts if thought] == ["two", " and", " two"]
        assert text_of(made) == "Four."
        assert len({chunk.id for chunk in made}) == 1


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


ORDERS = {
    "slm first": "import slm_adapters.litellm as slm; import litellm, crewai",
    "crewai first": "import crewai, litellm; import slm_adapters.litellm as slm",
    "a call first": "import crewai, litellm; litellm.completion('gpt-4', [], mock_response='x'); "
    "import slm_adapters.litellm as slm",
}


@pytest.mark.parametrize("order", ORDERS)
def test_t23_the_order_of_imports_and_registrations_does_not_matter(order) -> None:
    """Known at once to LiteLLM and to CrewAI on it; a provider registered later lives beside."""
    program = f"""
{ORDERS[order]}
from litellm.llms.custom_llm import CustomLLM
from slm_adapters.testing import ScriptedModel
slm.register({{"one": ScriptedModel(["hello"])}})
litellm.custom_provider_map.append({{"provider": "other", "custom_handler": CustomLLM()}})
litellm.utils.custom_llm_setup()
llm = crewai.LLM(model="slm/one", is_litellm=True)
assert llm.supports_stop_words() and llm.supports_function_calling()
assert llm.get_context_window_size() == int(4096 * 0.85), llm.get_context_window_size()
assert llm.call("q") == "hello"
assert [item["provider"] for item in litellm.custom_provider_map] == ["slm", "other"]
print("as it should be")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240
    )
    assert "as it should be" in done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "option"),
    [
        (errors.ContextOverflowError("m", 9, 9, 9), "context_window_fallbacks"),
        (errors.DeadlineExceededError("late."), "fallbacks"),
        (errors.InvalidReplyError("odd."), "fallbacks"),
    ],
)
async def test_t26_a_router_falls_back_once(error, option, streamed) -> None:
    """Overflow goes to the router's context-window fallback, the rest to its fallback; once a
    stream is asked for, LiteLLM reads ``fallbacks`` alone."""
    option = "fallbacks" if streamed else option
    small = serve(error, name="small")
    large = serve("from the large one", name="large")
    router = litellm.Router(
        model_list=[
            {"model_name": n, "litellm_params": {"model": f"slm/{n}"}} for n in ("small", "large")
        ],
        num_retries=0,
        **{option: [{"small": ["large"]}]},
    )
    answer = await router.acompletion(model="small", messages=QUESTION, stream=streamed)
    if streamed:
        assert text_of([chunk async for chunk in answer]) == "from the large one"
    else:
        assert answer.choices[0].message.content == "from the large one"
    assert (len(small.requests), len(large.requests)) == (1, 1)


class Occupied(ChatEngine):
    """Counts who is being served."""

    name = "occupied"

    def __init__(self) -> None:
        self.busy, self.free = 0, threading.Event()

    def stream(self, request, cancel=None):
        self.busy += 1
        try:
            while not cancel.wait(0.01):
                yield Chunk(text="w ")
        finally:
            self.busy -= 1
            self.free.set()

    def count_tokens(self, messages, tools=()):
        return 1


async def test_t27_an_abandoned_stream_frees_its_slot() -> None:
    """Dropped by the caller, sync and async: LiteLLM's wrapper has no close."""
    engine = Occupied()
    slm.register({"occupied": engine})
    ask = {"model": "slm/occupied", "messages": QUESTION, "stream": True}
    stream = litellm.completion(**ask)
    assert next(stream).choices[0].delta.content
    assert engine.busy == 1
    del stream
    gc.collect()
    assert engine.free.wait(2)
    assert engine.busy == 0
    engine.free.clear()
    astream = await litellm.acompletion(**ask)
    assert (await anext(astream)).choices[0].delta.content
    del astream
    gc.collect()
    for _ in range(200):
        await asyncio.sleep(0.01)
        if engine.free.is_set():
            break
    assert engine.busy == 0


async def test_t27_on_a_server_it_closes_the_socket() -> None:
    """The same over HTTP: the server hears of it."""
    lines = [fake_servers.chunk("a "), 30, fake_servers.chunk("b", "stop")]
    slm.register()
    with fake_servers.fake_server(lambda body: lines) as server:
        ask = {"model": "slm/m", "messages": QUESTION, "stream": True, "api_base": server.base_url}
        stream = litellm.completion(**ask)
        next(stream)
        del stream
        gc.collect()
        assert server.gone.wait(3)


def test_images_are_refused_and_an_empty_list_too() -> None:
    """Never dropped in silence."""
    serve("x")
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(litellm.BadRequestError, match="image_url"):
        litellm.completion(model="slm/one", messages=[{"role": "user", "content": image}])
    with pytest.raises(litellm.BadRequestError, match="empty"):
        litellm.completion(model="slm/one", messages=[])


def test_a_server_behind_api_base_has_a_client_span(spans, monkeypatch) -> None:
    """With a recorder and without; its key is nowhere, a failure names the server too."""
    monkeypatch.setattr(recording, "_default", recording.Recorder(tracer_provider=spans.provider))
    slm.register()
    models = [{"id": "m", "owned_by": "vllm", "max_model_len": 64}]

    def chat(body):
        bad = body["messages"][-1]["content"] == "bad"
        return (500, "broken") if bad else (200, fake_servers.message("fine"))

    with fake_servers.fake_server(chat, models=models) as server:
        ask = {"model": "slm/m", "api_base": server.base_url, "api_key": "sk-secret"}
        for _ in range(2):
            litellm.completion(messages=QUESTION, max_tokens=5, **ask)
        with pytest.raises(litellm.ServiceUnavailableError, match="HTTP 500"):
            litellm.completion(messages=[{"role": "user", "content": "bad"}], **ask)
        with slm.CallRecorder(tracer_provider=spans.provider):
            litellm.completion(messages=QUESTION, max_tokens=5, **ask)
            deadline = time.monotonic() + 5
            while len(spans.all()) < 4 and time.monotonic() < deadline:
                time.sleep(0.01)
    assert [span.kind for span in spans.all()] == [SpanKind.CLIENT] * 4
    assert {span.attributes["server.port"] for span in spans.all()} == {server.port}
    assert spans.all()[-1].attributes["gen_ai.provider.name"] == "vllm"
    assert "sk-secret" not in "".join(span.to_json() for span in spans.all())
    assert litellm.get_model_info("slm/m")["max_input_tokens"] == 64


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
