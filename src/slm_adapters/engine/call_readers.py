"""Readers of tool-call bodies, one per way of writing; each raises ``ValueError`` for another's."""

from __future__ import annotations

import json
import re
from typing import Any

from .call_formats import CallFormat
from .json_repair import read_json
from .literal_readers import NameAndArguments, pythonic_body

__all__ = [
    "MISTRAL_HEAD",
    "NameAndArguments",
    "XmlText",
    "fenced_body",
    "json_body",
    "json_call",
    "json_calls",
    "mistral_calls",
    "one_line_break",
    "pythonic_or_json",
    "tool_call_body",
    "written_calls",
    "xml_body",
]


def json_body(body: str) -> list[NameAndArguments]:
    """One or more JSON calls: an object, an array, or objects one after the other."""
    return _whole(body, *json_calls(body))


def json_calls(body: str) -> tuple[list[NameAndArguments], int]:
    """The JSON calls that ``body`` begins with, and where they end."""
    calls: list[NameAndArguments] = []
    end = at = 0
    while (at := _past(" \t\r\n;,", body, at)) < len(body):
        try:
            value, at = read_json(body, at)
            calls += [json_call(item) for item in (value if isinstance(value, list) else [value])]
        except ValueError:
            if calls:
                break
            raise
        end = at
    return calls, end


def _past(letters: str, text: str, at: int) -> int:
    while at < len(text) and text[at] in letters:
        at += 1
    return at


def _whole(body: str, calls: list[NameAndArguments], end: int) -> list[NameAndArguments]:
    """``calls``, if they are all that ``body`` holds."""
    if not calls:
        raise ValueError("no call in an empty body")
    if body[end:].strip(" \t\r\n;,"):
        raise ValueError("text after the calls")
    return calls


def json_call(item: Any) -> NameAndArguments:
    if not isinstance(item, dict):
        raise ValueError("a tool call is a JSON object")
    inner = item.get("function")
    if isinstance(inner, dict):
        item = inner
    name = item.get("name") or (inner if isinstance(inner, str) else None)
    if not isinstance(name, str):
        raise ValueError("a tool call has a name")
    for key in ("arguments", "parameters", "args"):
        if key in item:
            return name, _unquoted(item[key])
    if set(item) - {"name", "id", "type", "function"}:
        raise ValueError("a tool call has arguments")
    return name, {}


def _unquoted(arguments: Any) -> Any:
    """Arguments written as a JSON string are the object inside it."""
    if isinstance(arguments, str):
        try:
            return read_json(arguments)[0] if arguments.strip() else {}
        except ValueError:
            return arguments
    return {} if arguments is None else arguments


_FUNCTION = re.compile(r"<function=([^>\s]+)\s*>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)\s*>")
_UNCLOSED = re.compile(r"(?=<parameter=)|(?=</function>)|\Z")


def xml_body(body: str) -> list[NameAndArguments]:
    """``<function=name><parameter=key>value</parameter></function>``, or JSON inside."""
    calls: list[NameAndArguments] = []
    at = 0
    while (head := _FUNCTION.search(body, at)) is not None:
        at = _past(" \t\r\n", body, head.end())
        arguments: Any
        if body.startswith("{", at):
            arguments, at = read_json(body, at)
        else:
            arguments, at = _parameters(body, at)
        calls.append((head.group(1), arguments))
    if not calls:
        raise ValueError("no <function=...> in the body")
    return calls


def _parameters(body: str, at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while (head := _PARAMETER.match(body, at)) is not None:
        end = body.find("</parameter>", head.end())
        if end < 0:
            unclosed = _UNCLOSED.search(body, head.end())
            assert unclosed is not None, "the pattern finds at least the end"
            end = at = unclosed.start()
        else:
            at = end + len("</parameter>")
        found[head.group(1)] = XmlText(one_line_break(body[head.end() : end]))
    return found, at


class XmlText(str):
    """Text whose type only the tool's schema knows."""


def one_line_break(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def tool_call_body(body: str) -> list[NameAndArguments]:
    # An argument in JSON may hold the tag.
    is_json = body.lstrip().startswith(("{", "[")) or "<function=" not in body
    return json_body(body) if is_json else xml_body(body)


#: The name, up to the brace that begins the arguments.
MISTRAL_HEAD = re.compile(
    r"\s*(?:\[TOOL_CALLS\]\s*)?([\w.-]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?={)"
)


def mistral_calls(body: str) -> tuple[list[NameAndArguments], int]:
    """A JSON array of calls, or ``name[ARGS]{...}`` repeated, and where they end."""
    if body.lstrip().startswith(("[{", "{", "[ {")):
        return json_calls(body)
    calls: list[NameAndArguments] = []
    at = 0
    while (name := MISTRAL_HEAD.match(body, at)) is not None:
        arguments, at = read_json(body, name.end())
        calls.append((name.group(1), arguments))
    if not calls:
        raise ValueError("no name before the arguments")
    return calls, at


def pythonic_or_json(body: str) -> list[NameAndArguments]:
    try:
        return json_body(body)
    except ValueError:
        return pythonic_body(body)


def written_calls(text: str, form: CallFormat) -> tuple[list[NameAndArguments], int]:
    """Exactly what ``form`` writes, with arguments in JSON, and where it ends."""
    calls: list[NameAndArguments] = []
    at = _after(form.opening, text, 0)
    while True:
        start = _after(form.before, text, at)
        end = text.find(form.between, start)
        if end < 0:
            raise ValueError("a call has no name")
        try:
            arguments, at = json.JSONDecoder().raw_decode(text, end + len(form.between))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        calls.append((text[start:end], arguments))
        at = _after(form.after, text, at)
        if not form.separator or not text.startswith(form.separator, at):
            return calls, _after(form.closing, text, at)
        at += len(form.separator)


def _after(expected: str, text: str, at: int) -> int:
    if not text.startswith(expected, at):
        raise ValueError(f"no {expected!r} at position {at}")
    return at + len(expected)


def fenced_body(body: str) -> list[NameAndArguments]:
    return json_body(body.strip().removeprefix("json").removeprefix("tool_call"))
