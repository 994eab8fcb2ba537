"""Text that is still being written, and how to read it while it grows.

Readers are generators: each yields what it knows, and None where it waits for more text. What
cannot be what they read raises ``ValueError``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias, TypeVar

__all__ = ["GrowingText", "Member", "Pieces", "Waiting", "json_object", "json_pieces", "json_text"]

T = TypeVar("T")
#: Yields None while it waits; its value is what it was waiting for.
Waiting: TypeAlias = Generator[None, None, T]
#: Pieces of a text, and None wherever more has to be written first.
Pieces: TypeAlias = Iterator[str | None]
#: One property of an object: ``, "key": `` as text, the key, the value -> what to pass on.
Member: TypeAlias = Callable[[str, str, Pieces], Pieces]

_SPACE = " \t\r\n"


class GrowingText:
    """``text`` as far as it has been written, and the position ``at`` which it has been read to."""

    def __init__(self) -> None:
        self.text, self.at = "", 0

    def peek(self, skipped: str = _SPACE) -> Waiting[str]:
        """The next letter that is none of ``skipped``, which are left behind."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in skipped:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            yield None

    def begins(self, expected: str) -> Waiting[bool]:
        """Whether ``expected`` comes next; does not move."""
        while True:
            seen = self.text[self.at : self.at + len(expected)]
            if seen == expected or not expected.startswith(seen):
                return seen == expected
            yield None

    def expect(self, expected: str) -> Waiting[None]:
        """Move behind ``expected``, which has to come next."""
        if not (yield from self.begins(expected)):
            raise ValueError(f"no {expected!r} at position {self.at}")
        self.at += len(expected)

    def until(self, end: str) -> Waiting[str]:
        """The text before ``end``; moves behind it."""
        start = looked = self.at
        while (found := self.text.find(end, looked)) < 0:
            looked = max(start, len(self.text) - len(end) + 1)
            yield None
        self.at = found + len(end)
        return self.text[start:found]


def json_pieces(source: GrowingText) -> Pieces:
    """The JSON value that comes next, spelled as ``json.dumps`` would spell it.

    Joined, the pieces are ``json.dumps(json.loads(text), ensure_ascii=False)``, but that a key
    written twice stays twice.
    """
    first = yield from source.peek()
    if first == "{":
        yield from json_object(source)
    elif first == "[":
        yield from _array(source)
    elif first == '"':
        yield from _string(source)
    else:
        yield from _word(source)


def _passed_on(head: str, key: str, value: Pieces) -> Pieces:
    """``head`` with the first piece of the value: without a value there is no property."""
    for piece in value:
        if piece is not None:
            piece, head = head + piece, ""
        yield piece


def json_object(source: GrowingText, member: Member = _passed_on) -> Pieces:
    """A JSON object, each property by way of ``member``."""
    yield from source.expect("{")
    yield "{"
    comma, follows = "", (yield from source.peek()) != "}"
    while follows:
        key = yield from json_text(source)
        yield from source.peek()
        yield from source.expect(":")
        yield from member(f"{comma}{_dumps(key)}: ", key, json_pieces(source))
        comma, follows = ", ", (yield from source.peek()) == ","
        source.at += follows
    yield from source.expect("}")
    yield "}"


def _array(source: GrowingText) -> Pieces:
    yield from source.expect("[")
    yield "["
    comma, follows = "", (yield from source.peek()) != "]"
    while follows:
        yield from _passed_on(comma, "", json_pieces(source))
        comma, follows = ", ", (yield from source.peek()) == ","
        source.at += follows
    yield from source.expect("]")
    yield "]"


#: Letters and escapes of a string that mean the same whatever follows them.
_DECIDED = re.compile(
    r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})+"
)
_HALF_ESCAPE = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?"
)
_LONGEST_ESCAPE = 12


def _string(source: GrowingText) -> Pieces:
    yield from source.expect('"')
    yield '"'
    while True:
        found = _DECIDED.match(source.text, source.at)
        if found is not None:
            source.at = found.end()
            yield _dumps(json.loads(f'"{found.group()}"'))[1:-1]
        rest = source.text[source.at : source.at + _LONGEST_ESCAPE]
        if rest.startswith('"'):
            source.at += 1
            yield '"'
            return
        if rest and not _HALF_ESCAPE.fullmatch(rest):
            raise ValueError(f"no letter of a JSON string at position {source.at}")
        yield None


def json_text(source: GrowingText) -> Waiting[str]:
    """A whole JSON string, read."""
    yield from source.peek()
    text = ""
    for piece in _string(source):
        if piece is None:
            yield None
        else:
            text += piece
    return str(json.loads(text))


_WORD = re.compile(r"[-+.\w]*")


def _word(source: GrowingText) -> Pieces:
    """A number, a truth value or null, once it cannot go on."""
    while (found := _WORD.match(source.text, source.at)) is None or (
        found.end() == len(source.text)
    ):
        yield None
    value = json.loads(found.group())
    source.at = found.end()
    yield _dumps(value)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
