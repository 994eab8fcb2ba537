"""What may leave the process: the capture switch, THE redaction point, the message JSON.

Everything that goes to a span, a store or a hook passes through ``Redaction.apply`` first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

from ..messages import Content, Message, Reply, Tool, ToolCall
from . import semconv
from .harmless import note_failure, warn_once

__all__ = ["REDACTED", "CaptureMode", "Redact", "Redaction", "capture_mode"]

#: Characters of content one attribute may hold; collectors refuse requests of some megabytes.
LIMIT = 64_000

#: A user function over structured messages: returns the messages that may be kept.
Redact = Callable[[Sequence[Message]], Sequence[Message]]

REDACTED = "[content dropped: the redactor failed]"

_MODES = {
    "": (False, False),
    "no_content": (False, False),
    "false": (False, False),
    "0": (False, False),
    "span_only": (True, False),
    "event_only": (False, True),
    "span_and_event": (True, True),
    # Older spellings; the official packages reject them, LiteLLM reads them as EVENT_ONLY.
    "true": (True, False),
    "1": (True, False),
}


class CaptureMode(NamedTuple):
    """Where message content may go."""

    on_spans: bool
    on_events: bool


def capture_mode() -> CaptureMode:
    """The OpenTelemetry switches for content; an unknown word captures nothing, with a warning."""
    value = os.environ.get(semconv.CAPTURE_CONTENT_VARIABLE, "").strip().lower()
    if value not in _MODES:
        warn_once(
            "content switch",
            f"{semconv.CAPTURE_CONTENT_VARIABLE}={value!r} is not known, so no content is "
            "captured: use SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT or NO_CONTENT.",
        )
    return CaptureMode(*_MODES.get(value, (False, False)))


class Redaction:
    """Applies the user's redactor; if it fails, content is dropped and the call goes on."""

    def __init__(self, redact: Redact | None = None) -> None:
        self._redact = redact

    @property
    def is_on(self) -> bool:
        """Whether the user gave a redactor."""
        return self._redact is not None

    def apply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages that may be kept; the redactor sees, and keeps, no thoughts."""
        if self._redact is None:
            return tuple(messages)
        try:
            kept = tuple(self._redact([_without_thought(m) for m in messages]))
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
            if messages and reply.message.reasoning:
                # As a text of its own: a redactor of contents finds what it looks for.
                thought = self.apply([Message(message.role, reply.message.reasoning)])
                message = replace(message, reasoning=thought[0].text if thought else None)
            kept.append(Reply(message, reply.finish_reason))
        return tuple(kept)

    def apply_to_text(self, text: str) -> str:
        """The same for tool arguments and results on a span, within the size limit."""
        kept = self.apply([Message("tool", text)])
        return _writable(_text_within_limit(kept[0].text)) if kept else ""


def _without_thought(message: Message) -> Message:
    return replace(message, reasoning=None) if message.reasoning else message


#: A message as plain values, in the order of ``Message``'s fields.
Row: TypeAlias = tuple[str, Content, tuple[ToolCall, ...], str | None, str | None]


def row_of(message: Message) -> Row:
    """The plain values of ``message``."""
    return (
        message.role, message.content, message.tool_calls, message.tool_call_id, message.name,
    )  # fmt: skip


def input_json(messages: Iterable[Message]) -> str:
    """``gen_ai.input.messages`` as a JSON string within the size limit."""
    return fitted(input_parts(messages))


def output_json(replies: Iterable[Reply]) -> str:
    """``gen_ai.output.messages``: one message per choice, as a JSON string within the limit."""
    return fitted(output_parts(replies))


def input_parts(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as the conventions structure them."""
    return [structured(row_of(message)) for message in messages]


def output_parts(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """Answers as the conventions structure them."""
    return [
        answered(row_of(reply.message), reply.finish_reason, reply.message.reasoning)
        for reply in replies
    ]


def tool_definitions_json(tools: Iterable[Tool]) -> str:
    """``gen_ai.tool.definitions``: type and name only, the conventions' default."""
    return _dumps(tool_definitions(tools))


def tool_definitions(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Tools as the conventions structure them by default."""
    return [{"type": "function", "name": tool.name} for tool in tools]


def structured(row: Row) -> dict[str, Any]:
    """One message as the conventions structure it."""
    role, said, tool_calls, tool_call_id, name = row
    parts: list[dict[str, Any]]
    if role == "tool":
        text = said if isinstance(said, str) else Message(role, said).text
        parts = [{"type": "tool_call_response", "id": tool_call_id, "response": text}]
    elif isinstance(said, list):
        parts = [_part(part) for part in said]
    else:
        parts = [{"type": "text", "content": said}] if said else []
    if tool_calls:
        parts.extend(_tool_call(call) for call in tool_calls)
    data: dict[str, Any] = {"role": role, "parts": parts}
    if name:
        data["name"] = name
    return data


def answered(row: Row, finish_reason: str | None, reasoning: str | None = None) -> dict[str, Any]:
    """One choice of an answer as the conventions structure it, the thought before the rest."""
    data = structured(row)
    if reasoning:
        data["parts"].insert(0, {"type": "reasoning", "content": reasoning})
    data["finish_reason"] = finish_reason
    return data


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "content": part}
    if not isinstance(part, Mapping):
        return {"type": type(part).__name__}
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


def _text_within_limit(text: str) -> str:
    """``text`` cut with a mark; what is JSON stays JSON unless it is large without long texts."""
    if len(text) <= LIMIT:
        return text
    with contextlib.suppress(ValueError, RecursionError):
        shorter = _with_long_texts_cut(json.loads(text))
        if len(shorter) <= LIMIT:
            return shorter
    return _cut(text, LIMIT)


def fitted(messages: list[dict[str, Any]]) -> str:
    """JSON of at most about ``LIMIT`` characters: the longest texts are cut, never the JSON."""
    text = _with_long_texts_cut(messages)
    if len(text) <= LIMIT:
        return text
    # Thousands of messages: the first and the last say most about what was asked.
    left_out = len(messages) - 2
    note = {"role": "system", "parts": [{"type": "text", "content": f"[{left_out} messages cut]"}]}
    return _dumps(_with_texts_cut([messages[0], note, messages[-1]], LIMIT // 8))


def _with_long_texts_cut(value: Any) -> str:
    """Its JSON, of at most ``LIMIT`` characters if cutting texts can do that."""
    text, longest = _dumps(value), LIMIT
    while len(text) > LIMIT and longest > 64:
        longest //= 2
        text = _dumps(_with_texts_cut(value, longest))
    return text


def _with_texts_cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= longest else _cut(value, longest)
    if isinstance(value, dict):
        return {key: _with_texts_cut(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_texts_cut(item, longest) for item in value]
    return value


def _cut(text: str, longest: int) -> str:
    return f"{text[:longest]}…[{len(text) - longest} characters cut]"


def _dumps(value: Any) -> str:
    try:
        return _encoder()(value)
    except (ValueError, RecursionError, TypeError):
        # NaN, cycles, keys that are no strings, half characters: still valid JSON, less exact.
        text = json.dumps(_tamed(value, 12), ensure_ascii=False, separators=(",", ":"))
        return _writable(text)


def _writable(text: str) -> str:
    """``text`` with halves of surrogate pairs as question marks: exporters write UTF-8."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()


@functools.cache
def _encoder() -> Callable[[Any], str]:
    """orjson where it is installed (langsmith brings it): a fifth of the time for long texts."""
    try:
        import orjson
    except ImportError:
        encode = json.JSONEncoder(
            ensure_ascii=False, default=str, allow_nan=False, separators=(",", ":")
        ).encode
        return lambda value: _writable(encode(value))
    dumps = orjson.dumps
    return lambda value: dumps(value, str).decode()


def _tamed(value: Any, depth: int) -> Any:
    if depth == 0:
        return "[too deep]"
    if isinstance(value, dict):
        return {str(key): _tamed(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_tamed(item, depth - 1) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
