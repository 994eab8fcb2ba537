"""What CrewAI's events do not tell: calls that raise or return without an end event.

Three facts of CrewAI 1.15 make this necessary: context-length errors and every
``BaseException`` leave a started event without its end, a custom ``BaseLLM`` may emit no
events at all (see ``untold``), and a retried call is only visible to the retry loop.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.context import Context

from ..telemetry.current import get_context
from ..telemetry.harmless import note_failure, shielded, warn_once
from . import listening
from .replacing import put_back, replace
from .untold import Answered, Asked, emits_nothing

if TYPE_CHECKING:
    from .bus import EventSink

__all__ = ["Attempt", "Boundary", "current_boundary", "install", "saw_call", "uninstall"]

_CALL_ARGUMENTS = (
    "messages",
    "tools",
    "callbacks",
    "available_functions",
    "from_task",
    "from_agent",
    "response_model",
)


class Boundary:
    """A call into CrewAI that is running: what it opens ends with it at the latest.

    A ``with`` block makes it the current one.
    """

    __slots__ = ("outer",)

    def __init__(self) -> None:
        self.outer = _boundary.get()

    def __enter__(self) -> Self:
        _boundary.set(self)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            for sink in _sinks():
                with shielded("ending spans after an exception"):
                    sink.unwind(self, error)
        _boundary.set(self.outer)


class Attempt(Boundary):
    """One attempt of ``llm.call``; speaks for an LLM that emits no events of its own."""

    __slots__ = ("ambient", "asked", "last_event", "number", "operation", "result", "seen",
                 "started_ns")  # fmt: skip

    def __init__(self, operation: Callable[[], Any], number: int) -> None:
        super().__init__()
        self.operation, self.number = operation, number
        self.started_ns = time.time_ns()
        self.ambient = get_context()
        self.last_event = _last_event() if listening.active() else None
        self.seen = False
        #: The event shown in its name.
        self.asked: Asked | None = None
        self.result: Any = None

    def __enter__(self) -> Self:
        super().__enter__()
        # Where listeners are used, whether it emitted something is asked afterwards.
        if not listening.active() and emits_nothing(_llm_of(self.operation).__class__):
            self._ask()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.asked is None and not _spoke(self):
            self._ask()
        if self.asked is not None and error is None:
            self._show(self.asked, Answered(self.asked, self.result), time.time_ns())
        # An error ends the call, whoever spoke for it.
        super().__exit__(kind, error, trace)

    def _ask(self) -> None:
        llm, arguments = _llm_of(self.operation), _arguments_of(self.operation)
        if llm is not None:
            self.asked = Asked(llm, arguments)
            self._show(self.asked, self.asked, self.started_ns)

    def _show(self, asked: Asked, event: Asked | Answered, at_ns: int) -> None:
        with shielded("recording a model call without events"):
            _show(asked.llm, event, at_ns, self.ambient)


_boundary: ContextVar[Boundary | None] = ContextVar("slm_adapters_crewai", default=None)


def _no_sinks() -> tuple[EventSink, ...]:
    return ()


def _show_nobody(*_: Any) -> None:
    pass


_sinks: Callable[[], tuple[EventSink, ...]] = _no_sinks
_show: Callable[[Any, Any, int, Context], None] = _show_nobody


def current_boundary() -> Boundary | None:
    """The innermost call into CrewAI around the running code."""
    return _boundary.get()


def saw_call() -> None:
    """A started event came: this attempt, and those around it, speak for themselves."""
    boundary = _boundary.get()
    while boundary is not None:
        if isinstance(boundary, Attempt):
            boundary.seen = True
        boundary = boundary.outer


def install(
    sinks: Callable[[], tuple[EventSink, ...]], show: Callable[[Any, Any, int, Context], None]
) -> None:
    """Watch the retry loops, the entry points of crews, agents and flows, and the asking of people.

    ``show(source, event, at_ns, ambient)`` gets what stands for events that nobody emits. What a
    version of CrewAI does not have costs one warning, and the rest goes on.
    """
    global _sinks, _show
    _sinks, _show = sinks, show
    missing = []
    for owner, name, watched in _WATCHED:
        try:
            replace(owner, name, watched)
        except Exception:
            missing.append(f"{owner}.{name}")
    if missing:
        warn_once(
            "this crewai version",
            "slm-adapters: this crewai version is unknown: it has no "
            f"{', '.join(missing)}. Calls that end or begin without an event may be missing or "
            "end late; everything else is recorded.",
        )


def uninstall() -> None:
    """Put everything back that is still ours."""
    global _sinks, _show
    put_back()
    _sinks, _show = _no_sinks, _show_nobody


def _watched_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awatched(*args: Any, **kwargs: Any) -> Any:
            with Boundary():
                return await function(*args, **kwargs)

        return awatched

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        with Boundary():
            return function(*args, **kwargs)

    return watched


def _watched_loop(loop: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(loop):

        @functools.wraps(loop)
        async def awatched(operation: Callable[[], Any], **options: Any) -> Any:
            numbers = iter(range(1, 1000))

            async def attempt() -> Any:
                with Attempt(operation, next(numbers)) as call:
                    call.result = await operation()
                return call.result

            return await loop(attempt, **options)

        return awatched

    @functools.wraps(loop)
    def watched(operation: Callable[[], Any], **options: Any) -> Any:
        numbers = iter(range(1, 1000))

        def attempt() -> Any:
            with Attempt(operation, next(numbers)) as call:
                call.result = operation()
            return call.result

        return loop(attempt, **options)

    return watched


def _spoke(attempt: Attempt) -> bool:
    """Whether it emitted events: seen by the tap, or, with listeners, by CrewAI's own count."""
    if attempt.seen or not listening.active():
        return attempt.seen
    return attempt.last_event is None or _last_event() != attempt.last_event


def _last_event() -> str | None:
    """The event emitted last in this context; only asked where listeners are used."""
    if not listening.active():
        return None
    try:
        from crewai.events.event_context import get_last_event_id

        return get_last_event_id() or ""
    except Exception:
        return None


def _llm_of(operation: Callable[[], Any]) -> Any:
    """The LLM that the retry loop's closure calls; ``None`` if this CrewAI builds it otherwise."""
    try:
        place = operation.__code__.co_freevars.index("instance")
        return (operation.__closure__ or ())[place].cell_contents
    except Exception as error:
        note_failure("reading a CrewAI model call", error)
        return None


def _arguments_of(operation: Callable[[], Any]) -> dict[str, Any]:
    """What the LLM is called with, by name."""
    try:
        cells = (cell.cell_contents for cell in operation.__closure__ or ())
        inside = dict(zip(operation.__code__.co_freevars, cells, strict=True))
        arguments = dict(zip(_CALL_ARGUMENTS, inside.get("args") or (), strict=False))
        return {**arguments, **(inside.get("kwargs") or {})}
    except Exception as error:
        note_failure("reading a CrewAI model call", error)
        return {}


def _watched_question(ask: Callable[..., Any]) -> Callable[..., Any]:
    """CrewAI asks a person: a moment when it asks and one when the answer is there."""
    if inspect.iscoroutinefunction(ask):

        @functools.wraps(ask)
        async def awatched(*args: Any, **kwargs: Any) -> Any:
            _tell("requested")
            answer = await ask(*args, **kwargs)
            _tell("received")
            return answer

        return awatched

    @functools.wraps(ask)
    def watched(*args: Any, **kwargs: Any) -> Any:
        _tell("requested")
        answer = ask(*args, **kwargs)
        _tell("received")
        return answer

    return watched


def _tell(what: str) -> None:
    for sink in _sinks():
        with shielded("noting that a person is asked"):
            sink.human(what)


_ASKS_PEOPLE = "crewai.core.providers.human_input:SyncHumanInputProvider"
_WATCHED = (
    ("crewai.llms.base_llm", "run_with_rate_limit_retry", _watched_loop),
    ("crewai.llms.base_llm", "arun_with_rate_limit_retry", _watched_loop),
    ("crewai:Crew", "kickoff", _watched_entry),
    ("crewai:Crew", "akickoff", _watched_entry),
    ("crewai:Agent", "kickoff", _watched_entry),
    ("crewai:Agent", "kickoff_async", _watched_entry),
    ("crewai.flow.flow:Flow", "kickoff_async", _watched_entry),
    (_ASKS_PEOPLE, "_prompt_input", _watched_question),
    (_ASKS_PEOPLE, "_prompt_input_async", _watched_question),
)
