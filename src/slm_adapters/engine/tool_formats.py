"""How model families write tool calls: one table, and the reader of each body.

``read_calls`` never loses text: what is not a call to an offered tool stays text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ..calls import ToolCall
from .call_readers import (
    NameAndArguments,
    XmlText,
    fenced_body,
    json_body,
    json_call,
    mistral_body,
    pythonic_body,
    pythonic_or_json,
    tool_call_body,
    xml_body,
)
from .json_repair import read_json

__all__ = ["MARKERS", "TRIGGERS", "ParsedReply", "find_marker", "read_calls"]


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply taken apart. ``unread``: text marked as a tool call that is none we can use.

    ``content`` holds everything that is not part of a call, ``unread`` text included.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()
    unread: str = ""


@dataclass(frozen=True, slots=True)
class _Format:
    opening: str
    closing: str | None
    read: Callable[[str], list[NameAndArguments]]


#: Order matters where one opening begins another.
_FORMATS = (
    _Format("<tool_call>", "</tool_call>", tool_call_body),  # Hermes, Qwen, Granite, SmolLM3
    _Format("<function=", "</function>", lambda body: xml_body("<function=" + body)),
    _Format("<|tool_call_start|>", "<|tool_call_end|>", pythonic_or_json),  # LFM2
    _Format("<|tool_call|>", "<|/tool_call|>", json_body),  # Phi-4-mini, Granite 3
    _Format("<function_calls>", "</function_calls>", pythonic_or_json),  # Olmo
    _Format("<TOOLCALL>", "</TOOLCALL>", json_body),  # Nemotron
    _Format("[TOOL_CALLS]", None, mistral_body),
    _Format("<|python_tag|>", None, json_body),  # Llama 3
)
_FENCE = _Format("```", "```", fenced_body)

#: Text that announces a tool call beyond doubt.
MARKERS = tuple(item.opening for item in _FORMATS)
#: Text after which a stream is held back until the reply is complete.
TRIGGERS = (*MARKERS, "```json", "```tool_call")


def find_marker(text: str) -> str | None:
    """The first opening of a tool call in ``text``, or None."""
    found = [(at, marker) for marker in MARKERS if (at := text.find(marker)) >= 0]
    return min(found)[1] if found else None


def read_calls(
    text: str,
    offered: Collection[str],
    *,
    cut_off: bool = False,
    schemas: dict[str, dict[str, Any]] | None = None,
) -> ParsedReply:
    """Take the calls of offered tools out of ``text``.

    ``cut_off``: the reply ended at ``max_tokens``, so a call without its end is not one.
    ``schemas``: parameters by tool name, for formats that write every value as text.
    """
    if not offered:
        return ParsedReply(text)
    if not cut_off or _balanced(text):
        bare, rest = _bare(text, offered)
        if bare:
            return ParsedReply(rest, _numbered(bare, schemas))
    content: list[str] = []
    unread: list[str] = []
    calls: list[NameAndArguments] = []
    for piece, is_call, found in _pieces(text, cut_off):
        if found and all(name in offered for name, _ in found):
            calls += found
        else:
            content.append(piece)
            if is_call:
                unread.append(piece)
    return ParsedReply("".join(content), _numbered(calls, schemas), "".join(unread))


def _bare(text: str, offered: Collection[str]) -> tuple[list[NameAndArguments], str]:
    """Calls without any marker at the start of the reply, and the text after them."""
    body = text.lstrip()
    if body.startswith("["):
        try:
            calls = pythonic_body(body)
        except ValueError:
            calls = []
        if calls and all(name in offered for name, _ in calls):
            return calls, ""
    found: list[NameAndArguments] = []
    while body.startswith(("{", "[")):
        try:
            value, end = read_json(body)
            calls = [json_call(item) for item in (value if isinstance(value, list) else [value])]
        except ValueError:
            break
        if not calls or not all(name in offered for name, _ in calls):
            break
        found += calls
        body = body[end:].lstrip(" \t\r\n;,")
    return found, body


def _pieces(text: str, cut_off: bool) -> Iterator[tuple[str, bool, list[NameAndArguments]]]:
    """Split at calls: ``(piece, whether a marker announced a call, calls read from it)``."""
    at = 0
    while (hit := _first(text, at)) is not None:
        begin, form = hit
        if begin > at:
            yield text[at:begin], False, []
        at, complete = _end_of(form, text, begin)
        body = text[begin + len(form.opening) : at]
        if form.closing is not None:
            body = body.removesuffix(form.closing)
        found: list[NameAndArguments] = []
        if complete or not cut_off:
            try:
                found = form.read(body)
            except ValueError:
                found = []
        yield text[begin:at], form is not _FENCE, found
    if at < len(text):
        yield text[at:], False, []


def _first(text: str, at: int) -> tuple[int, _Format] | None:
    hits = [(p, -len(f.opening), f) for f in _FORMATS if (p := text.find(f.opening, at)) >= 0]
    for trigger in ("```json", "```tool_call"):
        if (position := text.find(trigger, at)) >= 0:
            hits.append((position, 0, _FENCE))
    if not hits:
        return None
    position, _, form = min(hits, key=lambda hit: hit[:2])
    return position, form


def _end_of(form: _Format, text: str, begin: int) -> tuple[int, bool]:
    """Where the call that begins at ``begin`` ends, and whether its end was written."""
    inside = begin + len(form.opening)
    if form.closing is None:
        return len(text), _balanced(text[inside:])
    end = text.find(form.closing, inside)
    return (len(text), False) if end < 0 else (end + len(form.closing), True)


def _balanced(body: str) -> bool:
    """Strict JSON up to its last bracket, so nothing of it was cut off."""
    return body.count("{") == body.count("}") and body.rstrip().endswith(("}", "]"))


def _numbered(
    calls: list[NameAndArguments], schemas: dict[str, dict[str, Any]] | None
) -> tuple[ToolCall, ...]:
    result = []
    for name, arguments in calls:
        if isinstance(arguments, dict):
            properties = ((schemas or {}).get(name) or {}).get("properties") or {}
            arguments = {k: _typed(v, properties.get(k)) for k, v in arguments.items()}
        text = json.dumps(arguments, ensure_ascii=False)
        result.append(ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, text))
    return tuple(result)


def _typed(value: Any, schema: Any) -> Any:
    """A value written as bare text becomes what the schema says, or stays text."""
    if not isinstance(value, XmlText):
        return value
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind in (None, "string"):
        return str(value)
    try:
        parsed, end = read_json(value)
    except ValueError:
        return str(value)
    return str(value) if value[end:].strip() else parsed
