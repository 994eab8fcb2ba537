"""What may leave the process: the capture switch, THE redaction point, the message JSON.

Everything that goes to a span, a store or a hook passes through ``Redaction.apply`` first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..calls import Message, Reply, Tool, ToolCall
from . import semconv
from .harmless import note_failure, warn_once

__all__ = ["REDACTED", "Redact", "Redaction", "input_json", "output_json", "spans_carry_content"]

#: A user function over structured messages: returns the messages that may be kept.
Redact = Callable[[Sequence[Message]], Sequence[Message]]

REDACTED = "[content dropped: the redactor failed]"

_ON_SPANS = {"span_only", "span_and_event", "true", "1"}
_NOT_ON_SPANS = {"", "no_content", "event_only", "false", "0"}


def spans_carry_content() -> bool:
    """The OpenTelemetry switch; ``true`` (an older spelling) means SPAN_ONLY here."""
    value = os.environ.get(semconv.CAPTURE_CONTENT_VARIABLE, "").strip().lower()
    if value not in _ON_SPANS | _NOT_ON_SPANS:
        warn_once(
            "content switch",
            f"{semconv.CAPTURE_CONTENT_VARIABLE}={value!r} is not known, so no content is "
            "captured: use SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT or NO_CONTENT.",
        )
    return value in _ON_SPANS


class Redaction:
    """Applies the user's redactor; if it fails, content is dropped and the call goes on."""

    def __init__(self, redact: Redact | None = None) -> None:
        self._redact = redact

    def apply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages that may be kept."""
        if self._redact is None:
            return tuple(messages)
        try:
            kept = tuple(self._redact(messages))
            if not all(isinstance(message, Message) for message in kept):
                raise TypeError("a redactor returns Message objects")
            return kept
        except Exception as error:
            note_failure("redaction", error)
            return tuple(Message(m.role, REDACTED, tool_call_id=m.tool_call_id) for m in messages)

    def apply_to_replies(self, replies: Sequence[Reply]) -> tuple[Reply, ...]:
        """The same for answers; a choice the redactor removed is kept as an empty one."""
        if self._redact is None:
            return tuple(replies)
        kept: list[Reply] = []
        for reply in replies:
            messages = self.apply([reply.message])
            message = messages[0] if messages else Message(reply.message.role)
            kept.append(Reply(message, reply.finish_reason))
        return tuple(kept)

    def apply_to_text(self, text: str) -> str:
        """The same for tool arguments and results."""
        kept = self.apply([Message("tool", text)])
        return kept[0].text if kept else ""


def input_json(messages: Iterable[Message]) -> str:
    """``gen_ai.input.messages`` as a JSON string."""
    return _dumps([_message(message) for message in messages])


def output_json(replies: Iterable[Reply]) -> str:
    """``gen_ai.output.messages``: one message per choice, as a JSON string."""
    return _dumps([_message(r.message) | {"finish_reason": r.finish_reason} for r in replies])


def tool_definitions_json(tools: Iterable[Tool]) -> str:
    """``gen_ai.tool.definitions``: type and name only, the conventions' default."""
    return _dumps([{"type": "function", "name": tool.name} for tool in tools])


def _message(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if message.role == "tool":
        result = {"type": "tool_call_response", "id": message.tool_call_id}
        parts.append(result | {"response": message.text})
    elif isinstance(message.content, list):
        parts.extend(_part(part) for part in message.content)
    elif message.content:
        parts.append({"type": "text", "content": message.content})
    parts.extend(_tool_call(call) for call in message.tool_calls)
    data: dict[str, Any] = {"role": message.role, "parts": parts}
    if message.name:
        data["name"] = message.name
    return data


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "content": part}
    kind = str(part.get("type", "unknown"))
    if kind == "text":
        return {"type": "text", "content": part.get("text", "")}
    # Binary parts are named, not copied: a span is no place for an image.
    return {"type": kind}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments: Any = call.parsed()
    except ValueError:
        arguments = call.arguments
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments}


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
