"""Which way of writing tool calls a model knows: its tokenizer's word, then what it renders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from .call_formats import FAMILIES, GENERIC, CallFormat
from .tool_formats import read_calls

__all__ = ["NativeParser", "common_start", "resolve_format"]

#: A reply -> the calls in it, by name and arguments; what the tokenizer itself would read.
NativeParser = Callable[[str], list[tuple[str, Any]]]

_MARKER = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]|<\w+=$")


def resolve_format(
    *,
    calls_written: Sequence[str],
    tools_told: str,
    probe_calls: Sequence[tuple[str, Any]],
    parse: NativeParser | None = None,
    tokens: Collection[str] = (),
) -> CallFormat | None:
    """The format, or None when it cannot be told.

    ``calls_written``: how the template writes the first of ``probe_calls`` and, if it can, both.
    ``tools_told``: what it tells the model when tools are offered. ``tokens``: added ones, which
    a model was given for a reason.
    """
    seen = _rendered(calls_written, probe_calls)
    if parse is not None:
        candidates = ([seen] if seen else []) + list(FAMILIES)
        for form in candidates:
            if _as_text(parse(form.write(probe_calls[:1]))) == _as_text(probe_calls[:1]):
                return form
    return seen or _told(tools_told) or _told("".join(tokens))


def _as_text(calls: Sequence[tuple[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    """Without the types that only a tool's schema gives."""
    return [(name, {key: str(value) for key, value in args.items()}) for name, args in calls]


def _rendered(written: Sequence[str], calls: Sequence[tuple[str, Any]]) -> CallFormat | None:
    """From a rendering: arguments in JSON show all there is, others are a family's."""
    if not written:
        return None
    parts = _parts(written[0], *calls[0])
    if parts is None:
        return _family_of(written[0], calls[0])
    head, between, tail = parts
    many = written[1:] and _between_two(written[1], head, between, tail, calls)
    opening, before, separator, after, closing = many or ("", head, None, tail, "")
    marker = _MARKER.match(head)
    form = CallFormat(
        "probed", before, between, after, marker.group() if marker else "",
        opening, separator, closing,
    )  # fmt: skip
    form = replace(form, name=_family_name(form))
    # Without a marker only the known ways of writing can be told from an answer in JSON.
    return form if form.marker or form.name != "probed" else None


def _parts(written: str, name: str, arguments: Any) -> tuple[str, str, str] | None:
    """Text before the name, up to the arguments, and after them; None if these are not JSON."""
    head, found, rest = written.partition(name)
    start = rest.find("{")
    if not found or start < 0:
        return None
    try:
        value, end = json.JSONDecoder().raw_decode(rest, start)
    except ValueError:
        return None
    if value != arguments:
        return None
    tail = re.sub(r',\s*"id":\s*"[^"]*"', "", rest[end:])
    return head.lstrip(), rest[:start], tail.rstrip()


def _between_two(
    written: str, head: str, between: str, tail: str, calls: Sequence[tuple[str, Any]]
) -> tuple[str, str, str, str, str] | None:
    """Opening, before, separator, after and closing, from a rendering of two calls."""
    first = _parts(written, *calls[0])
    second = _parts(first[2], *calls[1]) if first else None
    if first is None or second is None or (second[1], second[2]) != (between, tail):
        return None
    middle = first[2].partition(calls[1][0])[0]
    after = common_start(tail, middle)
    rest = middle[len(after) :]
    before = common_start(head[::-1], rest[::-1])[::-1]
    opening, closing = head[: len(head) - len(before)], tail[len(after) :]
    return opening, before, rest[: len(rest) - len(before)], after, closing


def _family_of(written: str, call: tuple[str, Any]) -> CallFormat | None:
    schemas = {call[0]: {"properties": {key: {"type": "integer"} for key in call[1]}}}
    calls = read_calls(written, schemas, schemas=schemas).calls
    if [(c.name, c.parsed()) for c in calls] != [call]:
        return None
    for form in FAMILIES:
        if form.arguments != "json" and form.write([call]).strip() == written.strip():
            return form
    shown = [f for f in FAMILIES if f.arguments != "json" and f.marker and f.marker in written]
    return shown[0] if shown else None


def _family_name(form: CallFormat) -> str:
    for family in FAMILIES:
        same = (family.marker, family.arguments, family.between.strip())
        if same == (form.marker, form.arguments, form.between.strip()):
            return family.name
    return form.name


def _told(told_text: str) -> CallFormat | None:
    """The family whose marker is named, as where a template explains tools."""
    if "<function=" in told_text and "<parameter=" in told_text:
        return FAMILIES[0]
    special = [f for f in FAMILIES[1:] if f is not GENERIC]
    told = [f for f in (*special, GENERIC) if f.marker and f.marker in told_text]
    return told[0] if told else None


def common_start(one: str, other: str) -> str:
    """What both begin with."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return one[:length]
