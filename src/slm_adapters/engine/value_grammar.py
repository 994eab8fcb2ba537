"""Grammars of argument values that are not JSON: Python literals, braces, parameters in XML."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from .call_formats import CallFormat
from .lark_rules import Rules, alternatives, regex
from .value_types import kinds_of, resolved

__all__ = ["keyword_arguments", "named_braces", "xml_parameters"]

#: Escapes that mean the same in JSON and in Python.
_PYTHON_ESCAPES = 'nrt\\"'
_MANY = 64
#: A schema this deep inside itself is any value.
_DEEPEST = 12


def xml_parameters(rules: Rules, schema: dict[str, Any]) -> str:
    """``<parameter=key>\\nvalue\\n</parameter>\\n`` for each property, in order."""
    required = set(schema.get("required") or ())
    parts = []
    for key, value in (schema.get("properties") or {}).items():
        part = rules.text(f"<parameter={key}>\n") + " " + _xml_value(rules, value, schema)
        rule = rules.new(part)
        parts.append(rule if key in required else f"{rule}?")
    return " ".join(parts) or '""'


def _xml_value(rules: Rules, value: Any, root: dict[str, Any]) -> str:
    """A value with its end: bare text for strings, JSON for all else."""
    value, end = resolved(value, root), rules.text("\n</parameter>\n")
    if kinds_of(value, root) - {"null"} - {"string"}:
        return f"{rules.json(_rooted(value, root))} {end}"
    texts = [resolved(option, root) for option in value.get("anyOf") or ()]
    if "null" in kinds_of(value, root):
        texts = [option for option in texts if option.get("type") != "null"]
    if len(texts) == 1:
        value = texts[0]
    choices = value.get("enum") or ([value["const"]] if "const" in value else None)
    if choices is not None:
        written = [c if isinstance(c, str) else json.dumps(c) for c in choices]
        return f"{alternatives([rules.text(text) for text in written])} {end}"
    length = _lengths(value)
    return rules.new(regex(f"(?s:.{length})\\n</parameter>\\n"), options="[lazy]")


def keyword_arguments(rules: Rules, schema: dict[str, Any]) -> str:
    """``a=1, b="x"`` with Python literals, in the order of the schema."""
    values = _Values(rules, schema, _Style("True", "False", "None", ", ", ": ", quoted_keys=True))
    return values.members(schema, lambda key: f"{key}=", ", ")


def named_braces(rules: Rules, schema: dict[str, Any], form: CallFormat) -> str:
    """``{a:1,b:<escape>x<escape>}``, in the order of the schema."""
    style = _Style("true", "false", "null", ",", ":", quoted_keys=False, quote=form.quote)
    return _Values(rules, schema, style).object(schema)


class _Style:
    """How values are written. ``quote``: what texts are between where it is not JSON's."""

    def __init__(
        self, true: str, false: str, null: str, comma: str, colon: str, *,
        quoted_keys: bool, quote: str | None = None,
    ) -> None:  # fmt: skip
        self.true, self.false, self.null = true, false, null
        self.comma, self.colon = comma, colon
        self.quoted_keys, self.quote = quoted_keys, quote

    def key(self, key: str) -> str:
        return (json.dumps(key, ensure_ascii=False) if self.quoted_keys else key) + self.colon


class _Values:
    """Rules for the values of one schema; ``root`` is where its references lead."""

    def __init__(self, rules: Rules, root: dict[str, Any], style: _Style) -> None:
        self._rules, self._root, self._style = rules, root, style
        self._any: str | None = None

    def value(self, schema: Any, depth: int = 0) -> str:
        schema = resolved(schema, self._root)
        if depth > _DEEPEST:
            return self.anything()
        if "const" in schema or "enum" in schema:
            return alternatives(
                [self._literal(v) for v in schema.get("enum", [schema.get("const")])]
            )
        options = schema.get("anyOf")
        if options:
            return alternatives([self.value(option, depth + 1) for option in options])
        kind = schema.get("type")
        if isinstance(kind, list):
            return alternatives([self.value({**schema, "type": k}, depth + 1) for k in kind])
        makers: dict[Any, Callable[[], str]] = {
            "string": lambda: self._string(schema),
            "integer": lambda: self._rules.json(_only(schema, "integer")),
            "number": lambda: self._rules.json(_only(schema, "number")),
            "boolean": lambda: alternatives([self._literal(True), self._literal(False)]),
            "null": lambda: self._literal(None),
            "array": lambda: self._array(schema, depth),
            "object": lambda: self.object(schema, depth),
        }  # fmt: skip
        return makers[kind]() if kind in makers else self.anything()

    def _literal(self, value: Any) -> str:
        style, words = self._style, {True: self._style.true, False: self._style.false}
        if value is None:
            return json.dumps(style.null)
        if isinstance(value, bool):
            return json.dumps(words[value])
        if isinstance(value, str) and style.quote:
            return self._rules.text(f"{style.quote}{value}{style.quote}")
        return self._rules.text(json.dumps(value, ensure_ascii=False))

    def _string(self, schema: dict[str, Any]) -> str:
        rules, quote = self._rules, self._style.quote
        if quote is None:
            return rules.json(_only(schema, "string"), json_allowed_escapes=_PYTHON_ESCAPES)
        text = regex(f"(?s:.{_lengths(schema)})")
        body = f"{text} & ~{regex(f'(?s:.*){re.escape(quote)}(?s:.*)')}"
        if rules.text(quote).startswith("<["):
            return f"{rules.text(quote)} {rules.new(body, kind='T')} {rules.text(quote)}"
        end = regex(f"(?s:.{_lengths(schema)}){re.escape(quote)}")
        return f"{rules.text(quote)} {rules.new(end, options='[lazy]')}"

    def _array(self, schema: dict[str, Any], depth: int) -> str:
        item = self._rules.new(self.value(schema.get("items", {}), depth + 1))
        low, high = schema.get("minItems", 0), schema.get("maxItems", _MANY)
        if high < 1:
            return '"[" "]"'
        more = f"({json.dumps(self._style.comma)} {item}){{{max(low - 1, 0)},{high - 1}}}"
        return f'"[" ({item} {more}){"" if low else "?"} "]"'

    def object(self, schema: dict[str, Any], depth: int = 0) -> str:
        style = self._style
        if schema.get("properties") or schema.get("additionalProperties") is False:
            inside = self.members(schema, style.key, style.comma, depth)
            return f'"{{" {inside} "}}"'
        rest = schema.get("additionalProperties", True)
        value = self._rules.new(self.value({} if rest is True else rest, depth + 1))
        key = self._rules.new(r"/[A-Za-z_][A-Za-z0-9_]{0,40}/", kind="T")
        quoted = f'"\\"" {key} "\\""' if style.quoted_keys else key
        pair = self._rules.new(f"{quoted} {json.dumps(style.colon)} {value}")
        return f'"{{" ({pair} ({json.dumps(style.comma)} {pair}){{0,{_MANY}}})? "}}"'

    def members(
        self, schema: dict[str, Any], key: Callable[[str], str], comma: str, depth: int = 0
    ) -> str:
        """The properties in order, separated; those not required may be missing."""
        required = set(schema.get("required") or ())
        items = [
            (self._rules.text(key(name)) + " " + self.value(value, depth + 1), name in required)
            for name, value in (schema.get("properties") or {}).items()
        ]
        return _in_order(self._rules, items, comma)

    def anything(self) -> str:
        """Any value: numbers, texts, words, and lists of them."""
        if self._any is None:
            kinds = ("string", "number", "boolean", "null")
            simple = [self.value({"type": kind}) for kind in kinds]
            plain = self._rules.new(alternatives(simple))
            more = f"({json.dumps(self._style.comma)} {plain}){{0,{_MANY}}}"
            self._any = self._rules.new(f'{plain} | "[" ({plain} {more})? "]"')
        return self._any


def _in_order(rules: Rules, items: Sequence[tuple[str, bool]], comma: str) -> str:
    """Items with ``comma`` between those that are there; grows with their number, not its power."""
    rest, first = '""', '""'
    for body, is_required in reversed(items):
        item = rules.new(body)
        went = f"{item} {rest}"
        first = rules.new(went if is_required else f"{went} | {first}")
        after = f"{json.dumps(comma)} {item} {rest}"
        rest = rules.new(after if is_required else f"{after} | {rest}")
    return first


def _rooted(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A part of ``root`` that can stand alone, references included."""
    shared: dict[str, Any] = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return {**shared, **schema}


def _only(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """A scalar's keywords alone."""
    keys = ("minLength", "maxLength", "pattern", "format") if kind == "string" else (
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")  # fmt: skip
    return {"type": kind, **{key: schema[key] for key in keys if key in schema}}


def _lengths(schema: dict[str, Any]) -> str:
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    return f"{{{low},{high}}}" if high is not None else (f"{{{low},}}" if low else "*")
