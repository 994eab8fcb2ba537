"""One tap on CrewAI's event bus, shared by every recorder.

``crewai_event_bus.emit`` is replaced on the instance, so events are seen on the thread that
emits them; documented listeners run later, where the model call's span cannot be current.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from crewai.events.event_bus import crewai_event_bus
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ..telemetry.harmless import shielded, warn_once
from . import guards

__all__ = ["EventSink", "add", "remove", "sinks"]


class EventSink(Protocol):
    """What sees the events: one per recorder."""

    #: False when it only looks at some model calls, so that a full recorder covers it.
    sees_everything: bool

    def see(self, source: Any, event: Any, moment: Moment) -> None: ...

    def unwind(self, boundary: guards.Boundary, error: BaseException) -> None: ...

    def silent_call(self, attempt: guards.Attempt) -> None: ...


class Moment:
    """When and where an event was emitted."""

    __slots__ = ("ambient", "at_ns", "covered", "leads", "synchronous")

    def __init__(self, at_ns: int, ambient: Context, *, synchronous: bool = True) -> None:
        self.at_ns, self.ambient, self.synchronous = at_ns, ambient, synchronous
        #: The first sink alone moves the current OpenTelemetry span.
        self.leads = synchronous
        #: A recorder of everything is there too.
        self.covered = False


_lock = threading.RLock()
_sinks: tuple[EventSink, ...] = ()
_replaced: Any = None
_tap: Any = None
_listening: list[tuple[Any, Callable[..., Any]]] = []


def sinks() -> tuple[EventSink, ...]:
    """The registered sinks, recorders of everything first."""
    return _sinks


def add(sink: EventSink) -> None:
    """Start showing events to ``sink``; adding it twice changes nothing."""
    global _sinks
    with _lock:
        if sink in _sinks:
            return
        _sinks = tuple(sorted((*_sinks, sink), key=lambda s: not s.sees_everything))
        if _tap is None and not _listening:
            _install()


def remove(sink: EventSink) -> None:
    """Stop; the last one out restores the bus."""
    global _sinks
    with _lock:
        _sinks = tuple(s for s in _sinks if s is not sink)
        if not _sinks:
            _uninstall()


def _install() -> None:
    global _tap, _replaced
    original = crewai_event_bus.emit

    def emit(source: Any, event: Any) -> Any:
        if not _sinks:
            return original(source, event)
        at_ns = time.time_ns()
        future = original(source, event)
        _show(source, event, Moment(at_ns, otel_context.get_current()))
        return future

    try:
        _replaced = vars(crewai_event_bus).get("emit")
        crewai_event_bus.emit = emit
        _tap = emit
        guards.install(sinks)
    except Exception:
        warn_once(
            "the event bus tap",
            "slm-adapters: this crewai version does not let its event bus be tapped, so spans "
            "come from its listeners: they are complete, but HTTP spans do not nest under them.",
        )
        _listen()


def _uninstall() -> None:
    global _tap, _replaced
    guards.uninstall()
    while _listening:
        kind, handler = _listening.pop()
        crewai_event_bus.off(kind, handler)
    # Somebody may have wrapped our emit meanwhile: theirs stays, ours passes through.
    if _tap is not None and vars(crewai_event_bus).get("emit") is _tap:
        if _replaced is None:
            del crewai_event_bus.emit
        else:
            crewai_event_bus.emit = _replaced
    _tap = _replaced = None


def _show(source: Any, event: Any, moment: Moment) -> None:
    shown = _sinks
    moment.covered = bool(shown) and shown[0].sees_everything
    if event.type == "llm_call_started":
        guards.saw_call()
    for sink in shown:
        with shielded("recording a CrewAI event"):
            sink.see(source, event, moment)
        moment.leads = False


def _listen() -> None:
    from crewai.events import event_types

    # Asynchronous handlers run on one loop in the order of the events, synchronous ones on a
    # pool without any.
    async def handler(source: Any, event: Any) -> None:
        at_ns = int(event.timestamp.timestamp() * 1e9)
        _show(source, event, Moment(at_ns, otel_context.get_current(), synchronous=False))

    for kind in _event_classes(event_types):
        crewai_event_bus.on(kind)(handler)
        _listening.append((kind, handler))


def _event_classes(module: Any) -> list[Any]:
    from crewai.events.base_events import BaseEvent
    from crewai.events.event_context import SCOPE_ENDING_EVENTS, SCOPE_STARTING_EVENTS

    wanted = SCOPE_STARTING_EVENTS | SCOPE_ENDING_EVENTS | {"llm_stream_chunk"}
    classes = []
    for name in dir(module):
        kind = getattr(module, name)
        if isinstance(kind, type) and issubclass(kind, BaseEvent):
            field = getattr(kind, "model_fields", {}).get("type")
            if field is not None and field.default in wanted:
                classes.append(kind)
    return classes
