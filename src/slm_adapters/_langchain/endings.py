"""How LangChain runs end: finished, failed, given up, or paused."""

from __future__ import annotations

import asyncio
import sys

from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, OpenSpan
from . import spent
from .runs import Run

__all__ = ["end_lost", "end_with", "gives_up", "is_closed"]

_CANCELLED = "asyncio.exceptions.CancelledError"


def end_lost(run: Run, when_ns: int, error: BaseException | None) -> None:
    """A run nobody reports on: a stream given up, or a cancelled call or tool."""
    if error is not None:
        end_with(run, error)
        return
    call = run.span
    if not isinstance(call, OpenCall):
        if call is not None:
            spent.summed_up(run)
            call.note(**{semconv.OUTCOME: "abandoned"})
            call.end(end_ns=when_ns)
        return
    spent.called(run, None)
    if call.fields.get("streamed") or run.is_dropped:
        call.abandon(end_ns=when_ns)
    else:
        call.fail(_CANCELLED, end_ns=when_ns)


def end_with(run: Run, error: BaseException | None) -> None:
    span = run.span
    if isinstance(span, OpenCall):
        spent.called(run, None)
        if error is not None and is_closed(run, error):
            span.abandon()
        else:
            span.fail(error if error is not None else _CANCELLED)
    elif span is not None:
        if span.operation == semconv.EXECUTE_TOOL:
            spent.tool_used(run)
        else:
            spent.summed_up(run)
        _end_span(span, error)


def _end_span(span: OpenSpan, error: BaseException | None) -> None:
    if isinstance(error, GeneratorExit):
        span.note(**{semconv.OUTCOME: "abandoned"})
        span.end()
    elif error is not None and _is_control_flow(error):
        span.note(**{semconv.OUTCOME: "interrupted"})
        span.end()
    else:
        span.end(error)


def is_closed(run: Run, error: BaseException) -> bool:
    """Whether a stream ends by ``error`` because its consumer closed it or let go of it.

    A loop that ends cancels the closing it had begun: that is no cancelled call.
    """
    if isinstance(error, GeneratorExit):
        return True
    return run.is_dropped and isinstance(error, asyncio.CancelledError)


def gives_up(error: BaseException) -> bool:
    """Whether what runs inside was given up as well, and may never report its end."""
    return not isinstance(error, Exception)


def _is_control_flow(error: BaseException) -> bool:
    """LangGraph's interrupts and commands travel as exceptions."""
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
