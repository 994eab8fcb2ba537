"""Read the almost-JSON that small models write.

Beyond JSON: single quotes, Python's ``True``/``False``/``None``, trailing commas, raw line breaks
in strings, unquoted keys, and brackets left open at the end of the text. A string left open is
an error: what it would have said is unknown.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

__all__ = ["only_json", "read_json"]

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read_json(text: str, start: int = 0) -> tuple[Any, int]:
    """The value that begins at ``start`` and the position after it; raises ``ValueError``.

    ``read_json("{'a': [1, 2,], 'b': True")`` is ``({"a": [1, 2], "b": True}, 24)``.
    """
    start = _skip(text, start)
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    try:
        return _value(text, start)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def only_json(text: str) -> str:
    """The JSON value of a reply that was asked for JSON, without fence or prose around it."""
    body = text.strip()
    with contextlib.suppress(ValueError):
        json.loads(body)
        return body
    starts = [at for bracket in "{[" if (at := body.find(bracket)) >= 0]
    if not starts:
        return text
    try:
        value, _ = read_json(body, min(starts))
    except ValueError:
        return text
    return json.dumps(value, ensure_ascii=False)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int) -> tuple[Any, int]:
    at = _skip(text, at)
    first = text[at : at + 1]
    if first == "{":
        return _object(text, at + 1)
    if first == "[":
        return _array(text, at + 1)
    if first in ("'", '"'):
        return _string(text, at)
    if (number := _NUMBER.match(text, at)) is not None:
        return _number(number.group()), number.end()
    if (word := _WORD.match(text, at)) is not None and word.group() in _WORDS:
        return _WORDS[word.group()], word.end()
    raise ValueError(f"no JSON value at position {at}")


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _object(text: str, at: int) -> tuple[dict[str, Any], int]:
    result: dict[str, Any] = {}
    while True:
        at, done = _next_item(text, at, "}")
        if done:
            return result, at
        key, at = _key(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"no ':' at position {at}")
        result[key], at = _value(text, at + 1)


def _array(text: str, at: int) -> tuple[list[Any], int]:
    result: list[Any] = []
    while True:
        at, done = _next_item(text, at, "]")
        if done:
            return result, at
        value, at = _value(text, at)
        result.append(value)


def _next_item(text: str, at: int, closing: str) -> tuple[int, bool]:
    """Move past one comma; done at the closing bracket or where the text ends."""
    at = _skip(text, at)
    if text[at : at + 1] == ",":
        at = _skip(text, at + 1)
    if at >= len(text):
        return at, True
    if text[at] == closing:
        return at + 1, True
    if text[at] in "}]":
        # The other bracket: this one was forgotten, let the outer level close.
        return at, True
    return at, False


def _key(text: str, at: int) -> tuple[str, int]:
    if text[at] in "'\"":
        return _string(text, at)
    word = _WORD.match(text, at)
    if word is None:
        raise ValueError(f"no key at position {at}")
    return word.group(), word.end()


def _string(text: str, at: int) -> tuple[str, int]:
    quote, at = text[at], at + 1
    parts: list[str] = []
    while at < len(text):
        letter = text[at]
        if letter == quote:
            return "".join(parts), at + 1
        if letter == "\\":
            part, at = _escape(text, at + 1)
            parts.append(part)
        else:
            parts.append(letter)
            at += 1
    raise ValueError("a string is not closed")


def _escape(text: str, at: int) -> tuple[str, int]:
    letter = text[at : at + 1]
    if letter == "u":
        # json reads surrogate pairs too, so hand it the whole run of \u escapes.
        run = re.compile(r"(?:\\u[0-9a-fA-F]{4})+").match(text, at - 1)
        if run is None:
            raise ValueError(f"broken \\u escape at position {at}")
        return str(json.loads(f'"{run.group()}"')), run.end()
    return _ESCAPES.get(letter, letter), at + 1
