"""What CrewAI's events do not tell: calls that raise or return without an end event.

Three facts of CrewAI 1.15 make this necessary: context-length errors and every
``BaseException`` leave a started event without its end, a custom ``BaseLLM`` may emit no
events at all, and a retried call is only visible to the retry loop.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..telemetry.current import get_context
from ..telemetry.harmless import note_failure, shielded, warn_once
from . import listening
from .replacing import put_back, replace

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
    """A call into CrewAI that is running: what it opens ends with it at the latest."""

    __slots__ = ("outer",)

    def __init__(self, outer: Boundary | None) -> None:
        self.outer = outer


class Attempt(Boundary):
    """One attempt of ``llm.call``; handed to the sinks if it emitted no events."""

    __slots__ = (
        "ambient", "arguments", "ended_ns", "error", "last_event", "llm", "number", "result",
        "seen", "started_ns",
    )  # fmt: skip

    def __init__(self, outer: Boundary | None, number: int) -> None:
        super().__init__(outer)
        self.number = number
        self.started_ns, self.ended_ns = time.time_ns(), 0
        self.ambient = get_context()
        self.last_event = _last_event() if listening.active() else None
        self.seen = False
        self.result: Any = None
        self.error: BaseException | None = None
        #: Only known of an attempt that emitted no events.
        self.llm: Any = None
        self.arguments: dict[str, Any] = {}


_boundary: ContextVar[Boundary | None] = ContextVar("slm_adapters_crewai", default=None)


def _no_sinks() -> tuple[EventSink, ...]:
    return ()


_sinks: Callable[[], tuple[EventSink, ...]] = _no_sinks


def current_boundary() -> Boundary | None:
    """The innermost call into CrewAI around the running code."""
    return _boundary.get()


def saw_call() -> None:
    """A started event came: this attempt, and those around it, speak for themselves."""
    _mark_seen(_boundary.get())


def _mark_seen(boundary: Boundary | None) -> None:
    while boundary is not None:
        if isinstance(boundary, Attempt):
            boundary.seen = True
        boundary = boundary.outer


def install(sinks: Callable[[], tuple[EventSink, ...]]) -> None:
    """Watch the retry loops, the entry points of crews, agents and flows, and the asking of people.

    What a version of CrewAI does not have costs one warning, and the rest goes on.
    """
    global _sinks
    _sinks = sinks
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
    global _sinks
    put_back()
    _sinks = _no_sinks


def _watched_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awatched(*args: Any, **kwargs: Any) -> Any:
            with _inside(Boundary(_boundary.get())):
                return await function(*args, **kwargs)

        return awatched

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        with _inside(Boundary(_boundary.get())):
            return function(*args, **kwargs)

    return watched


@contextmanager
def _inside(boundary: Boundary) -> Iterator[None]:
    """Make ``boundary`` the current one; if the block raises, end what it left open."""
    _boundary.set(boundary)
    try:
        yield
    except BaseException as error:
        for sink in _sinks():
            with shielded("ending spans after an exception"):
                sink.unwind(boundary, error)
        raise
    finally:
        _boundary.set(boundary.outer)


def _watched_loop(loop: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(loop):

        @functools.wraps(loop)
        async def awatched(operation: Callable[[], Any], **options: Any) -> Any:
            numbers = iter(range(1, 1000))

            async def attempt() -> Any:
                with _attempting(operation, next(numbers)) as call:
                    call.result = await operation()
                return call.result

            return await loop(attempt, **options)

        return awatched

    @functools.wraps(loop)
    def watched(operation: Callable[[], Any], **options: Any) -> Any:
        numbers = iter(range(1, 1000))

        def attempt() -> Any:
            with _attempting(operation, next(numbers)) as call:
                call.result = operation()
            return call.result

        return loop(attempt, **options)

    return watched


@contextmanager
def _attempting(operation: Callable[[], Any], number: int) -> Iterator[Attempt]:
    attempt = Attempt(_boundary.get(), number)
    try:
        with _inside(attempt):
            yield attempt
    except BaseException as error:
        attempt.error = error
        raise
    finally:
        if not _spoke(attempt):
            attempt.ended_ns = time.time_ns()
            _speak_for(attempt, operation)


def _speak_for(attempt: Attempt, operation: Callable[[], Any]) -> None:
    attempt.llm, attempt.arguments = _asked(operation)
    if attempt.llm is None:
        return
    # What wraps another LLM has its record in the one inside.
    _mark_seen(attempt.outer)
    for sink in _sinks():
        with shielded("recording a model call without events"):
            sink.silent_call(attempt)


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


def _asked(operation: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The LLM and the arguments that the retry loop's closure calls."""
    llm, arguments = None, {}
    try:
        names = operation.__code__.co_freevars
        cells = (cell.cell_contents for cell in operation.__closure__ or ())
        inside = dict(zip(names, cells, strict=True))
        llm = inside.get("instance")
        arguments = dict(zip(_CALL_ARGUMENTS, inside.get("args") or (), strict=False))
        arguments.update(inside.get("kwargs") or {})
    except Exception as error:
        note_failure("reading a CrewAI model call", error)
    return llm, arguments


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
