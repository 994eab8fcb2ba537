"""LangChain's own standard suites on ``ChatSLM`` over an engine that answers from the request."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from slm_adapters.calls import Tool, ToolCall
from slm_adapters.engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from slm_adapters.langchain import ChatSLM
from slm_adapters.testing import Answer, ScriptedModel


def sensible(request: ChatRequest) -> Answer:
    """Calls a tool when one is due, honours stop, and otherwise answers in words."""
    if request.tools and _tool_is_due(request):
        named = [tool for tool in request.tools if tool.name == request.tool_choice]
        tool = (named or list(request.tools))[0]
        return ToolCall(f"call_{len(request.messages)}", tool.name, _arguments(tool, request))
    text = "Hello there, this is a sensible answer, with commas, and an end."
    for stop in request.stop:
        text = text.split(stop)[0]
    return text


def _tool_is_due(request: ChatRequest) -> bool:
    if request.tool_choice != "auto":
        return request.tool_choice != "none"
    return request.messages[-1].role == "user"


def _arguments(tool: Tool, request: ChatRequest) -> str:
    asked = request.messages[-1].text
    definitions = tool.parameters.get("$defs", {})
    required = tool.parameters.get("required", [])
    properties = tool.parameters.get("properties", {})
    made = {
        name: _value(name, schema, definitions, asked)
        for name, schema in properties.items()
        if name in required
    }
    return json.dumps(made, ensure_ascii=False)


def _value(name: str, schema: Mapping[str, Any], definitions: Mapping[str, Any], asked: str) -> Any:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    if "enum" in schema:
        return schema["enum"][0]
    if name == "customer_name":
        return re.findall(r"'([^']+)'", asked)[0]
    if name == "input":
        return 3
    return {
        "integer": 3, "number": 3.0, "boolean": True, "array": [], "object": {},
    }.get(schema.get("type", "string"), asked or "text")  # fmt: skip


class Sensible(ScriptedModel):
    """Counts cached and reasoning tokens, as a local model does: all but the last message is old
    news, and of every answer it thought one token."""

    def __init__(self, name: str) -> None:
        super().__init__(sensible, name=name)

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        *chunks, last = super().stream(request, cancel)
        yield from chunks
        assert isinstance(last, Completion)
        known = self.count_tokens(request.messages[:-1])
        usage = dataclasses.replace(last.usage, cached_tokens=known, reasoning_tokens=1)
        yield dataclasses.replace(last, usage=usage)


class SensibleSLM(ChatSLM):
    """Finds scripted engines by name, as the loader finds weights."""

    def _engine(self, kwargs: Mapping[str, Any]) -> ChatEngine:
        model = kwargs.get("model") or self.model
        return Sensible(model if isinstance(model, str) else model.name)


#: The package names a function of its own like it.
load = importlib.import_module("langchain_core.load.load")

PARAMS = {"model": "scripted/one", "temperature": 0}
DETAILS = ["cache_read_input", "reasoning_output"]


class TestChatSLMUnit(ChatModelUnitTests):
    """Standard unit suite."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return PARAMS

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"SLM_ADAPTERS_MODEL": "scripted/one"}, {}, {"model": "scripted/one"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.fixture(autouse=True)
    def _langchain_knows_us(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``load(allowed_objects="all")`` means LangChain's own closed table; ``test_serdes`` can
        only pass for classes in it. Users pass ``allowed_objects=[ChatSLM]``, tested elsewhere."""
        path = tuple(ChatSLM.lc_id())
        monkeypatch.setitem(load.ALL_SERIALIZABLE_MAPPINGS, path, path)
        monkeypatch.setattr(load, "_default_class_paths_cache", {})


class TestChatSLMIntegration(ChatModelIntegrationTests):
    """Standard integration suite; only inputs a text model cannot read are switched off."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SensibleSLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return PARAMS

    @property
    def enable_vcr_tests(self) -> bool:
        # No cassette: a local model sends nothing that could be recorded.
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:  # type: ignore[override]
        return {"invoke": DETAILS, "stream": DETAILS}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return _asked(self.chat_model_class(**self.chat_model_params), stream)

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return _asked(self.chat_model_class(**self.chat_model_params), stream)

    @property
    def model_override_value(self) -> str:
        return "scripted/two"

    @property
    def supports_json_mode(self) -> bool:
        return True


def _asked(model: BaseChatModel, stream: bool) -> AIMessage:
    """The answer to a conversation that begins with something known."""
    messages = [("system", "Be brief and helpful."), ("user", "hi"), ("ai", "hi"), ("user", "why?")]
    if not stream:
        return model.invoke(messages)
    whole, *rest = model.stream(messages)
    for chunk in rest:
        whole += chunk
    return whole
