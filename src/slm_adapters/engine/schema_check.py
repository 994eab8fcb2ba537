"""Does a value fit a JSON schema? Nothing is fetched to follow a reference."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

__all__ = ["mismatch", "schema_problem", "so_far"]

#: Longer problems are cut, an answer may be long and private.
_LONGEST_QUOTE = 120
#: What holds for each property alone, whether the others have been written or not.
_BY_PROPERTY = (
    "properties", "patternProperties", "additionalProperties", "$defs", "definitions",
)  # fmt: skip


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Where and how ``value`` breaks ``schema``; None when it fits or the schema is unusable."""
    from jsonschema.exceptions import best_match

    if not schema:
        return None
    validator = _validator(json.dumps(schema, sort_keys=True, default=str))
    if validator is None:
        return None
    error = best_match(validator.iter_errors(value))
    if error is None:
        return None
    message = " ".join(str(error.message).split())
    if len(message) > _LONGEST_QUOTE:
        message = message[: _LONGEST_QUOTE - 1] + "…"
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    return f"at {where.lstrip('.')}: {message}" if where else message


def so_far(schema: dict[str, Any]) -> dict[str, Any]:
    """What of an object's schema holds already while its properties are being written."""
    return {key: schema[key] for key in _BY_PROPERTY if key in schema}


def schema_problem(schema: dict[str, Any]) -> str | None:
    """Why ``schema`` is no usable JSON schema; None when it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return " ".join(str(error.message).split())[:_LONGEST_QUOTE]
    lost = _lost_reference(schema)
    return lost and f"it refers to {lost[:_LONGEST_QUOTE]}, which is not in it"


def _lost_reference(schema: dict[str, Any]) -> str | None:
    """A ``$ref`` that leads out of the schema."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource(resource.id() or "", resource).resolver()
    if resource.id():
        resolver = resolver.in_subresource(resource)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return reference
    return None


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        schema = list(schema.values())
    for item in schema if isinstance(schema, list) else ():
        yield from _references(item)


@lru_cache(maxsize=256)
def _validator(schema_json: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = json.loads(schema_json)
    if schema_problem(schema):
        return None
    # An empty registry: the default one would ask the network for what it does not know.
    return validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
