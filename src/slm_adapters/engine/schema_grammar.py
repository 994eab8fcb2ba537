"""A JSON schema in the terms the grammar engine can enforce.

What it cannot (``not``, ``uniqueItems``, look-ahead patterns, ...) is left out here and found by
the check on the finished answer. What a grammar may narrow is narrowed: an object that lists its
properties has no others, and numbers have an end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["ANY_OBJECT", "Simplified", "enforceable"]

ANY_OBJECT: dict[str, Any] = {"type": "object"}

#: Keywords of Draft 2020-12 that llguidance 1.9 implements; annotations may stay.
_KEYWORDS = frozenset((
    "$ref", "$defs", "definitions", "$id", "$schema", "$anchor", "$comment", "anyOf", "oneOf",
    "allOf", "const", "enum", "type", "items", "prefixItems", "minItems", "maxItems", "properties",
    "additionalProperties", "patternProperties", "required", "minProperties", "maxProperties",
    "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
))  # fmt: skip
_ANNOTATIONS = frozenset((
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly",
    "nullable", "discriminator", "contentEncoding", "contentMediaType", "strict",
))  # fmt: skip
_FORMATS = frozenset((
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
))  # fmt: skip
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties")
#: Whole numbers end somewhere: a small model may otherwise write digits until it is cut off.
_LARGEST = 10**18


class Simplified:
    """``schema`` as it can be enforced, and the names of what was ``dropped``."""

    def __init__(self, schema: Any, dropped: frozenset[str]) -> None:
        self.schema, self.dropped = schema, dropped


def enforceable(schema: Any) -> Simplified:
    """The enforceable part of ``schema``; the whole of it where nothing had to go."""
    dropped: set[str] = set()
    return Simplified(_simplified(schema, dropped), frozenset(dropped))


def _simplified(schema: Any, dropped: set[str]) -> Any:
    if not isinstance(schema, dict):
        return schema is not False
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[key] = {name: _simplified(item, dropped) for name, item in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            kept[key] = [_simplified(item, dropped) for item in value]
        elif key in _SCHEMAS and not isinstance(value, list):
            kept[key] = _simplified(value, dropped)
        elif (problem := _problem(key, value)) is None:
            kept[key] = value
        elif problem:
            dropped.add(problem)
    return _narrowed(_one_of_as_any_of(kept))


def _problem(key: str, value: Any) -> str | None:
    """What to call ``key`` when it cannot be enforced; empty when it means nothing anyway."""
    checks: dict[str, Callable[[Any], bool]] = {
        "pattern": lambda pattern: isinstance(pattern, str) and _is_regular(pattern),
        "format": lambda name: name in _FORMATS,
        "$ref": lambda target: isinstance(target, str) and target.startswith("#"),
        "enum": lambda values: isinstance(values, list) and bool(values),
        "items": lambda value: not isinstance(value, list),
    }
    if key in _ANNOTATIONS or key.startswith("x-"):
        return ""
    if key not in _KEYWORDS:
        return key
    return key if key in checks and not checks[key](value) else None


def _one_of_as_any_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Exactly one is at least one; the check on the answer sees the difference."""
    if "oneOf" not in schema or "anyOf" in schema:
        return schema
    return {"anyOf" if key == "oneOf" else key: value for key, value in schema.items()}


def _narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if "properties" in schema and not {"allOf", "$ref", "anyOf", "patternProperties"} & set(schema):
        missing = set(schema.get("required") or ()) - set(schema["properties"])
        if not missing:
            schema.setdefault("additionalProperties", False)
    if "integer" in kinds and "multipleOf" not in schema and "enum" not in schema:
        schema.update(_bounded(schema))
    return schema


def _bounded(schema: dict[str, Any]) -> dict[str, int]:
    bounds: dict[str, int] = {}
    if not {"minimum", "exclusiveMinimum"} & set(schema):
        bounds["minimum"] = -_LARGEST
    if not {"maximum", "exclusiveMaximum"} & set(schema):
        bounds["maximum"] = _LARGEST
    return bounds


@lru_cache(maxsize=512)
def _is_regular(pattern: str) -> bool:
    """Whether a finite automaton can check it: no look-around, no word borders, no references."""
    if re.search(r"\(\?[=!<]|\\[bB1-9]", pattern):
        return False
    from llguidance import LLMatcher

    return not LLMatcher.validate_grammar(
        LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    )
