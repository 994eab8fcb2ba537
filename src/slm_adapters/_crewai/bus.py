"""One tap on CrewAI's event bus, shared by every recorder.

``crewai_event_bus.emit`` is replaced on the instance, so events are seen on the thread that
emits them; documented listeners run later, where the model call's span cannot be current.
Where the tap is refused or passed by, the listeners are used after all.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from crewai.events import crewai_event_bus
from opentelemetry.context import Context

from ..telemetry.current import get_context
from ..telemetry.harmless import note_failure, warn_once
from . import guards, listening
from .tables import RELEVANT

__all__ = ["EventSink", "Moment", "add", "covered", "remove", "sinks"]


class EventSink(Protocol):
    """What sees the events: one per recorder."""

    #: False when it only looks at some model calls, so that a full recorder covers it.
    sees_everything: bool

    @property
    def destination(self) -> Any:
        """Where its spans go; two recorders of everything make one span per destination."""

    def see(self, source: Any, event: Any, moment: Moment) -> None: ...

    def unwind(self, boundary: guards.Boundary, error: BaseException) -> None: ...

    def human(self, what: str) -> None: ...


class Moment:
    """When and where an event was emitted."""

    __slots__ = ("ambient", "at_ns", "leads", "synchronous")

    def __init__(self, at_ns: int, ambient: Context, *, synchronous: bool = True) -> None:
        self.at_ns, self.ambient, self.synchronous = at_ns, ambient, synchronous
        #: The first sink alone moves the current OpenTelemetry span.
        self.leads = synchronous


_lock = threading.RLock()
_sinks: tuple[EventSink, ...] = ()
_replaced: Any = None
_tap: Any = None


def sinks() -> tuple[EventSink, ...]:
    """The registered sinks, recorders of everything first."""
    return _sinks


def covered(sink: EventSink) -> bool:
    """Whether another sink makes the same spans in the same place already."""
    if len(_sinks) < 2:
        return False
    for other in _sinks:
        if other is sink or not other.sees_everything:
            return False
        if not sink.sees_everything or other.destination is sink.destination:
            return True
    return False


def add(sink: EventSink) -> None:
    """Start showing events to ``sink``; adding it twice changes nothing."""
    global _sinks
    with _lock:
        if sink in _sinks:
            return
        _sinks = tuple(sorted((*_sinks, sink), key=lambda s: not s.sees_everything))
        if _tap is None and not listening.active():
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
    used = False
    guards.install(sinks, _show_untold)
    try:
        original = crewai_event_bus.emit

        def emit(source: Any, event: Any) -> Any:
            nonlocal used
            used = True
            if event.type not in RELEVANT or not _sinks:
                return original(source, event)
            at_ns = time.time_ns()
            future = original(source, event)
            _show(source, event, Moment(at_ns, get_context()))
            return future

        _replaced = vars(crewai_event_bus).get("emit")
        crewai_event_bus.emit = emit
        _tap = emit
    except Exception:
        _use_listeners()
    else:
        # Should this CrewAI not call what was replaced, the first crew or call tells.
        listening.watch(lambda: used, _passed_by)


def _use_listeners() -> None:
    warn_once(
        "the event bus tap",
        "slm-adapters: this crewai version does not let its event bus be tapped, so spans "
        "come from its listeners: they are complete, but HTTP spans do not nest under them.",
    )
    listening.start(_overheard)


def _passed_by(source: Any, event: Any) -> None:
    with _lock:
        if not _sinks or listening.active():
            return
        _use_listeners()
    _overheard(source, event)


def _show_untold(source: Any, event: Any, at_ns: int, ambient: Context) -> None:
    _show(source, event, Moment(at_ns, ambient, synchronous=not listening.active()))


def _overheard(source: Any, event: Any) -> None:
    at_ns = int(event.timestamp.timestamp() * 1e9)
    _show(source, event, Moment(at_ns, get_context(), synchronous=False))


def _uninstall() -> None:
    global _tap, _replaced
    guards.uninstall()
    listening.stop()
    # Somebody may have wrapped our emit meanwhile: theirs stays, ours passes through.
    if _tap is not None and vars(crewai_event_bus).get("emit") is _tap:
        if _replaced is None:
            del crewai_event_bus.emit
        else:
            crewai_event_bus.emit = _replaced
    _tap = _replaced = None


def _show(source: Any, event: Any, moment: Moment) -> None:
    if event.type == "llm_call_started":
        guards.saw_call()
    for sink in _sinks:
        try:
            sink.see(source, event, moment)
        except Exception as error:
            note_failure("recording a CrewAI event", error)
        moment.leads = False
