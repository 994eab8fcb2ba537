"""``ChatSLM`` on real transformers weights: tiny ones, taught their answers on the spot."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core import exceptions as langchain_errors
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from tiny_models import teach, tiny_model

from slm_adapters.engine.loader import loaded_models
from slm_adapters.langchain import CallRecorder, ChatSLM

ORDER = '<tool_call>\n{"name": "lookup_order", "arguments": {"order_id": "AB-1"}}\n</tool_call>'


@tool
def lookup_order(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is on its way"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tiny_model(tmp_path_factory.mktemp("langchain") / "tiny", window=512)
    asked = {"role": "user", "content": "Where is my order?"}
    function = {"name": "lookup_order", "arguments": {"order_id": "AB-1"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    found = {"role": "tool", "content": "AB-1 is on its way"}
    answers = [([asked], ORDER), ([asked, called, found], "It comes soon 🙂")]
    return teach(path, answers, tools=[convert_to_openai_tool(lookup_order)])


def loads_of(folder):
    """This model's loads; other tests' models may still be waiting for the garbage collector."""
    return [load for load in loaded_models() if load.model == str(folder)]


async def test_an_agent_calls_its_tool_on_real_weights(folder, spans) -> None:
    """create_agent, a real tokenizer, template and model: the tool runs with its arguments."""
    model = ChatSLM(folder, max_tokens=60)
    assert model.profile["max_input_tokens"] == 512
    assert not loads_of(folder)
    bound = model.bind_tools([lookup_order])
    recorder = CallRecorder(tracer_provider=spans.provider)
    config = {"callbacks": [recorder]}
    answer = bound.invoke("Where is my order?", config)
    assert answer.tool_calls[0]["args"] == {"order_id": "AB-1"}
    assert answer.usage_metadata["output_tokens"] > 0
    again = await bound.ainvoke("Where is my order?", config)
    chunks = list(bound.stream("Where is my order?", config))
    assert again.tool_calls[0]["name"] == chunks[-2].tool_call_chunks[0]["name"] == "lookup_order"
    assert len(loads_of(folder)) == 1
    for span in spans.named("chat"):
        assert span.attributes["slm_adapters.device"] == "cpu"
        assert span.attributes["slm_adapters.decode.tokens_per_second"] > 0
        assert span.attributes["slm_adapters.queue.seconds"] >= 0
        assert span.attributes["gen_ai.usage.cache_read.input_tokens"] >= 0
        assert span.attributes["gen_ai.provider.name"] == "slm_adapters"
    assert len(spans.all()) == 3


def test_the_whole_loop_runs(folder, spans) -> None:
    """The agent executes the tool the model asked for, inside one span tree."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    agent = create_agent(ChatSLM(folder, max_tokens=60), [lookup_order], name="desk")
    result = agent.invoke({"messages": [("user", "Where is my order?")]}, {"callbacks": [recorder]})
    assert [m.type for m in result["messages"]] == ["human", "ai", "tool", "ai"]
    assert result["messages"][-1].content == "It comes soon 🙂"
    assert spans.parent_name(spans.one("execute_tool lookup_order")) == "invoke_agent desk"
    assert len(spans.all()) == 4


def test_t11_overflow_is_refused_before_any_compute(folder) -> None:
    """A prompt beyond the window is LangChain's ContextOverflowError, never truncated."""
    with pytest.raises(langchain_errors.ContextOverflowError, match="maximum context length"):
        ChatSLM(folder).invoke("word " * 2000)


def test_tokens_are_counted_by_the_models_own_tokenizer(folder) -> None:
    """Counting needs no download and includes the template."""
    model = ChatSLM(folder)
    assert 0 < model.get_num_tokens("hello") < model.get_num_tokens("hello " * 50)
