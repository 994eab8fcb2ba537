"""Values that a format writes as bare text, and the type their schema gives them."""

from __future__ import annotations

import json
from typing import Any

from .call_readers import XmlText
from .json_repair import read_json

__all__ = ["kinds_of", "resolved", "typed"]

#: References followed before a schema counts as endless.
_LONGEST_WAY = 12


def typed(value: Any, key: str, schema: dict[str, Any]) -> Any:
    """``value`` of the property ``key``: bare text becomes what ``schema`` says, or stays text."""
    if not isinstance(value, XmlText):
        return value
    text = str(value)
    part = resolved((schema.get("properties") or {}).get(key), schema)
    for choice in part.get("enum") or ([part["const"]] if "const" in part else ()):
        if text in (choice, json.dumps(choice)):
            return choice
    kinds = kinds_of(part, schema)
    if "null" in kinds and text.strip() in ("null", "None"):
        return None
    if not kinds - {"string", "null"}:
        return text
    try:
        parsed, end = read_json(text)
    except ValueError:
        return text
    return text if text[end:].strip() else parsed


def kinds_of(schema: Any, root: dict[str, Any]) -> set[str]:
    """The types a schema names for its values; none where it does not say."""
    schema = resolved(schema, root)
    options = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    if options:
        return set[str]().union(*(kinds_of(option, root) for option in options))
    kind = schema.get("type") or ()
    return {kind} if isinstance(kind, str) else set(kind)


def resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """``schema`` with a reference at its top followed; {} for what cannot be."""
    for _ in range(_LONGEST_WAY):
        if not isinstance(schema, dict):
            return {}
        options = schema.get("allOf")
        if isinstance(options, list) and len(options) == 1 and isinstance(options[0], dict):
            schema = {**{k: v for k, v in schema.items() if k != "allOf"}, **options[0]}
        elif isinstance(schema.get("$ref"), str):
            schema = _at(schema["$ref"], root)
        else:
            return schema
    return {}


def _at(pointer: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for part in filter(None, pointer.removeprefix("#").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found
