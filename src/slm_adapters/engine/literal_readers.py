"""Readers of calls whose arguments are no JSON: Python literals, and values in braces.

Each raises ``ValueError`` for what it cannot read; nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from .json_repair import read_json

__all__ = [
    "NameAndArguments",
    "braced_key",
    "braced_value",
    "braces_body",
    "python_literal",
    "pythonic_body",
]

#: Braces inside braces, at most; far more than a call has and far less than Python's stack.
_DEEPEST = 100

#: Name and arguments as written; the arguments of a well-formed call are a dict.
NameAndArguments = tuple[str, Any]

_CALL_HEAD = re.compile(r"[\s,;]*([\w.-]+)\s*\(\s*")
_KEYWORD = re.compile(r"[\s,]*([\w.-]+)\s*=\s*")
_PYTHON_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)


def pythonic_body(body: str) -> list[NameAndArguments]:
    """``[f(a=1), g(b="x")]`` or calls one after the other: literals only, nothing is evaluated."""
    text = body.strip()
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("a list is not closed")
        text = text[1:-1].rstrip()
    calls: list[NameAndArguments] = []
    at = 0
    while text[at:].strip(" \t\r\n,;"):
        head = _CALL_HEAD.match(text, at)
        if head is None:
            raise ValueError("no name before the arguments")
        arguments, at = _keywords(text, head.end())
        calls.append((head.group(1), arguments))
    if not calls:
        raise ValueError("an empty list holds no call")
    return calls


def _keywords(text: str, at: int) -> tuple[dict[str, Any], int]:
    """Keyword arguments from ``at`` to the closing bracket, and the position after it."""
    arguments: dict[str, Any] = {}
    while (closing := re.compile(r"[\s,]*\)").match(text, at)) is None:
        key = _KEYWORD.match(text, at)
        if key is None:
            raise ValueError("a call has keyword arguments only")
        at = _value_end(text, key.end())
        arguments[key.group(1)] = python_literal(text[key.end() : at])
    return arguments, closing.end()


def python_literal(text: str) -> Any:
    """The value of a Python literal that JSON can say, JSON's own words included."""
    try:
        value = _literal(ast.parse(text.strip(), mode="eval").body)
        json.dumps(value)
        return value
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("not a Python literal") from error


def _value_end(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        letter = text[at]
        if letter in "\"'":
            string = _PYTHON_STRING.match(text, at)
            if string is None:
                break
            at = string.end()
            continue
        if depth == 0 and letter in ",)":
            return at
        depth += (letter in "([{") - (letter in ")]}")
        at += 1
    raise ValueError("a value is not closed")


_JSON_WORDS = {"true": True, "false": False, "null": None}


class _AsPython(ast.NodeTransformer):
    """JSON's words, wherever they stand in a literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_WORDS[node.id]) if node.id in _JSON_WORDS else node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_AsPython().visit(node))


def braces_body(body: str, quote: str) -> list[NameAndArguments]:
    """``call:name{key:<quote>text<quote>,other:1}``, repeated: Gemma's way."""
    calls: list[NameAndArguments] = []
    at = 0
    while body[at:].strip():
        head = _BRACES_HEAD.match(body, at)
        if head is None:
            raise ValueError("no name before the braces")
        arguments, at = _Braces(body, quote).value(head.end())
        calls.append((head.group(1), arguments))
    if not calls:
        raise ValueError("no call in an empty body")
    return calls


_BRACES_HEAD = re.compile(r"\s*(?:call:)?\s*([\w.-]+)\s*(?={)")
_BRACES_WORD = re.compile(r"[^,}\]]*")


class _Braces:
    """Reader of values in braces; texts stand between ``quote`` or, failing that, in JSON."""

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote = text, quote

    def value(self, at: int, depth: int = 0) -> tuple[Any, int]:
        text, at = self._text, self.skip(at)
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        if text.startswith(self._quote, at):
            start = at + len(self._quote)
            end = text.find(self._quote, start)
            if end < 0:
                raise ValueError("a text is not closed")
            return text[start:end], end + len(self._quote)
        if text.startswith("{", at):
            return self._object(at + 1, depth)
        if text.startswith("[", at):
            return self._array(at + 1, depth)
        if text.startswith('"', at):
            return read_json(text, at)
        word = _BRACES_WORD.match(text, at)
        assert word is not None, "the pattern matches nothing too"
        return _word(word.group().strip()), word.end()

    def skip(self, at: int) -> int:
        while self._text[at : at + 1].isspace():
            at += 1
        return at

    def _object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        result: dict[str, Any] = {}
        while not self._text.startswith("}", at := self.skip(at)):
            colon = self._text.find(":", at)
            if colon < 0:
                raise ValueError("no ':' after a key")
            key = braced_key(self._text[at:colon], self._quote)
            result[key], at = self.value(colon + 1, depth + 1)
            at = self._comma(at, "}")
        return result, at + 1

    def _array(self, at: int, depth: int) -> tuple[list[Any], int]:
        result: list[Any] = []
        while not self._text.startswith("]", at := self.skip(at)):
            value, at = self.value(at, depth + 1)
            result.append(value)
            at = self._comma(at, "]")
        return result, at + 1

    def _comma(self, at: int, closing: str) -> int:
        at = self.skip(at)
        if self._text.startswith(",", at):
            return at + 1
        if self._text.startswith(closing, at):
            return at
        raise ValueError(f"no ',' or {closing!r} at position {at}")


def braced_key(text: str, quote: str) -> str:
    """A key without what it may stand between."""
    return text.strip().removeprefix(quote).removesuffix(quote).strip('"')


def braced_value(text: str, at: int, quote: str) -> tuple[Any, int]:
    """The value at ``at``, and the position of the comma or brace that ends it."""
    reader = _Braces(text, quote)
    value, at = reader.value(at, 1)
    at = reader.skip(at)
    if text[at : at + 1] not in (",", "}"):
        raise ValueError("a value is not closed")
    return value, at


def _word(word: str) -> Any:
    """A number, a truth value, nothing, or a text without its quotes."""
    if not word:
        raise ValueError("a value is missing")
    try:
        value, end = read_json(word)
    except ValueError:
        return word
    return word if word[end:].strip() else value
