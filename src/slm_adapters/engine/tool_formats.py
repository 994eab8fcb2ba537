"""How model families write tool calls: one table, and the reader of each body.

``read_calls`` never loses text: what is not a call to an offered tool stays text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from ..calls import ToolCall
from .call_formats import CallFormat
from .call_readers import (
    fenced_body,
    json_body,
    json_call,
    json_calls,
    mistral_calls,
    pythonic_or_json,
    tool_call_body,
    written_calls,
    xml_body,
)
from .json_repair import read_json
from .literal_readers import NameAndArguments, braces_body, pythonic_body
from .value_types import typed

__all__ = [
    "DELIMITERS",
    "FENCES",
    "MARKERS",
    "TRIGGERS",
    "ParsedReply",
    "find_marker",
    "formats_of",
    "read_calls",
    "tool_call_id",
]

Kind = Literal["json", "tags", "function", "python", "braces", "mistral", "own"]


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
    """``read`` takes all between ``opening`` and ``closing``; without a closing text,
    ``read_ahead`` finds the end itself."""

    opening: str
    closing: str = ""
    read: Callable[[str], list[NameAndArguments]] = json_body
    read_ahead: Callable[[str], tuple[list[NameAndArguments], int]] = json_calls
    #: Whether ``read_ahead`` refuses what is not whole.
    exact: bool = False
    #: How it is read while it is being written, see ``call_stream``.
    kind: Kind = "json"
    #: What texts in braces stand between.
    quote: str = ""


def _braces(opening: str, closing: str, quote: str) -> _Format:
    return _Format(
        opening, closing, lambda body: braces_body(body, quote), kind="braces", quote=quote
    )


#: Order matters where one opening begins another.
_FORMATS = (
    # Hermes, Qwen, Granite, SmolLM3
    _Format("<tool_call>", "</tool_call>", tool_call_body, kind="tags"),
    _Format(
        "<function=",
        "</function>",
        lambda body: xml_body("<function=" + body),
        kind="function",
    ),
    # LFM2
    _Format("<|tool_call_start|>", "<|tool_call_end|>", pythonic_or_json, kind="python"),
    _Format("<|tool_call|>", "<|/tool_call|>", json_body),  # Phi-4-mini, Granite 3
    _braces("<|tool_call>", "<tool_call|>", '<|"|>'),  # Gemma 4
    _braces("<start_function_call>", "<end_function_call>", "<escape>"),  # FunctionGemma
    _Format("<function_calls>", "</function_calls>", pythonic_or_json, kind="python"),  # Olmo
    _Format("<TOOLCALL>", "</TOOLCALL>", json_body),  # Nemotron
    _Format("[TOOL_CALLS]", read_ahead=mistral_calls, kind="mistral"),
    _Format("<|python_tag|>"),  # Llama 3
)
#: Code fences that may hold a call.
FENCES = ("```json", "```tool_call")
_FENCE = _Format("```", "```", fenced_body)

#: Text that announces a tool call beyond doubt.
MARKERS = tuple(item.opening for item in _FORMATS)
#: Texts that must stay in a reply even where they are special tokens.
DELIMITERS = (
    *MARKERS,
    *(item.closing for item in _FORMATS if item.closing),
    *("<think>", "</think>", "[ARGS]", "[CALL_ID]", "<escape>", '<|"|>'),
)
#: Ends of a call that are tried before the first one is taken for it.
_MOST_ENDS = 16
#: Text after which a stream is held back until the reply is complete.
TRIGGERS = (*MARKERS, *FENCES)


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
    form: CallFormat | None = None,
) -> ParsedReply:
    """Take the calls of offered tools out of ``text``.

    ``cut_off``: the reply ended at ``max_tokens``, so a call without its end is not one.
    ``schemas``: parameters by tool name, for formats that write every value as text.
    ``form``: the model's own format, where it is none of the known ones.
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
    for piece, is_call, found in _pieces(text, cut_off, formats_of(form)):
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


def formats_of(form: CallFormat | None) -> tuple[_Format, ...]:
    """The known formats, and before them ``form`` where it is none of these."""
    if form is None or not form.marker or form.marker in MARKERS:
        return _FORMATS

    def read_ahead(body: str) -> tuple[list[NameAndArguments], int]:
        calls, end = written_calls(form.marker + body, form)
        return calls, end - len(form.marker)

    return (_Format(form.marker, read_ahead=read_ahead, exact=True, kind="own"), *_FORMATS)


def _pieces(
    text: str, cut_off: bool, formats: Sequence[_Format]
) -> Iterator[tuple[str, bool, list[NameAndArguments]]]:
    """Split at calls: ``(piece, whether a marker announced a call, calls read from it)``."""
    at = 0
    while (hit := _first(text, at, formats)) is not None:
        begin, form = hit
        if begin > at:
            yield text[at:begin], False, []
        at, found = _call_at(form, text, begin, cut_off)
        yield text[begin:at], form is not _FENCE, found
    if at < len(text):
        yield text[at:], False, []


def _call_at(
    form: _Format, text: str, begin: int, cut_off: bool
) -> tuple[int, list[NameAndArguments]]:
    """Where the call that begins at ``begin`` ends, and what it says."""
    inside = begin + len(form.opening)
    if not form.closing:
        return _read_ahead(form, text, inside, cut_off)
    ends = list(islice(_ends(form.closing, text, inside), _MOST_ENDS))
    for end in ends:
        # An argument may hold the closing text; a call that ends there cannot be read.
        body = text[inside:end]
        if _is_closed(body) and (found := _read(form, body)):
            return end + len(form.closing), found
    if ends:
        return ends[0] + len(form.closing), _read(form, text[inside : ends[0]])
    return len(text), [] if cut_off else _read(form, text[inside:])


def _read_ahead(
    form: _Format, text: str, inside: int, cut_off: bool
) -> tuple[int, list[NameAndArguments]]:
    try:
        calls, end = form.read_ahead(text[inside:])
    except ValueError:
        return len(text), []
    if cut_off and not form.exact and not _balanced(text[inside : inside + end]):
        return len(text), []
    return inside + end, calls


def _ends(closing: str, text: str, at: int) -> Iterator[int]:
    while (at := text.find(closing, at)) >= 0:
        yield at
        at += len(closing)


def _is_closed(body: str) -> bool:
    """Whether nothing in ``body`` waits for its own end."""
    inner = body.rstrip()
    if "<function=" in body:
        return inner.endswith("</function>") or body.count("<parameter=") == body.count(
            "</parameter>"
        )
    return inner.endswith(("}", "]", ")"))


def _read(form: _Format, body: str) -> list[NameAndArguments]:
    try:
        return form.read(body)
    except ValueError:
        return []


def _first(text: str, at: int, formats: Sequence[_Format]) -> tuple[int, _Format] | None:
    hits = [(p, -len(f.opening), f) for f in formats if (p := text.find(f.opening, at)) >= 0]
    for trigger in FENCES:
        if (position := text.find(trigger, at)) >= 0:
            hits.append((position, 0, _FENCE))
    if not hits:
        return None
    position, _, form = min(hits, key=lambda hit: hit[:2])
    return position, form


def _balanced(body: str) -> bool:
    """Strict JSON up to its last bracket, so nothing of it was cut off."""
    return body.count("{") == body.count("}") and body.rstrip().endswith(("}", "]"))


def tool_call_id() -> str:
    """An id for a call that came without one."""
    return f"call_{uuid.uuid4().hex[:24]}"


def _numbered(
    calls: list[NameAndArguments], schemas: dict[str, dict[str, Any]] | None
) -> tuple[ToolCall, ...]:
    result = []
    for name, arguments in calls:
        if isinstance(arguments, dict):
            schema = (schemas or {}).get(name) or {}
            arguments = {key: typed(value, key, schema) for key, value in arguments.items()}
        text = json.dumps(arguments, ensure_ascii=False)
        result.append(ToolCall(tool_call_id(), name, text))
    return tuple(result)
