"""``ChatSLM`` on real transformers weights: tiny ones, taught their answers on the spot."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core import exceptions as langchain_errors
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from tiny_models import teach, tiny_model

from slm_adapters.engine.loader import loaded_models
from slm_adapters.langchain import CallRecorder, ChatSLM

#: Of the standard suite: what needs knowledge that 14 million parameters do not hold, inputs
#: other than text, and the check that forbids leaving any out.
_NOT_FOR_SO_SMALL_A_MODEL = (
    "test_tool_calling", "test_tool_calling_async", "test_unicode_tool_call_integration",
    "test_pdf_inputs", "test_audio_inputs", "test_image_inputs", "test_image_tool_message",
    "test_pdf_tool_message", "test_anthropic_inputs", "test_no_overrides_DO_NOT_OVERRIDE",
)  # fmt: skip


class TestTheStandardSuiteOnTheBundledModel(ChatModelIntegrationTests):
    """The shape of every answer, on real weights; its wisdom is not what is tested."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "bundled", "device": "cpu", "temperature": 0}

    @property
    def model_override_value(self) -> str:
        return "bundled"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:  # type: ignore[override]
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatSLM(**self.chat_model_params, max_tokens=20)
        history = [("system", "Be brief. " * 40), ("user", "Where is order AB-1?")]
        model.invoke(history)
        if not stream:
            answer = model.invoke(history)
        else:
            answer, *rest = model.stream(history)
            for chunk in rest:
                answer += chunk
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
        return answer


for _name in _NOT_FOR_SO_SMALL_A_MODEL:
    setattr(TestTheStandardSuiteOnTheBundledModel, _name, None)

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
    assert again.tool_calls[0]["name"] == chunks[0].tool_call_chunks[0]["name"] == "lookup_order"
    assert sum(chunks[1:], chunks[0]).tool_calls[0]["args"] == {"order_id": "AB-1"}
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > 3
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
