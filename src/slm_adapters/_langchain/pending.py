"""How a ``ChatSLM`` finds the calls recorders opened for the very run it is about to answer.

LangChain's ``stream`` does not hand the run to ``_stream``. The recorder runs on the same
context just before, so it leaves the call there, and the model takes it.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from uuid import UUID

from ..telemetry.recorder import OpenCall

__all__ = ["announce", "claim"]


class _Announced:
    """The calls of one invocation; ``generate`` starts several before it answers the first."""

    __slots__ = ("calls", "invocation")

    def __init__(self, invocation: object) -> None:
        self.invocation = invocation
        self.calls: deque[tuple[int, list[OpenCall]]] = deque()


_announced: ContextVar[_Announced | None] = ContextVar("slm_adapters_announced", default=None)


def announce(run_id: UUID, call: OpenCall, invocation: object) -> None:
    """Leave ``call`` for the model; recorders of one run share an entry."""
    current = _announced.get()
    if current is None or current.invocation is not invocation:
        current = _Announced(invocation)
        _announced.set(current)
    for key, calls in current.calls:
        if key == run_id.int:
            calls.append(call)
            return
    current.calls.append((run_id.int, [call]))


def claim(run_id: UUID | None = None) -> list[OpenCall]:
    """Take the calls of the run that starts answering now; with ``run_id`` exactly that run's."""
    current = _announced.get()
    if current is None:
        return []
    taken: list[OpenCall] = []
    for entry in list(current.calls):
        if run_id is None or entry[0] == run_id.int:
            current.calls.remove(entry)
            taken = [call for call in entry[1] if not call.ended]
            break
    if not current.calls:
        _announced.set(None)
    return taken
