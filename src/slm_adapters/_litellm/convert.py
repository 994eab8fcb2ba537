"""LiteLLM's requests and responses <-> the record's own. Pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..calls import Message, Reply, Tool, ToolCall, Usage
from ..engine.engine import ChatRequest, Completion, ToolChoice
from ..engine.text_only import check_text_only
from ..telemetry import semconv

__all__ = [
    "chat_request", "finish_reason_for_openai", "messages_from", "nanoseconds", "params_from",
    "replies_from", "tool_choice_from", "tools_from", "usage_from", "usage_numbers",
]  # fmt: skip

_PARAMS = frozenset((
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed", "stop", "n",
    "frequency_penalty", "presence_penalty", "tool_choice", "parallel_tool_calls",
    "encoding_format", "dimensions",
))  # fmt: skip
_OTHERWISE = "configure a fallback in the LiteLLM router"


def nanoseconds(moment: Any) -> int | None:
    """LiteLLM's times (naive local ``datetime``, or seconds) as Unix nanoseconds."""
    if isinstance(moment, datetime):
        return int(moment.timestamp() * 1e9)
    return int(moment * 1e9) if isinstance(moment, int | float) else None


def messages_from(kwargs: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of a logged call; a prompt or embedding input counts as the user's."""
    messages = kwargs.get("messages")
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        return tuple(Message.from_openai(m) for m in messages if isinstance(m, Mapping))
    text = kwargs.get("input") or messages
    texts = [text] if isinstance(text, str) else text or ()
    return tuple(Message("user", item) for item in texts if isinstance(item, str))


def tools_from(params: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools as the caller or LiteLLM's translation for a provider wrote them."""
    return tuple(_tool(tool) for tool in params.get("tools") or () if isinstance(tool, Mapping))


def _tool(tool: Mapping[str, Any]) -> Tool:
    if "input_schema" in tool:
        tool = {**tool, "parameters": tool["input_schema"]}
    return Tool.from_openai(tool)


def params_from(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters worth recording: known names only, so no key or address slips in."""
    return {
        name: value
        for name, value in params.items()
        if name in _PARAMS and value not in (None, [], {})
    }


def replies_from(response: Any) -> tuple[Reply, ...]:
    """One reply per choice of a chat or text completion; none for embeddings."""
    return tuple(_reply(choice) for choice in getattr(response, "choices", None) or ())


def _reply(choice: Any) -> Reply:
    message = getattr(choice, "message", None)
    if message is None:
        text = getattr(choice, "text", None)
        return Reply(Message("assistant", text), semconv.finish_reason(choice.finish_reason))
    calls = tuple(_tool_call(call) for call in getattr(message, "tool_calls", None) or ())
    reason = semconv.finish_reason(choice.finish_reason, has_tool_calls=bool(calls))
    return Reply(Message("assistant", message.content, tool_calls=calls), reason)


def _tool_call(call: Any) -> ToolCall:
    return ToolCall(call.id or "", call.function.name or "", call.function.arguments or "{}")


def usage_from(response: Any, *, exact: bool) -> Usage | None:
    """The counts of a response; ``exact=False`` when LiteLLM may have counted them itself."""
    usage = getattr(response, "usage", None)
    inputs, outputs = getattr(usage, "prompt_tokens", None), 0
    if not isinstance(inputs, int):
        return None
    if isinstance(getattr(usage, "completion_tokens", None), int):
        outputs = usage.completion_tokens  # type: ignore[union-attr]
    read = getattr(getattr(usage, "prompt_tokens_details", None), "cached_tokens", None)
    thought = getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None)
    return Usage(
        inputs,
        outputs,
        # LiteLLM fills unknown details with zeros.
        cached_tokens=read or None,
        reasoning_tokens=thought or None,
        source="provider" if exact else "estimated",
    )


def tool_choice_from(choice: Any) -> ToolChoice:
    """OpenAI's ``tool_choice`` as an engine's: auto, none, required or a tool's name."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        return str(function.get("name") if isinstance(function, Mapping) else choice.get("name"))
    return "required" if choice == "any" else str(choice or "auto")


def chat_request(
    messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], timeout: Any
) -> ChatRequest:
    """One OpenAI request as an engine takes it."""
    stop = params.get("stop")
    tools = tools_from(params)
    read = tuple(Message.from_openai(message) for message in messages)
    check_text_only(read, "an slm/ model", _OTHERWISE)
    return ChatRequest(
        messages=read,
        tools=tools,
        tool_choice=tool_choice_from(params.get("tool_choice")) if tools else "auto",
        response_format=_response_format(params.get("response_format")),
        max_tokens=params.get("max_tokens") or params.get("max_completion_tokens"),
        temperature=_or(params.get("temperature"), 0.0),
        top_p=_or(params.get("top_p"), 1.0),
        top_k=params.get("top_k"),
        seed=params.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        timeout=_seconds(timeout),
    )


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _response_format(wanted: Any) -> dict[str, Any] | None:
    return dict(wanted) if isinstance(wanted, Mapping) and wanted.get("type") != "text" else None


def _seconds(timeout: Any) -> float | None:
    """A number, or the read timeout of an ``httpx.Timeout``."""
    timeout = getattr(timeout, "read", timeout)
    return float(timeout) if isinstance(timeout, int | float) else None


def finish_reason_for_openai(completion: Completion) -> str:
    """stop, length or tool_calls."""
    reason = completion.reply.finish_reason or "stop"
    return "tool_calls" if reason == "tool_call" else reason


def usage_numbers(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage block; details only when they are known."""
    numbers: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        numbers["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        numbers["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return numbers
