"""OpenAI's Responses API, as LiteLLM logs it -> the chat shape. Pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..calls import Message, Reply, ToolCall, Usage
from ..telemetry import semconv

__all__ = ["CALL_TYPES", "as_chat", "replies_from", "usage_from"]

#: LiteLLM's names of the entry points.
CALL_TYPES = ("responses", "aresponses")
_TEXTS = ("input_text", "output_text", "text")


def as_chat(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A logged call as if it had been a chat; one that LiteLLM made of it stays as it is."""
    params = dict(kwargs.get("optional_params") or {})
    given = kwargs.get("input") or kwargs.get("messages")
    messages = list(_messages(given if isinstance(given, list) else ()))
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    if params.get("instructions"):
        messages.insert(0, {"role": "system", "content": params["instructions"]})
    if params.get("max_output_tokens"):
        params["max_completion_tokens"] = params["max_output_tokens"]
    text = params.get("text")
    if isinstance(text, Mapping) and text.get("format"):
        params["response_format"] = _response_format(text["format"])
    return {**kwargs, "messages": messages, "optional_params": params}


def _messages(items: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What the model is told of; calls that follow each other are one message's."""
    calls: list[dict[str, Any]] = []
    for item in items:
        if not isinstance(item, Mapping):
            continue
        kind = item.get("type")
        if kind == "function_call":
            calls.append(_tool_call(item).to_openai())
            continue
        if calls:
            yield {"role": "assistant", "content": None, "tool_calls": calls}
            calls = []
        if kind == "function_call_output":
            told = {"role": "tool", "tool_call_id": item.get("call_id")}
            yield {**told, "content": _content(item.get("output"))}
        elif "role" in item:
            yield {**item, "content": _content(item.get("content"))}
    if calls:
        yield {"role": "assistant", "content": None, "tool_calls": calls}


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part) if isinstance(part, Mapping) else part for part in content]


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if kind == "input_image" and part.get("image_url"):
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return part


def _response_format(wanted: Any) -> Any:
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return wanted
    schema = {name: value for name, value in wanted.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def replies_from(response: Any) -> tuple[Reply, ...]:
    """The one reply of an answer: its texts, calls and thoughts together."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for item in _read(response, "output") or ():
        kind = _read(item, "type")
        if kind == "message":
            texts += _texts(_read(item, "content"))
        elif kind == "function_call":
            calls.append(_tool_call(item))
        elif kind == "reasoning":
            thoughts += _texts(_read(item, "summary") or _read(item, "content"))
    thought = "\n".join(thoughts) or None
    message = Message("assistant", "".join(texts) or None, tuple(calls), reasoning=thought)
    return (Reply(message, _finish_reason(response, bool(calls))),)


def _texts(parts: Any) -> list[str]:
    found = [_read(part, "text") or _read(part, "refusal") for part in parts or ()]
    return [text for text in found if isinstance(text, str)]


def _tool_call(item: Any) -> ToolCall:
    given = (_read(item, "call_id"), _read(item, "name"), _read(item, "arguments"))
    called, name, arguments = (str(value or "") for value in given)
    return ToolCall(called, name, arguments or "{}")


def _finish_reason(response: Any, has_calls: bool) -> str | None:
    status = _read(response, "status")
    if status == "completed":
        return "tool_call" if has_calls else "stop"
    if status == "incomplete":
        return semconv.finish_reason(_read(_read(response, "incomplete_details"), "reason"))
    return "error" if status in ("failed", "cancelled") else None


def usage_from(response: Any) -> Usage | None:
    """The counts of an answer, which come with their details: LiteLLM's own have none.

    By the API's names, or by a chat's, as LiteLLM reports them.
    """
    usage = _read(response, "usage")
    names = ("prompt", "completion") if _read(usage, "prompt_tokens") else ("input", "output")
    given, made = (_read(usage, f"{name}_tokens") for name in names)
    if not isinstance(given, int) or not isinstance(made, int) or not given + made:
        return None
    of_given, of_made = (_read(usage, f"{name}_tokens_details") for name in names)
    return Usage(
        given,
        made,
        cached_tokens=_read(of_given, "cached_tokens"),
        reasoning_tokens=_read(of_made, "reasoning_tokens"),
        source="estimated" if of_given is None else "provider",
    )


def _read(item: Any, name: str) -> Any:
    """A field of what LiteLLM has as an object here and as a dict there."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
