"""The current OpenTelemetry context, read and set by value.

Tokens cannot be reset from another task or thread, and streams are closed wherever their consumer
dies; so what was current is remembered and set again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context

__all__ = ["get_context", "set_context", "switched_to"]


def _ways() -> tuple[Callable[[], Context], Callable[[Context], object]]:
    # Streams switch twice a chunk. The API's own functions lead to this variable in four calls;
    # where it is not (another runtime context), they are used.
    variable = getattr(otel_context._RUNTIME_CONTEXT, "_current_context", None)
    if isinstance(variable, ContextVar) and variable.get() is otel_context.get_current():
        return variable.get, variable.set
    return otel_context.get_current, otel_context.attach


get_context, set_context = _ways()


@contextmanager
def switched_to(context: Context) -> Iterator[None]:
    """Make ``context`` the current one for a ``with`` block, whose end sets what was before."""
    outer = get_context()
    set_context(context)
    try:
        yield
    finally:
        set_context(outer)
