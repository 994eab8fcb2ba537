"""What every call of one model starts with, worked out once per model and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from ..telemetry import semconv
from . import convert
from .convert import LOCAL_PROVIDER
from .spans import model_facts

__all__ = ["Plan", "Plans"]

_LIMIT = 256
#: Values that cannot change under a plan, and that compare without surprises.
_SCALARS = frozenset((str, int, float, bool, NoneType))


class Plan:
    """A call's fields, and its span's name, kind and attributes; copy both dicts."""

    __slots__ = ("attributes", "fields", "is_ours", "kind", "name")

    def __init__(
        self, operation: str, model: str, provider: str | None, params: Mapping[str, Any]
    ) -> None:
        response_format = params.get("response_format")
        self.fields: dict[str, Any] = {
            "framework": "langchain",
            "operation": operation,
            "provider": provider,
            "model": model,
            "params": convert.params_from(params),
            "response_format": response_format if isinstance(response_format, dict) else None,
        }
        self.attributes = semconv.call_attributes(self.fields)
        #: Whether the model is a ``ChatSLM``, wherever it runs.
        self.is_ours = params.get("_type") == LOCAL_PROVIDER
        self.name = semconv.span_name(operation, model)
        self.kind = semconv.span_kind(operation, provider == LOCAL_PROVIDER)


class Plans:
    """The plans of one recorder. Models with nested parameters (tools) get a new one each call."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Any, Any], tuple[list[type], dict[str, Any], Plan]] = {}

    def plan(
        self,
        operation: str,
        serialized: Mapping[str, Any] | None,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> Plan:
        """The plan of this call; only equal values of equal types share one."""
        key = (operation, metadata.get("ls_model_name"), metadata.get("ls_provider"))
        types = [*map(type, params.values())]
        known = self._known.get(key)
        # Types first: 1, 1.0 and True are equal, and some values have no plain answer.
        if known is not None and known[0] == types and known[1] == params:
            return known[2]
        plan = self._made(operation, serialized, params, metadata)
        if key[1] and _SCALARS.issuperset(types):
            if len(self._known) >= _LIMIT:
                self._known.clear()
            self._known[key] = (types, dict(params), plan)
        return plan

    @staticmethod
    def _made(
        operation: str,
        serialized: Mapping[str, Any] | None,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> Plan:
        model, provider = model_facts(serialized, params, metadata)
        return Plan(operation, model, provider, params)
