"""CrewAI's shapes to and from the record. Pure functions, no I/O."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..messages import Message, Reply, Tool, ToolCall, Usage, as_json
from ..telemetry import semconv

__all__ = [
    "finish_reason",
    "low_cardinality",
    "messages_of",
    "model_of",
    "params_of",
    "provider_of",
    "react_tools_of",
    "reply_of",
    "response_format_of",
    "tool_calls_of",
    "tools_of",
    "usage_dict",
    "usage_of",
]

#: CrewAI's provider names -> the conventions' well-known values.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "aws": "aws.bedrock",
    "claude": "anthropic",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "slm": "slm_adapters",  # our provider in LiteLLM
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "eos": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "tool_calls": "tool_call",
    "tool_use": "tool_call",
    "function_call": "tool_call",
    "safety": "content_filter",
    "guardrail_intervened": "content_filter",
}
_PARAMETERS = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "n",
)


def low_cardinality(name: Any) -> str | None:
    """``name`` if it may name a span: short, one line, no ids in it; else None."""
    return _label(name) if isinstance(name, str) else None


# A program's agents and tasks are few, and each is asked for again and again.
@functools.lru_cache(maxsize=256)
def _label(name: str) -> str | None:
    text = name.strip()
    return text if semconv.may_be_a_label(text) else None


def messages_of(messages: Any) -> tuple[Message, ...]:
    """Text or OpenAI-style dicts to messages; CrewAI's own keys are left out."""
    if messages is None:
        return ()
    if isinstance(messages, str):
        return (Message("user", messages),)
    return tuple(Message.from_openai(m) for m in messages if isinstance(m, Mapping))


#: ``Action: ... only one name of [a, b], ...`` and ``Action: [name from a, b]``.
_ACTION = re.compile(r"^Action: [^\n]*\[(?:name from )?([^\[\]\n]+)\]", re.MULTILINE)


def react_tools_of(messages: Sequence[Message], stop: Sequence[str]) -> tuple[str, ...]:
    """Names of the tools an agent may act with in text; empty where it does not work that way.

    CrewAI describes them in the prompt then, and stops at the observation.
    """
    if not any("Observation:" in word for word in stop):
        return ()
    found = [match for message in messages for match in _ACTION.findall(message.text)]
    names = found[-1].split(",") if found else []
    return tuple(name.strip() for name in names if name.strip())


def tools_of(tools: Any) -> tuple[Tool, ...]:
    """OpenAI tool dicts to tools."""
    return tuple(Tool.from_openai(tool) for tool in tools or () if isinstance(tool, Mapping))


def tool_calls_of(response: Any) -> tuple[ToolCall, ...]:
    """The tool calls in a response, in any of the shapes CrewAI's providers return."""
    if not isinstance(response, list | tuple):
        return ()
    found = (_tool_call(item) for item in response)
    return tuple(call for call in found if call is not None)


def _tool_call(item: Any) -> ToolCall | None:
    if not isinstance(item, Mapping):
        function = getattr(item, "function", None)
        if function is None:
            return None
        item = {
            "id": getattr(item, "id", ""),
            "function": {
                "name": getattr(function, "name", ""),
                "arguments": getattr(function, "arguments", ""),
            },
        }
    function = item.get("function") or {}
    name = function.get("name") or item.get("name")
    if not name:
        return None
    arguments = function.get("arguments") or item.get("arguments") or item.get("input") or {}
    call_id = item.get("call_id") or item.get("id") or item.get("toolUseId") or ""
    return ToolCall.from_openai({"id": call_id, "name": name, "arguments": arguments})


def reply_of(response: Any, reason: str | None, *, with_content: bool) -> Reply:
    """A completed event's response as a reply; text and tool calls only ``with_content``."""
    calls = tool_calls_of(response)
    reason = finish_reason(reason) or ("tool_call" if calls else None)
    if not with_content:
        return Reply(_NOTHING_SAID, reason)
    if calls:
        return Reply(Message("assistant", tool_calls=calls), reason)
    return Reply(Message("assistant", _text(response)), reason)


_NOTHING_SAID = Message("assistant")


def _text(response: Any) -> str | None:
    if response is None or isinstance(response, str):
        return response
    dump = getattr(response, "model_dump_json", None)
    if callable(dump):
        return str(dump())
    return as_json(response)


def finish_reason(reason: str | None) -> str | None:
    """A provider's finish reason in the conventions' words."""
    if not reason:
        return None
    reason = reason.lower()
    return _FINISH_REASONS.get(reason, reason)


#: Counts without details say one thing only; the others are CrewAI's to read.
_PLAIN_COUNTS = {"prompt_tokens", "completion_tokens", "total_tokens", "successful_requests"}


def usage_of(usage: Mapping[str, Any] | None) -> Usage | None:
    """A completed event's usage dict, or None: no zeros are invented."""
    if not usage:
        return None
    if usage.keys() <= _PLAIN_COUNTS:
        inputs, outputs = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(inputs) is int and type(outputs) is int:
            return Usage(inputs, outputs) if inputs + outputs else None
    from crewai.types.usage_metrics import UsageMetrics

    metrics = UsageMetrics.from_provider_dict(dict(usage))
    if metrics is None or metrics.total_tokens == 0:
        return None
    return Usage(
        metrics.prompt_tokens,
        metrics.completion_tokens,
        cached_tokens=metrics.cached_prompt_tokens or None,
        cache_write_tokens=metrics.cache_creation_tokens or None,
        reasoning_tokens=metrics.reasoning_tokens or None,
    )


def usage_dict(usage: Usage) -> dict[str, Any]:
    """Usage in the keys CrewAI's counters read."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens or 0,
        "cache_creation_tokens": usage.cache_write_tokens or 0,
        "reasoning_tokens": usage.reasoning_tokens or 0,
    }


def params_of(event: Any) -> dict[str, Any]:
    """The request parameters of a started event, by OpenAI name."""
    params: dict[str, Any] = {}
    for name in _PARAMETERS:
        value = getattr(event, name, None)
        if value is not None:
            params[name] = value
    stop = getattr(event, "stop_sequences", None)
    if stop:
        params["stop"] = list(stop)
    return params


def provider_of(llm: Any) -> str | None:
    """``gen_ai.provider.name`` of a CrewAI LLM; None when it does not say."""
    kind: Any = type(llm)
    provider = str(getattr(llm, "provider", None) or "").lower()
    # BaseLLM's own default is "openai": on somebody else's class it says nothing.
    if provider == "openai" and not _is_crewais(kind):
        provider = ""
    if not provider:
        prefix, slash, _ = str(getattr(llm, "model", "")).partition("/")
        provider = prefix.lower() if slash else ""
    return _PROVIDERS.get(provider, provider) or None


def model_of(name: Any, llm: Any) -> Any:
    """``name`` without LiteLLM's prefix for the provider, as every other way to it is named."""
    if not getattr(llm, "is_litellm", False) or not isinstance(name, str):
        return name
    prefix, _, rest = name.partition("/")
    litellm = sys.modules.get("litellm")
    known = litellm is not None and prefix in litellm.provider_list
    return rest if rest and known else name


def runs_here(llm: Any) -> bool:
    """Whether ``llm`` is a model of ours by its LiteLLM name, ``slm/...``, and on no server."""
    named = str(getattr(llm, "model", "")).startswith("slm/")
    return named and not (getattr(llm, "base_url", None) or getattr(llm, "api_base", None))


@functools.lru_cache(maxsize=64)
def _is_crewais(llm: Any) -> bool:
    return any(
        kind.__module__.split(".")[0] == "crewai"
        and kind.__qualname__ not in ("BaseLLM", "BaseModel")
        for kind in llm.__mro__
    )


def response_format_of(model: type[Any] | None) -> dict[str, Any] | None:
    """OpenAI's ``response_format`` for a pydantic model."""
    if model is None:
        return None
    schema = {"name": model.__name__, "schema": model.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def openai_tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Tool calls as CrewAI's executor takes them."""
    return [call.to_openai() for call in calls]
