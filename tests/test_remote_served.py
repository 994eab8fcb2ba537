"""The same class on a real server: transformers' own, over real weights, in another process."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import pickle
import time

import litellm
import pytest
from crewai_cases import HostedLLM, crew, tool
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool as langchain_tool
from opentelemetry.trace import SpanKind
from real_servers import free_port, in_all_four_ways, transformers_serve
from taught_model import ANSWER, CALL, JSON, LOOK_UP, QUESTION, taught_model
from tiny_models import teach, tiny_model

import slm_adapters.litellm as slm
from slm_adapters import errors
from slm_adapters.calls import Message
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.engine.engine import ChatRequest, Chunk
from slm_adapters.engine.loader import load_engine
from slm_adapters.langchain import CallRecorder as LangChainRecorder
from slm_adapters.langchain import ChatSLM


@langchain_tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: found"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return taught_model(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def server(folder):
    with transformers_serve(folder) as base_url:
        yield base_url


def test_the_same_text_as_in_this_process_in_all_four_ways(folder, server) -> None:
    """Greedy: byte for byte what the local engine writes, and the same counts."""
    request = ChatRequest(QUESTION, max_tokens=40)
    here = load_engine(folder, quantization="none", dtype="float32").complete(request)
    engine = load_engine(str(folder), base_url=server)

    for there in in_all_four_ways(engine, request):
        assert there.reply == here.reply
        assert there.reply.message.text == ANSWER
        assert there.usage.input_tokens == here.usage.input_tokens
        assert (there.usage.source, there.model) == ("provider", "tiny@main")
    assert (engine.name, engine.local) == ("tiny", False)


def test_a_field_it_does_not_know_is_left_out(folder, server) -> None:
    """It answers 422 to top_k, and drops response_format and tool_choice without a word."""
    engine = load_engine(str(folder), base_url=server)
    answer = engine.complete(ChatRequest(QUESTION, top_k=1, seed=3, max_tokens=40))
    assert answer.reply.message.text == ANSWER
    asked = ChatRequest(QUESTION, response_format=JSON, max_tokens=40)
    assert json.loads(engine.complete(asked).reply.message.text) == {"a": 1}
    forced = ChatRequest(QUESTION, (LOOK_UP,), tool_choice="required", max_tokens=200)
    assert not engine.complete(forced).reply.message.tool_calls
    assert engine.server.model(str(folder)).dialect.refused == {"top_k", "tool_choice"}


def test_a_long_reply_is_given_up_within_a_step(tmp_path) -> None:
    """By the deadline and by closing the stream; the next call is served at once."""
    place = never_ending(tiny_model(tmp_path / "random"))
    with transformers_serve(place) as base_url:
        engine = load_engine(str(place), base_url=base_url)
        endless, needed = long_reply(engine)
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceededError):
            list(engine.stream(dataclasses.replace(endless, timeout=needed / 4)))
        assert time.monotonic() - began < needed

        async def give_up() -> float:
            events = engine.astream(endless)
            assert isinstance(await anext(events), Chunk)
            began = time.monotonic()
            await events.aclose()
            return time.monotonic() - began

        assert asyncio.run(give_up()) < needed / 4
        began = time.monotonic()
        with contextlib.suppress(errors.EmptyReplyError):  # its one token may open a thought
            engine.complete(ChatRequest(QUESTION, max_tokens=1))
        assert time.monotonic() - began < needed


def never_ending(folder):
    """Its end of message becomes a token that it does not have."""
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": 100_000}))
    return folder


def long_reply(engine) -> tuple[ChatRequest, float]:
    """A question that is answered at length, and the seconds that takes."""
    for word in ("hi", "a", "order", "Please", "Where"):
        request = ChatRequest((Message("user", word),), max_tokens=400)
        began = time.monotonic()
        # Random weights may begin with a thought and never come out of it.
        with contextlib.suppress(errors.EmptyReplyError):
            assert engine.complete(request).usage.output_tokens == 400
            return request, time.monotonic() - began
    raise AssertionError("the random model only thinks")


def test_overflow_with_a_tokenizer_of_our_own(folder, server) -> None:
    """The server itself writes on past its window; with ``tokenizer=`` nothing is sent."""
    engine = load_engine(str(folder), base_url=server, tokenizer=str(folder), context_window=200)
    here = load_engine(folder, quantization="none", dtype="float32")
    assert engine.count_tokens(QUESTION, (LOOK_UP,)) == here.count_tokens(QUESTION, (LOOK_UP,))
    with pytest.raises(errors.ContextOverflowError, match=r"of tiny \(200 tokens\)"):
        engine.complete(ChatRequest((Message("user", "please help me " * 80),)))


def test_a_crew_calls_its_tool_on_the_server(folder, server, spans) -> None:
    """Native tools, whose calls come back as text and are read here; CLIENT spans with the
    server's address; copies and pickles work on."""
    llm = SLM(str(folder), base_url=server, api_key="sk-secret", fallback=HostedLLM())
    with CallRecorder(tracer_provider=spans.provider):
        result = crew(llm, tools=[tool()]).kickoff()
    assert result.raw == "cat found"
    assert llm.fallback_count == 0
    first, second = spans.named("chat tiny")
    for span in (first, second):
        assert span.kind is SpanKind.CLIENT
        assert span.attributes["server.address"] == "127.0.0.1"
        assert span.attributes["gen_ai.provider.name"] == "openai_compatible"
    assert first.attributes["gen_ai.response.finish_reasons"] == ("tool_call",)
    everything = "".join(span.to_json() for span in spans.all())
    assert "sk-secret" not in everything + repr(llm) + str(llm.model_dump())
    assert b"sk-secret" not in pickle.dumps(SLM(str(folder), base_url=server, api_key="sk-secret"))
    assert copy.copy(llm).call("Where is my order?") == ANSWER
    again = pickle.loads(pickle.dumps(SLM(str(folder), base_url=server)))
    assert again.call("Where is my order?") == ANSWER


def test_a_crews_context_window_is_the_servers(folder) -> None:
    """Nobody there: the fallback's, and the call itself falls back."""
    llm = SLM("m", base_url=f"http://127.0.0.1:{free_port()}/v1", fallback=HostedLLM())
    assert crew(llm).kickoff().raw == "hosted answer"
    assert llm.fallback_reasons == {"unreachable": 1}


async def test_langchain_on_the_server(folder, server, spans) -> None:
    """invoke, stream, tools and structure, with one CLIENT span each."""
    model = ChatSLM(str(folder), base_url=server, api_key="sk-secret", max_tokens=60)
    recorder = LangChainRecorder(tracer_provider=spans.provider)
    config = {"callbacks": [recorder]}
    message = model.invoke("Where is my order?", config)
    assert (message.content, message.usage_metadata["output_tokens"] > 1) == (ANSWER, True)
    assert message.response_metadata["model_provider"] == "openai_compatible"
    chunks = [chunk async for chunk in model.astream("Where is my order?", config)]
    assert "".join(str(chunk.content) for chunk in chunks) == ANSWER
    assert model.invoke([HumanMessage("Where is my order?")], response_format=JSON)
    assert [span.kind for span in spans.named("chat tiny")] == [SpanKind.CLIENT] * 2
    assert {span.attributes["server.address"] for span in spans.all()} == {"127.0.0.1"}
    assert "sk-secret" not in repr(model) + str(model.dict()) + str(model._identifying_params)
    assert b"sk-secret" not in pickle.dumps(model)
    assert copy.deepcopy(model).invoke("Where is my order?").content == ANSWER


def test_litellm_on_the_server(folder, server) -> None:
    """``slm/...`` with api_base: plain, streamed, and typed errors where nobody is."""
    litellm.suppress_debug_info = True
    slm.register()
    try:
        ask = {
            "model": f"slm/{folder}",
            "messages": [{"role": "user", "content": QUESTION[0].text}],
        }
        answer = litellm.completion(**ask, api_base=server, api_key="sk-secret", max_tokens=40)
        assert answer.choices[0].message.content == ANSWER
        chunks = litellm.completion(**ask, api_base=server, stream=True, max_tokens=40)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWER
        nobody = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(litellm.ServiceUnavailableError, match="no model server answers"):
            litellm.completion(**ask, api_base=nobody)
    finally:
        slm.unregister()


def test_a_server_that_reads_the_calls_itself(tmp_path) -> None:
    """For Qwen's family it parses tool calls: the same result by the other way."""
    place = tiny_model(tmp_path / "qwen", "qwen3", window=1024)
    teach(place, {"look cat up": CALL}, tools=[LOOK_UP.to_openai()], steps=300)
    with transformers_serve(place) as base_url:
        engine = load_engine(str(place), base_url=base_url)
        request = ChatRequest((Message("user", "look cat up"),), (LOOK_UP,), max_tokens=60)
        for answer in (engine.complete(request), list(engine.stream(request))[-1]):
            (found,) = answer.reply.message.tool_calls
            assert (found.name, found.parsed()) == ("look_up", {"word": "cat"})
            assert answer.reply.finish_reason == "tool_call"
            assert "_tool_call_" in found.id
