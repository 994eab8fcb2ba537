"""An agent's ``max_execution_time`` as a deadline that its model's calls can keep.

CrewAI stops waiting when the time is over, and then waits for the thread all the same: only the
model can end the work. It is told when the execution began, however many calls came before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["limited", "limited_async", "time_left"]

#: ``time.monotonic()`` of the end of the agent's execution around this call.
_until: ContextVar[float | None] = ContextVar("slm_adapters_crewai_until", default=None)
#: A call that comes too late still has to say so in its own way.
_NO_TIME_S = 1e-3


def time_left(agent: Any) -> float | None:
    """Seconds until the agent's execution has to end; outside of one, what a whole one may take."""
    until = _until.get()
    if until is None:
        allowed: float | None = getattr(agent, "max_execution_time", None)
        return allowed
    return max(until - time.monotonic(), _NO_TIME_S)


@contextmanager
def _until_then(seconds: float) -> Iterator[None]:
    """The earlier of this end and that of an agent which waits for this one."""
    outer, until = _until.get(), time.monotonic() + seconds
    _until.set(until if outer is None else min(outer, until))
    try:
        yield
    finally:
        _until.set(outer)


def limited(execute: Callable[..., Any]) -> Callable[..., Any]:
    """``Agent._execute_with_timeout``, whose last argument is the limit."""

    @functools.wraps(execute)
    def wrapped(self: Any, *asked: Any) -> Any:
        with _until_then(asked[-1]):
            return execute(self, *asked)

    return wrapped


def limited_async(execute: Callable[..., Any]) -> Callable[..., Any]:
    """The same for ``Agent._aexecute_with_timeout``."""

    @functools.wraps(execute)
    async def wrapped(self: Any, *asked: Any) -> Any:
        with _until_then(asked[-1]):
            return await execute(self, *asked)

    return wrapped
