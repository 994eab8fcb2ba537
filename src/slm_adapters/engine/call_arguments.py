"""One call's arguments as JSON text while they are written, as far as they fit the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from .call_readers import XmlText, one_line_break
from .growing_text import GrowingText, Pieces, Waiting, json_object
from .literal_readers import braced_key, braced_value, python_literal
from .schema_check import mismatch, so_far
from .value_types import resolved, typed

__all__ = ["ArgumentStream", "Arguments"]

_NAME = re.compile(r"[\w.-]+")
_PLAIN_LETTERS = re.compile(r"[^\\\"']+")
#: A property of which nothing is asked but that it is text.
_PLAIN = {"type", "title", "description", "default", "examples"}


class Arguments:
    """Readers of one call's arguments, each for one way of writing them.

    ``certain``: whether a grammar holds what is written now to the schema; else a value is told
    when it is complete and fits, plain text as it comes.
    """

    def __init__(
        self, source: GrowingText, schema: dict[str, Any], certain: Callable[[], bool]
    ) -> None:
        self._source, self._schema, self._certain = source, schema, certain
        self._by_property = so_far(schema)

    def of_json(self) -> Pieces:
        """A JSON object."""
        yield from json_object(self._source, self._member)

    def of_parameters(self) -> Pieces:
        """``<parameter=key>value</parameter>``, repeated."""
        source, comma = self._source, ""
        yield "{"
        while (yield from source.peek()) == "<" and (yield from source.begins("<parameter=")):
            source.at += len("<parameter=")
            key = (yield from source.until(">")).rstrip()
            if len(key.split()) != 1:
                raise ValueError("a parameter has a name")
            text = XmlText(one_line_break((yield from source.until("</parameter>"))))
            yield comma + self._property(key, typed(text, key, self._schema))
            comma = ", "
        yield "}"

    def of_keywords(self) -> Pieces:
        """``a=1, b="x")``."""
        source, comma = self._source, ""
        yield "{"
        while (yield from source.peek(" \t\r\n,")) != ")":
            key = (yield from source.until("=")).strip()
            if not _NAME.fullmatch(key):
                raise ValueError("a call has keyword arguments only")
            end = yield from self._literal_end()
            value, source.at = python_literal(source.text[source.at : end]), end
            yield comma + self._property(key, value)
            comma = ", "
        source.at += 1
        yield "}"

    def of_braces(self, quote: str) -> Pieces:
        """``a:1,b:<escape>x<escape>}``."""
        source, comma = self._source, ""
        yield "{"
        while (yield from source.peek()) != "}":
            key = braced_key((yield from source.until(":")), quote)
            value = yield from self._decided(partial(braced_value, quote=quote))
            yield comma + self._property(key, value)
            comma = ", "
            source.at += source.text[source.at] == ","
        source.at += 1
        yield "}"

    def _literal_end(self) -> Waiting[int]:
        """Where the Python literal that comes next ends: at a comma or bracket of none of it."""
        source, at, depth, quote = self._source, self._source.at, 0, ""
        while True:
            if at >= len(source.text):
                yield None
                continue
            letter = source.text[at]
            if quote:
                plain = _PLAIN_LETTERS.match(source.text, at)
                at += len(plain[0]) if plain else 1 + (letter == "\\")
                quote = "" if letter == quote else quote
            elif depth == 0 and letter in ",)":
                return at
            else:
                quote = letter if letter in "\"'" else ""
                depth += (letter in "([{") - (letter in ")]}")
                at += 1

    def _decided(self, read: Callable[[str, int], tuple[Any, int]]) -> Waiting[Any]:
        """The value that comes next, once ``read`` finds its end."""
        while True:
            try:
                value, self._source.at = read(self._source.text, self._source.at)
                return value
            except ValueError:
                yield None

    def _member(self, head: str, key: str, value: Pieces) -> Pieces:
        """A property, as it comes where it can only fit, else when it does."""
        is_text = (yield from self._source.peek()) == '"'
        as_it_comes = self._certain() or (is_text and self._takes_any_text(key))
        held = head
        for piece in value:
            if piece is None:
                yield None
                continue
            held += piece
            if as_it_comes:
                yield held
                held = ""
        if held:
            self._check(key, json.loads(held[len(head) :]))
            yield held

    def _property(self, key: str, value: Any) -> str:
        self._check(key, value)
        return ": ".join(json.dumps(item, ensure_ascii=False) for item in (key, value))

    def _check(self, key: str, value: Any) -> None:
        problem = mismatch(self._by_property, {key: value})
        if problem is not None:
            raise ValueError(problem)

    def _takes_any_text(self, key: str) -> bool:
        root = self._schema
        asked = resolved((root.get("properties") or {}).get(key), root)
        options = asked.get("anyOf") or [asked]
        return asked.keys() <= _PLAIN | {"anyOf"} and any(
            option.get("type") == "string" and option.keys() <= _PLAIN
            for option in (resolved(item, root) for item in options)
        )


class ArgumentStream:
    """The arguments of one call that a server sends as text."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._source = GrowingText()
        self._pieces = Arguments(self._source, schema, lambda: False).of_json()

    def read(self, written: str) -> str:
        """What is new of the arguments now that ``written`` is all of their text so far."""
        self._source.text = written
        told = ""
        try:
            while (piece := next(self._pieces, None)) is not None:
                told += piece
        except Exception:
            self._pieces = iter(())
        return told
