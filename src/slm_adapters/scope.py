"""The ambient scope: ``role(...)`` and ``run(...)`` label every call made inside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["NO_LABELS", "Scope", "current_scope", "role", "run"]


class Scope(NamedTuple):
    """Labels for the calls made inside ``role(...)`` and ``run(...)``."""

    role: str | None = None
    run_id: str | None = None
    attributes: Mapping[str, str | int | float | bool] = MappingProxyType({})


#: The scope outside of any ``role`` or ``run``.
NO_LABELS = Scope()
_scope: ContextVar[Scope] = ContextVar("slm_adapters_scope", default=NO_LABELS)


#: The labels in force here; read once, when a call starts.
current_scope = _scope.get


@contextmanager
def role(name: str) -> Iterator[None]:
    """Label the calls inside with a role: ``with role("triage"): chain.invoke(x)``."""
    with _scoped(_scope.get()._replace(role=name)):
        yield


@contextmanager
def run(run_id: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """Label the calls inside with one run: ``with run("ticket-17", customer_tier="gold"): ...``."""
    outer = _scope.get()
    merged = {**outer.attributes, **attributes}
    with _scoped(outer._replace(run_id=run_id, attributes=merged)):
        yield


@contextmanager
def _scoped(scope: Scope) -> Iterator[None]:
    outer = _scope.get()
    _scope.set(scope)
    try:
        yield
    finally:
        # Set, not reset(token): an async generator may be closed in another context.
        _scope.set(outer)
