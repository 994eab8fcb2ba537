"""The same class on a real vLLM, over float weights that are here too, with a LoRA adapter.

It needs an environment of its own; see ``real_servers.VLLM``.
"""

from __future__ import annotations

import json

import pytest
from crewai_cases import HostedLLM, crew, tool
from peft_adapters import random_adapter
from real_servers import in_all_four_ways, vllm, why_no_vllm
from taught_model import ANSWER, FORCED, JSON, LOOK_UP, QUESTION, taught_model

from slm_adapters import errors
from slm_adapters.calls import Message, Tool
from slm_adapters.crewai import SLM
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.engine.loader import load_engine

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(bool(why_no_vllm()), reason=why_no_vllm()),
]
WINDOW = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Its attention on a CPU takes heads of 32 or more."""
    return taught_model(tmp_path_factory.mktemp("vllm") / "tiny", head_dim=32)


@pytest.fixture(scope="module")
def adapter(folder):
    return random_adapter(folder, folder.parent / "triage", 1)


@pytest.fixture(scope="module")
def server(folder, adapter):
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    with vllm(
        folder, adapter, "--max-model-len", str(WINDOW), "--enable-prompt-tokens-details", *tools
    ) as url:
        yield url


@pytest.fixture
def engine(server):
    return load_engine("tiny", base_url=server)


def local(folder, **options):
    return load_engine(folder, quantization="none", dtype="float32", **options)


def test_the_same_text_as_in_this_process_in_all_four_ways(folder, engine) -> None:
    request = ChatRequest(QUESTION, max_tokens=40)
    here = local(folder).complete(request)

    for there in in_all_four_ways(engine, request):
        assert there.reply == here.reply
        assert there.reply.message.text == ANSWER
        assert there.usage.input_tokens == here.usage.input_tokens
        assert there.usage.cached_tokens is not None
    assert (engine.provider, engine.context_window) == ("vllm", WINDOW)
    tools = (LOOK_UP,)
    assert engine.count_tokens(QUESTION, tools) == local(folder).count_tokens(QUESTION, tools)


def test_an_adapter_by_its_name(folder, adapter, server) -> None:
    """As the model, and as ``adapter=`` on its base: what the local engine writes with it."""
    request = ChatRequest(QUESTION, max_tokens=20)
    said = local(folder, adapter=adapter).complete(request).reply.message.text
    assert said != ANSWER
    for engine in (
        load_engine("triage", base_url=server),
        load_engine("tiny", base_url=server, adapter="triage"),
    ):
        answer = engine.complete(request)
        assert (answer.reply.message.text, answer.model) == (said, "triage")
        assert engine.context_window == WINDOW


def test_tools_and_structure(engine) -> None:
    for choice in ("required", "look_up"):
        request = ChatRequest(FORCED, (LOOK_UP,), tool_choice=choice, max_tokens=120)
        for answer in (engine.complete(request), list(engine.stream(request))[-1]):
            (call,) = answer.reply.message.tool_calls
            assert (call.name, call.parsed()) == ("look_up", {"word": "cat"})
    for words in (*QUESTION, Message("user", "hm")):
        request = ChatRequest((words,), response_format=JSON, max_tokens=60)
        assert set(json.loads(engine.complete(request).reply.message.text)) == {"a"}
    assert not engine.server.model("tiny").dialect.refused


def test_a_schema_it_has_no_grammar_for_costs_that_call_only(engine) -> None:
    broken = {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": broken}}
    assert engine.complete(ChatRequest(QUESTION, response_format=wanted, max_tokens=9))
    odd = Tool("odd", "Odd.", broken)
    request = ChatRequest(QUESTION, (odd,), tool_choice="required", max_tokens=9)
    assert engine.complete(request).reply.finish_reason == "length"
    assert not engine.server.model("tiny").dialect.refused


def test_a_crew_calls_its_tool_on_the_server(server) -> None:
    llm = SLM("tiny", base_url=server, fallback=HostedLLM())
    assert crew(llm, tools=[tool()]).kickoff().raw == "cat found"
    assert llm.fallback_count == 0


def test_errors(server, engine) -> None:
    """Overflow before it is sent and after, and a name it does not have."""
    long = ChatRequest((Message("user", "please help me " * 400),), max_tokens=20)
    counted = engine.count_tokens(long.messages)
    with pytest.raises(errors.ContextOverflowError) as before:
        engine.complete(long)
    assert (before.value.prompt_tokens, before.value.window) == (counted, WINDOW)
    engine.server.model("tiny").window, engine.server._looked = None, {"tiny"}
    with pytest.raises(errors.ContextOverflowError, match="at least") as after:
        engine.complete(long)
    engine.server._looked.clear()
    assert after.value.window == WINDOW < after.value.prompt_tokens <= counted
    with pytest.raises(errors.ModelNotFoundError, match="'nope'"):
        load_engine("nope", base_url=server).complete(ChatRequest(QUESTION))
