"""``ChatSLM``: answers, tools, streams, fallbacks, errors and its own spans."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
import time

import pytest
from conftest import until
from langchain.agents import create_agent
from langchain_core import exceptions as langchain_errors
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_models import HostedChat
from langchain_openai import ChatOpenAI
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel

from slm_adapters import errors
from slm_adapters.calls import ToolCall
from slm_adapters.engine.engine import ChatEngine, Chunk
from slm_adapters.langchain import CallRecorder, ChatSLM, traced
from slm_adapters.routing import Copied, Router
from slm_adapters.telemetry import recorder as recording
from slm_adapters.testing import ScriptedModel, captured_calls


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


ADD = ToolCall("c1", "add", '{"a": 1, "b": 2}')


@pytest.fixture
def recorder(spans, calls) -> CallRecorder:
    return CallRecorder(tracer_provider=spans.provider, hooks=[calls.append])


@pytest.fixture
def default_spans(spans, monkeypatch):
    """Spans of models used without a callback."""
    monkeypatch.setattr(recording, "_default", recording.Recorder(tracer_provider=spans.provider))
    return spans


def using(recorder) -> dict:
    return {"callbacks": [recorder]}


class Endless(ChatEngine):
    """Streams words until it is told to stop."""

    name = "endless"

    def __init__(self) -> None:
        self.started, self.stopped = threading.Event(), threading.Event()

    def stream(self, request, cancel=None):
        self.started.set()
        try:
            for _ in range(5_000):
                if cancel is not None and cancel.is_set():
                    raise errors.CancelledGenerationError("cancelled.")
                yield Chunk(text="word ")
                time.sleep(0.005)
        finally:
            self.stopped.set()


def test_the_request_says_what_langchain_said() -> None:
    """Messages, tools, choice, stop and parameters arrive in OpenAI's terms."""
    engine = ScriptedModel([ADD])
    model = ChatSLM(engine, max_tokens=50, stop=["END"]).bind_tools([add], tool_choice="any")
    history = [
        SystemMessage("be brief"),
        HumanMessage([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]),
        AIMessage(
            [{"type": "text", "text": "t"}, {"type": "tool_use", "id": "x", "name": "add"}],
            tool_calls=[{"name": "add", "args": {"a": 1}, "id": "x"}],
        ),
        ToolMessage("3", tool_call_id="x"),
    ]
    model.invoke(history, temperature=0.5, seed=7)
    (request,) = engine.requests
    assert [m.role for m in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[1].content == "one two"
    assert request.messages[2].content == "t"
    assert request.messages[2].tool_calls[0].parsed() == {"a": 1}
    assert request.messages[3].tool_call_id == "x"
    assert request.tools[0].name == "add"
    assert (request.tool_choice, request.stop) == ("required", ("END",))
    assert (request.max_tokens, request.temperature, request.seed) == (50, 0.5, 7)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("any", "required"), (True, "required"), ("auto", "auto"), ("none", "none"), ("add", "add"),
     ({"type": "function", "function": {"name": "add"}}, "add"), ({"type": "any"}, "required")],
)  # fmt: skip
def test_every_spelling_of_tool_choice(said, meant) -> None:
    """LangChain's, OpenAI's and Anthropic's forms mean the same."""
    engine = ScriptedModel(["text"] if meant in ("auto", "none") else [ADD])
    ChatSLM(engine).bind_tools([add], tool_choice=said).invoke("q")
    assert engine.requests[0].tool_choice == meant


def test_impossible_tools_are_refused() -> None:
    """Duplicate tools and unknown choices are named before any compute."""
    other = tool("add", description="another")(lambda x: x)
    with pytest.raises(errors.InvalidToolError):
        ChatSLM(ScriptedModel(["x"])).bind_tools([add, other])
    with pytest.raises(errors.InvalidToolError):
        ChatSLM(ScriptedModel(["x"])).bind_tools([add], tool_choice="subtract").invoke("q")


async def test_streams_add_up_to_the_invoked_message() -> None:
    """Text, tool calls, usage and metadata are the same however the answer is asked for."""
    for answer in ("some words here", ADD):
        model = ChatSLM(ScriptedModel([answer])).bind_tools([add])
        whole = model.invoke("q")
        chunks = list(model.stream("q"))
        achunks = [chunk async for chunk in model.astream("q")]
        for made in (chunks, achunks):
            added = add_ai_message_chunks(made[0], *made[1:])
            assert added.content == whole.content
            assert added.tool_calls == whole.tool_calls
            assert not added.invalid_tool_calls
            assert added.usage_metadata == whole.usage_metadata
            assert made[-1].chunk_position == "last"
            assert added.response_metadata["model_name"] == "scripted"
        assert (await model.ainvoke("q")).content == whole.content


async def test_t6_thoughts_are_reasoning_and_no_content() -> None:
    """In ``additional_kwargs``, where LangChain's own integrations put them, and so a block."""
    model = ChatSLM(ScriptedModel(["<think>two and two</think>Four."]))
    whole, chunks = model.invoke("q"), list(model.stream("q"))
    achunks = [chunk async for chunk in model.astream("q")]
    blocks = [{"type": "reasoning", "reasoning": "two and two"}, {"type": "text", "text": "Four."}]
    for said in (whole, sum(chunks[1:], chunks[0]), sum(achunks[1:], achunks[0])):
        assert said.content == "Four."
        assert said.additional_kwargs == {"reasoning_content": "two and two"}
        assert said.content_blocks == blocks
        assert said.usage_metadata["output_token_details"] == {"reasoning": 3}
    assert chunks[0].content_blocks == [{"type": "reasoning", "reasoning": "two"}]
    version_1 = ChatSLM(ScriptedModel(["<think>two and two</think>Four."]), output_version="v1")
    assert version_1.invoke("q").content == blocks
    events = [event["event"] for event in model.stream_events("q", version="v3")]
    assert events.count("content-block-start") == 2


async def test_t6_a_thought_is_not_sent_again_and_forfeits_no_fallback() -> None:
    """A thought is no part of the answer: after one another model may still answer."""
    engine = ScriptedModel(["<think>two and two</think>Four.", "<think>hm</think>"])
    model = ChatSLM(engine, fallback=HostedChat())
    first = model.invoke("q")
    model.invoke([HumanMessage("q"), first, HumanMessage("more")])
    assert engine.requests[1].messages[1].text == "Four."
    assert engine.requests[1].messages[1].reasoning is None
    model = ChatSLM(ScriptedModel(["<think>hm</think>"]), fallback=HostedChat())
    chunks = list(model.stream("q"))
    assert chunks[0].additional_kwargs == {"reasoning_content": "hm"}
    assert "".join(str(chunk.content) for chunk in chunks) == "a hosted answer"


@pytest.mark.parametrize("hooks", [[], [lambda call: None]])
@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_ONLY"])
def test_t6_thoughts_are_on_spans_where_content_is(spans, monkeypatch, capture, hooks) -> None:
    """As a part of the answer, of any integration that tells them."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture)
    listening = using(CallRecorder(tracer_provider=spans.provider, hooks=hooks))
    ChatSLM(ScriptedModel(["<think>SECRET</think>Four."])).invoke("q", listening)
    blocks = [{"type": "thinking", "thinking": "SECRET"}, {"type": "text", "text": "Four."}]
    HostedChat(replies=[AIMessage(blocks)]).invoke("q", listening)
    for span in spans.named("chat"):
        if capture == "NO_CONTENT":
            assert "SECRET" not in str(span.attributes)
            continue
        (said,) = json.loads(span.attributes["gen_ai.output.messages"])
        assert said["parts"] == [
            {"type": "reasoning", "content": "SECRET"},
            {"type": "text", "content": "Four."},
        ]
    assert len(spans.named("chat")) == 2


def test_tool_calls_stream_in_pieces() -> None:
    """The first has id, name and index, the others pieces of the arguments' JSON."""
    chunks = list(ChatSLM(ScriptedModel([ADD])).bind_tools([add]).stream("q"))
    pieces = [chunk.tool_call_chunks[0] for chunk in chunks if chunk.tool_call_chunks]
    assert (pieces[0]["name"], pieces[0]["id"], pieces[0]["args"]) == ("add", ADD.id, "")
    assert len(pieces) > 2
    assert {(p["name"], p["id"], p["index"]) for p in pieces[1:]} == {(None, None, 0)}
    assert "".join(piece["args"] for piece in pieces) == ADD.arguments


@pytest.mark.parametrize("arguments", ['{"a": "x"}', "no JSON"])
async def test_a_streamed_call_that_does_not_fit(arguments: str) -> None:
    """A fallback answers in its place, and nothing was shown; without one pieces were, and the
    error of a plain call ends the stream."""
    wrong = ToolCall("c", "add", arguments)
    model = ChatSLM(ScriptedModel([wrong]), fallback=HostedChat()).bind_tools([add])
    assert "".join(str(chunk.content) for chunk in model.stream("q")) == "a hosted answer"
    shown = []
    with pytest.raises(errors.InvalidReplyError):
        async for chunk in ChatSLM(ScriptedModel([wrong])).bind_tools([add]).astream("q"):
            shown.append(chunk)
    assert shown[0].tool_call_chunks[0]["name"] == "add"


def test_structured_output_in_every_form() -> None:
    """A pydantic class comes back as an instance, with and without the raw message."""

    class Person(BaseModel):
        """A person."""

        name: str

    answer = ToolCall("c1", "Person", '{"name": "Ada"}')
    model = ChatSLM(ScriptedModel([answer]))
    assert model.with_structured_output(Person).invoke("q") == Person(name="Ada")
    raw = model.with_structured_output(Person, include_raw=True).invoke("q")
    assert raw["parsed"] == Person(name="Ada")
    assert model.with_structured_output(Person.model_json_schema()).invoke("q") == {"name": "Ada"}


def test_t30_model_can_be_chosen_per_call(spans, recorder) -> None:
    """``model=`` at call time picks another engine and is what the span says."""
    model = ChatSLM(ScriptedModel(["first"], name="one"))
    answer = model.invoke("q", using(recorder), model=ScriptedModel(["second"], name="two"))
    assert answer.content == "second"
    assert spans.one("chat two").attributes["gen_ai.response.model"] == "two"


def test_t31_response_format_together_with_tools() -> None:
    """Both reach the engine; the answer is checked against the one that applies."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    engine = ScriptedModel(['{"a": 1}', '{"a": "no"}'])
    model = ChatSLM(engine).bind_tools([add], response_format=wanted)
    assert json.loads(model.invoke("q").content) == {"a": 1}
    assert engine.requests[0].response_format == wanted
    with pytest.raises(errors.InvalidReplyError):
        model.invoke("q")


def test_an_agent_runs_on_it(spans, recorder, calls) -> None:
    """A real create_agent loop: tool call, tool, answer; the spans are INTERNAL and ours."""
    agent = create_agent(ChatSLM(ScriptedModel([ADD, "three"])), [add], name="adder")
    result = agent.invoke({"messages": [("user", "1+2?")]}, using(recorder))
    assert result["messages"][-1].content == "three"
    chats = spans.named("chat scripted")
    assert [span.kind for span in chats] == [SpanKind.INTERNAL] * 2
    assert chats[0].attributes["gen_ai.provider.name"] == "slm_adapters"
    assert len(spans.all()) == 4
    assert calls[0].usage.source == "tokenizer"


def test_the_engine_runs_inside_the_span(spans, recorder) -> None:
    """Spans made while answering nest under the call, also in streams."""
    tracer = spans.provider.get_tracer("inner")

    class Traced(ScriptedModel):
        def stream(self, request, cancel=None):
            with tracer.start_as_current_span("inside"):
                events = list(super().stream(request, cancel))
            yield from events

    model = ChatSLM(Traced(["some words"]))
    model.invoke("q", using(recorder))
    for _ in model.stream("q", using(recorder)):
        assert not trace.get_current_span().get_span_context().is_valid
    assert [spans.parent_name(s) for s in spans.named("inside")] == ["chat scripted"] * 2


def test_without_a_callback_the_default_recorder_tells(default_spans) -> None:
    """No callback is needed for spans, of an answer, a stream, or an error."""
    model = ChatSLM(ScriptedModel(["hello there", "hello there", ValueError("x")]))
    with captured_calls() as seen:
        model.invoke("q")
        list(model.stream("q"))
        with pytest.raises(ValueError):
            model.invoke("q")
    first, second, third = default_spans.named("chat scripted")
    assert first.kind is SpanKind.INTERNAL
    assert second.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert third.attributes["error.type"] == "ValueError"
    assert [call.outcome for call in seen] == ["finished", "finished", "failed"]
    assert seen[0].messages[0].text == "q"


async def test_never_two_spans_for_one_call(default_spans, recorder) -> None:
    """With a recorder on the run, however it got there, the default one keeps silent."""
    model = ChatSLM(ScriptedModel(["hello there"]))
    config = using(recorder)
    model.invoke("q", config)
    list(model.stream("q", config))
    await model.ainvoke("q", config)
    _ = [chunk async for chunk in model.astream("q", config)]
    traced(model, recorder=recorder).invoke("q")
    assert list(model.stream_events("q", config, version="v3"))
    _ = [event async for event in model.astream_events("q", config, version="v2")]
    model.batch(["a", "b"], config)
    model.generate([[HumanMessage("a")], [HumanMessage("b")]], callbacks=[recorder])
    model.generate([[HumanMessage("a")], [HumanMessage("b")]], callbacks=[recorder], stream=True)
    assert len(default_spans.named("chat")) == 13
    assert recorder.open_runs == 0


def test_t32_closing_a_stream_stops_the_model(spans, recorder) -> None:
    """The engine is told, and the span is abandoned, not failed."""
    engine = Endless()
    stream = ChatSLM(engine).stream("q", using(recorder))
    next(stream)
    stream.close()
    assert engine.stopped.wait(10)
    assert spans.one("chat").status.status_code is StatusCode.UNSET


async def test_t32_cancelling_stops_the_model(default_spans) -> None:
    """A cancelled ``ainvoke`` or ``astream`` ends generation and span at once."""
    first, second = Endless(), Endless()
    second_stream = ChatSLM(second).astream("q")

    async def consume() -> None:
        async for _ in second_stream:
            pass

    for engine, work in ((first, ChatSLM(first).ainvoke("q")), (second, consume())):
        task = asyncio.create_task(work)
        await until(engine.started.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(engine.stopped.wait, 10)
    for span in default_spans.named("chat endless"):
        assert span.attributes["error.type"].endswith("CancelledError")
    assert len(default_spans.all()) == 2


def test_t29_the_cache_key_holds_everything_that_changes_an_answer() -> None:
    """Models that would answer differently never share a cached answer."""
    cache = InMemoryCache()
    one, two = ScriptedModel(["one"]), ScriptedModel(["two"])
    assert ChatSLM(one, cache=cache).invoke("q").content == "one"
    assert ChatSLM(one, cache=cache).invoke("q").content == "one"
    assert len(one.requests) == 1
    assert ChatSLM(two, cache=cache).invoke("q").content == "two"
    base = ChatSLM("some/model")
    changed = [
        {"model": "other/model"}, {"quantization": "int8"}, {"revision": "v2"}, {"seed": 1},
        {"dtype": "float16"}, {"temperature": 0.5}, {"top_p": 0.5}, {"top_k": 4},
        {"max_tokens": 9}, {"stop": ["x"]}, {"context_window": 512}, {"fallback": HostedChat()},
    ]  # fmt: skip
    keys = {base._get_llm_string()}
    keys |= {ChatSLM(**{"model": "some/model", **change})._get_llm_string() for change in changed}
    assert len(keys) == len(changed) + 1


def test_copies_and_pickles_have_no_weights() -> None:
    """Constructing, copying and pickling touch no weights; copies count for themselves."""
    began = time.perf_counter()
    model = ChatSLM("some/model", temperature=0.3)
    assert time.perf_counter() - began < 0.05
    assert pickle.loads(pickle.dumps(model)).temperature == 0.3
    busy = ChatSLM(ScriptedModel([ValueError()]), fallback=HostedChat())
    twin = copy.deepcopy(busy)
    assert twin.model is busy.model
    assert twin.fallbacks is not busy.fallbacks


# Errors and fallbacks

OVERFLOW = errors.ContextOverflowError("tiny", 900, 100, 512)


def test_a_dump_of_langchain_s_builds_the_same_model() -> None:
    """Settings and the fallback's, no key; what is no JSON says so when it is loaded."""
    hosted = ChatOpenAI(model="gpt-4.1-mini", api_key="sk-secret")
    model = ChatSLM("org/model", fallback=hosted, temperature=0.5, stop=["END"], seed=3)
    dumped = dumpd(model)
    assert "sk-secret" not in json.dumps(dumped)
    known = {"allowed_objects": [ChatSLM, ChatOpenAI], "valid_namespaces": ["slm_adapters"]}
    again = load(dumped, secrets_map={"OPENAI_API_KEY": "sk-secret"}, **known)
    assert again.dict() == model.dict()
    assert again.fallback.model_name == "gpt-4.1-mini"
    for no_json in (ChatSLM(ScriptedModel(["x"])), ChatSLM("m", router=Router(Copied()))):
        with pytest.raises(NotImplementedError):
            load(dumpd(no_json), **known)


def test_without_a_model_the_environment_names_it(monkeypatch) -> None:
    """A deployment chooses; the model inside the package is the default."""
    assert ChatSLM().model == "bundled"
    monkeypatch.setenv("SLM_ADAPTERS_MODEL", "org/model")
    assert ChatSLM().model == "org/model"
    assert ChatSLM("other").model == "other"


def test_overflow_is_langchains_error_too() -> None:
    """Middleware that catches LangChain's classes catches ours; the data stays."""
    with pytest.raises(langchain_errors.ContextOverflowError) as caught:
        ChatSLM(ScriptedModel([OVERFLOW])).invoke("q")
    assert isinstance(caught.value, errors.ContextOverflowError)
    assert (caught.value.prompt_tokens, str(caught.value)) == (900, str(OVERFLOW))
    with pytest.raises(langchain_errors.ModelTimeoutError) as late:
        ChatSLM(ScriptedModel([errors.DeadlineExceededError("late.")])).invoke("q")
    assert isinstance(late.value, errors.DeadlineExceededError)


def test_an_empty_answer_is_never_returned() -> None:
    """Nothing said is an error, in a stream as well."""
    for ask in (lambda m: m.invoke("q"), lambda m: list(m.stream("q"))):
        with pytest.raises(errors.EmptyReplyError):
            ask(ChatSLM(ScriptedModel([""])))


def test_only_a_sampling_model_tries_again() -> None:
    """A greedy model would repeat itself; a sampling one gets ``max_retries`` further tries."""
    greedy, sampling = ScriptedModel(["", "ok"]), ScriptedModel(["", "ok"])
    with pytest.raises(errors.EmptyReplyError):
        ChatSLM(greedy).invoke("q")
    assert ChatSLM(sampling, temperature=0.7).invoke("q").content == "ok"


@pytest.mark.parametrize("wrong", [3, object(), len])
def test_what_langchain_cannot_invoke_is_no_fallback(wrong) -> None:
    """The mistake is named at construction, with what to pass instead."""
    with pytest.raises(errors.InvalidFallbackError, match="pass a chat model"):
        ChatSLM("some/model", fallback=wrong)


async def test_the_fallback_answers_with_the_reason_on_the_span(spans, recorder, calls) -> None:
    """Sync and async: the LLM's call nests under the SLM's, and tokens are counted once."""
    model = ChatSLM(ScriptedModel([OVERFLOW]), fallback=HostedChat())
    for answer in (model.invoke("q", using(recorder)), await model.ainvoke("q", using(recorder))):
        assert answer.content == "a hosted answer"
        assert answer.response_metadata["fallback_reason"] == "overflow"
    for outer in spans.named("chat scripted"):
        assert outer.attributes["slm_adapters.fallback.reason"] == "overflow"
        assert outer.attributes["slm_adapters.fallback.model"] == "hosted-1"
        assert outer.attributes["gen_ai.response.model"] == "hosted-1-2026"
        assert "gen_ai.usage.input_tokens" not in outer.attributes
        assert outer.status.status_code is StatusCode.UNSET
    inner = spans.named("chat hosted-1")
    assert [spans.parent_name(span) for span in inner] == ["chat scripted"] * 2
    assert model.fallbacks.reasons == {"overflow": 2}
    assert sum(call.usage.input_tokens for call in calls if call.usage) == 22


async def test_the_fallback_streams_when_nothing_was_shown(spans, recorder) -> None:
    """Before the first chunk the LLM takes over the stream; its span nests as well."""
    model = ChatSLM(ScriptedModel([OVERFLOW]), fallback=HostedChat())
    text = "".join(chunk.text for chunk in model.stream("q", using(recorder)))
    atext = "".join([chunk.text async for chunk in model.astream("q", using(recorder))])
    assert text == atext == "a hosted answer"
    assert [spans.parent_name(s) for s in spans.named("chat hosted-1")] == ["chat scripted"] * 2
    for outer in spans.named("chat scripted"):
        assert "gen_ai.usage.input_tokens" not in outer.attributes
    assert len(spans.all()) == 4


def test_after_a_shown_chunk_there_is_no_fallback() -> None:
    """Half an answer is never continued by another model: the error is raised."""

    class Breaks(ScriptedModel):
        def stream(self, request, cancel=None):
            yield Chunk(text="half ")
            raise errors.DeadlineExceededError("late.")

    stream = ChatSLM(Breaks(["x"]), fallback=HostedChat()).stream("q")
    assert next(stream).text == "half "
    with pytest.raises(errors.DeadlineExceededError):
        next(stream)


def test_the_fallback_gets_tools_choice_and_stop() -> None:
    """What was bound to the SLM is bound to the LLM."""
    seen: dict = {}

    class Watching(HostedChat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            seen.update(kwargs, stop=stop, messages=messages)
            return super()._generate(messages, stop, run_manager, **kwargs)

    model = ChatSLM(ScriptedModel(["no call"]), fallback=Watching())
    model.bind_tools([add], tool_choice="any").invoke([HumanMessage("q")], stop=["END"])
    assert seen["tools"][0]["function"]["name"] == "add"
    assert (seen["tool_choice"], seen["stop"]) == ("any", ["END"])
    assert seen["messages"] == [HumanMessage("q")]
    assert model.fallbacks.reasons == {"invalid_reply": 1}


def test_the_fallbacks_own_error_is_raised(spans, recorder) -> None:
    """When both fail the LLM's error is what the caller sees; both spans say so."""
    model = ChatSLM(ScriptedModel([OVERFLOW]), fallback=HostedChat(replies=[ConnectionError("x")]))
    with pytest.raises(ConnectionError):
        model.invoke("q", using(recorder))
    assert [s.attributes["error.type"] for s in spans.named("chat")] == ["ConnectionError"] * 2


def test_programming_errors_do_not_fall_back() -> None:
    """Only what a model can get wrong goes to the LLM."""
    hosted = HostedChat()
    with pytest.raises(ZeroDivisionError):
        ChatSLM(ScriptedModel([ZeroDivisionError()]), fallback=hosted).invoke("q")
    assert hosted.turns == []


def test_any_runnable_over_an_llm_is_a_fallback() -> None:
    """Chains and bound models work; a model nobody can find falls back too."""
    chained = HostedChat() | RunnableLambda(lambda message: message)
    assert ChatSLM("/no/such/model", fallback=chained).invoke("q").content == "a hosted answer"


def test_images_are_refused_by_name_or_left_to_the_fallback() -> None:
    """A text model says what it cannot read."""
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])
    with pytest.raises(errors.UnsupportedContentError, match="image_url"):
        ChatSLM(ScriptedModel(["x"])).invoke([image])
    model = ChatSLM(ScriptedModel(["x"]), fallback=HostedChat())
    assert model.invoke([image]).content == "a hosted answer"


def test_the_fallback_without_a_callback_is_seen_too(default_spans) -> None:
    """The default recorder sees both calls."""
    ChatSLM(ScriptedModel([OVERFLOW]), fallback=HostedChat()).invoke("q")
    assert default_spans.tree() == [("chat hosted-1", "chat scripted"), ("chat scripted", None)]
