"""LangChain's own standard suites on ``ChatSLM`` over an engine that answers from the request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from slm_adapters.calls import Tool, ToolCall
from slm_adapters.engine.engine import ChatEngine, ChatRequest
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


class SensibleSLM(ChatSLM):
    """Finds scripted engines by name, as the loader finds weights."""

    def _engine(self, kwargs: Mapping[str, Any]) -> ChatEngine:
        model = kwargs.get("model") or self.model
        name = model if isinstance(model, str) else model.name
        return ScriptedModel(sensible, name=name)


PARAMS = {"model": "scripted/one", "temperature": 0}


class TestChatSLMUnit(ChatModelUnitTests):
    """Standard unit suite."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return PARAMS

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestChatSLMIntegration(ChatModelIntegrationTests):
    """Standard integration suite; only inputs a text model cannot read are switched off."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SensibleSLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return PARAMS

    @property
    def model_override_value(self) -> str:
        return "scripted/two"

    @property
    def supports_json_mode(self) -> bool:
        return True
