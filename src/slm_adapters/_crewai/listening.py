"""CrewAI's documented listeners: the way to its events when its bus cannot be tapped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from crewai.events import crewai_event_bus

from ..telemetry.harmless import note_failure
from .tables import RELEVANT

try:
    from crewai.events.event_bus import is_replaying
except ImportError:  # a version that replays nothing

    def is_replaying() -> bool:
        return False


__all__ = ["active", "start", "stop", "watch"]

#: Any run of CrewAI begins with one of these.
_FIRST = ("crew_kickoff_started", "flow_started", "agent_execution_started", "llm_call_started")

Show = Callable[[Any, Any], None]
_handlers: list[tuple[Any, Callable[..., Any]]] = []
_watchers: list[tuple[Any, Callable[..., Any]]] = []


def active() -> bool:
    """Whether events come from listeners."""
    return bool(_handlers)


def start(show: Show) -> None:
    """Show every relevant event, in order, on CrewAI's event loop."""

    # Asynchronous handlers run on one loop in the order of the events, synchronous ones on a
    # pool without any.
    async def handler(source: Any, event: Any) -> None:
        if not is_replaying():
            show(source, event)

    for kind in _event_classes(RELEVANT):
        crewai_event_bus.on(kind)(handler)
        _handlers.append((kind, handler))


def watch(tapped: Callable[[], bool], show: Show) -> None:
    """Look at the first event: if the tap saw nothing, ``show`` it. Then stop watching."""

    # Synchronous: beside an asynchronous handler CrewAI would not wait for the user's own.
    def handler(source: Any, event: Any) -> None:
        over = all(watcher is not handler for _, watcher in _watchers)
        if over or is_replaying():
            return  # the bus was late, or tells what it never emitted
        seen = tapped()
        _remove(_watchers)
        if not seen:
            show(source, event)

    try:
        for kind in _event_classes(_FIRST):
            crewai_event_bus.on(kind)(handler)
            _watchers.append((kind, handler))
    except Exception as error:
        note_failure("watching CrewAI's event bus", error)


def stop() -> None:
    """Take every listener of ours away."""
    _remove(_handlers)
    _remove(_watchers)


def _remove(handlers: list[tuple[Any, Callable[..., Any]]]) -> None:
    while handlers:
        kind, handler = handlers.pop()
        crewai_event_bus.off(kind, handler)


def _event_classes(wanted: Any) -> list[Any]:
    """The event classes of these types, wherever this version of CrewAI keeps them."""
    from crewai.events.base_events import BaseEvent

    with suppress(ImportError):
        import crewai.events.event_types  # noqa: F401 - it defines them all
    found, waiting = [], list(BaseEvent.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        field = getattr(kind, "model_fields", {}).get("type")
        if field is not None and field.default in wanted:
            found.append(kind)
    return found
