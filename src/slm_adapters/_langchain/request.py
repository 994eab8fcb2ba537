"""One LangChain invocation -> one ``ChatRequest``. Pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from ..engine.engine import ChatRequest
from ..engine.text_only import check_text_only
from ..errors import InvalidToolError
from ..messages import Message
from ..telemetry.harmless import warn_once
from .convert import messages_from, tool_choice_from, tools_from

__all__ = ["chat_request", "distinct_tools", "text_messages_from"]

_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "timeout")
#: Said to hosted models, and without effect or always so on a local one.
_WITHOUT_EFFECT = {
    "model", "adapter", "stop", "tools", "tool_choice", "response_format", "stream",
    "stream_options", "strict", "parallel_tool_calls", "user", "metadata", "cache_control",
    "ls_structured_output_format", "structured_output_format", *_OPTIONS,
}  # fmt: skip


def chat_request(
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None,
    defaults: Mapping[str, Any],
    kwargs: Mapping[str, Any],
) -> ChatRequest:
    """The request; ``kwargs`` of the call win over the model's own ``defaults``."""
    _notice_unknown(kwargs)
    values: dict[str, Any] = {}
    for name in _OPTIONS:
        value = kwargs.get(name)
        values[name] = value if value is not None else defaults[name]
    stops = stop if stop is not None else kwargs.get("stop", defaults["stop"])
    tools = tools_from(kwargs)
    choice = tool_choice_from(kwargs.get("tool_choice")) if tools else "auto"
    if choice not in ("auto", "none", "required") and all(t.name != choice for t in tools):
        offered = ", ".join(tool.name for tool in tools)
        raise InvalidToolError(f"tool_choice is {choice!r}: name one of the tools ({offered}).")
    return ChatRequest(
        messages=text_messages_from(messages),
        tools=tools,
        tool_choice=choice,
        response_format=kwargs.get("response_format"),
        stop=(stops,) if isinstance(stops, str) else tuple(stops or ()),
        **values,
    )


def text_messages_from(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """The messages, if a text model can read them."""
    found = messages_from(messages)
    check_text_only(found)
    return found


def distinct_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools without repetitions: a class and its schema are one tool said twice."""
    kept: list[dict[str, Any]] = []
    seen: list[Any] = []
    for tool in tools:
        plain = _untitled(tool)
        if plain not in seen:
            seen.append(plain)
            kept.append(tool)
    return kept


def _untitled(value: Any) -> Any:
    """A schema without the titles pydantic derives from field names."""
    if isinstance(value, Mapping):
        return {
            key: _untitled(item)
            for key, item in value.items()
            if not (key == "title" and isinstance(item, str))
        }
    return [_untitled(item) for item in value] if isinstance(value, list) else value


def _notice_unknown(kwargs: Mapping[str, Any]) -> None:
    unknown = sorted(
        name
        for name, value in kwargs.items()
        if name not in _WITHOUT_EFFECT and not name.startswith("_") and value is not None
    )
    if unknown:
        warn_once(
            f"options {unknown}",
            f"ChatSLM ignores {', '.join(unknown)}: a local model has no such option.",
        )
