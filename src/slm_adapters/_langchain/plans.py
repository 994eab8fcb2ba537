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
    """A call's fields, to be copied, and its span's name, kind and attributes."""

    __slots__ = ("attributes", "fields", "is_ours", "kind", "name", "numbers", "params")

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
        self.params = dict(params)
        #: The parameters that equal others of another type: 1, 1.0 and True do.
        self.numbers = [
            (name, type(value)) for name, value in params.items() if isinstance(value, int | float)
        ]
        self.name = semconv.span_name(operation, model)
        self.kind = semconv.span_kind(operation, provider == LOCAL_PROVIDER)

    def is_of(self, params: Mapping[str, Any]) -> bool:
        """Whether it was made of equal parameters of equal types."""
        try:
            if params != self.params:
                return False
        except Exception:
            return False  # some values have no plain answer
        for name, kind in self.numbers:  # noqa: SIM110 - a generator costs more than all of this
            if type(params[name]) is not kind:
                return False
        return True


class Plans:
    """The plans of one recorder. Models with nested parameters (tools) get a new one each call."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Any, Any], Plan] = {}

    def plan(
        self,
        operation: str,
        serialized: Mapping[str, Any] | None,
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> Plan:
        """The plan of this call; only equal values of equal types share one."""
        key = (operation, metadata.get("ls_model_name"), metadata.get("ls_provider"))
        known = self._known.get(key)
        if known is not None and known.is_of(params):
            return known
        model, provider = model_facts(serialized, params, metadata)
        plan = Plan(operation, model, provider, params)
        if key[1] and _SCALARS.issuperset(map(type, params.values())):
            if len(self._known) >= _LIMIT:
                self._known.clear()
            self._known[key] = plan
        return plan
