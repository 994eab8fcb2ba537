"""What happens inside a model call, a tool or a retriever nests under its span.

Callbacks cannot do that: asynchronous ends run on copied contexts, and a stream's consumer runs
between its chunks. So LangChain's own methods are wrapped, as long as a recorder lives: the span
is current for the duration of each step and never between steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Generator, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

from opentelemetry.context import Context

from ..telemetry import semconv
from ..telemetry.current import get_context, set_context
from ..telemetry.harmless import warn_once
from ..telemetry.recorder import OpenSpan
from .imports import forget, when_imported

__all__ = ["Guard", "Listener", "contexts", "entered", "keep_while"]


class Listener(Protocol):
    """What is asked of a handler among LangChain's."""

    def given_up(self, run_id: Any, error: BaseException) -> None: ...


class GuardedRun(Protocol):
    """The run of a guarded step or stream."""

    def let_go(self, when_ns: int, error: BaseException | None = None) -> None: ...


class Guard:
    """A step under way; the handler that hears of its run first says which context it is in."""

    __slots__ = ("dropped_ns", "inside", "operations", "runs")

    def __init__(self, operations: Container[str]) -> None:
        self.operations = operations
        self.inside: Context | None = None
        #: The runs of this step, one per recorder.
        self.runs: tuple[Callable[[], GuardedRun | None], ...] = ()
        #: When the consumer of this asynchronous stream let go of it.
        self.dropped_ns = 0

    def let_go(self, when_ns: int, error: BaseException | None = None) -> None:
        """End the runs that are still open."""
        for reference in self.runs:
            run = reference()
            if run is not None:
                run.let_go(when_ns, error)


_MODELS = frozenset((semconv.CHAT, semconv.TEXT_COMPLETION))

#: The open runs' contexts, by run id: of several recorders, the first one's.
contexts: dict[int, Context] = {}

_guard: ContextVar[Guard | None] = ContextVar("slm_adapters_guard", default=None)


#: The guarded step around the running code, or ``None``.
guard_here = _guard.get


def entered(span: OpenSpan) -> Guard | None:
    """A run started: inside a guarded step, its span is current from here on.

    Returns the guard if this run is the guarded one.
    """
    guard = _guard.get()
    # Of another kind: a model inside a tool that nobody records.
    if guard is None or span.operation not in guard.operations:
        return None
    if guard.inside is None:
        guard.inside = span.context
        set_context(span.context)
    return guard if guard.inside is span.context else None


def _listeners(run_manager: Any) -> list[Listener]:
    return [handler for handler in run_manager.handlers if hasattr(handler, "given_up")]


def _inside(run_manager: Any) -> Context | None:
    return contexts.get(run_manager.run_id.int) if run_manager is not None else None


# One step: the run is known, or it becomes known while the step runs


def _known(original: Any, manager_of: Callable[..., Any] | None = None) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        manager: Any = manager_of(args, kwargs) if manager_of else kwargs.get("run_manager")
        # Not _inside(): every call of a model comes by here.
        inside = contexts.get(manager.run_id.int) if manager is not None else None
        if inside is None:
            return original(self, *args, **kwargs)
        outer = get_context()
        set_context(inside)
        try:
            return original(self, *args, **kwargs)
        finally:
            set_context(outer)

    return wrapped


def _aknown(original: Any, manager_of: Callable[..., Any] | None = None) -> Any:
    @functools.wraps(original)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        manager: Any = manager_of(args, kwargs) if manager_of else kwargs.get("run_manager")
        inside = contexts.get(manager.run_id.int) if manager is not None else None
        if inside is None:
            return await original(self, *args, **kwargs)
        outer = get_context()
        set_context(inside)
        try:
            return await original(self, *args, **kwargs)
        except asyncio.CancelledError as error:
            # LangChain tells no callback of it.
            for listener in _listeners(manager):
                listener.given_up(manager.run_id, error)
            raise
        finally:
            set_context(outer)

    return wrapped


def _guarded(original: Any, *operations: str) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer, before = get_context(), _guard.get()
        guard = Guard(operations)
        _guard.set(guard)
        try:
            return original(self, *args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception):
                guard.let_go(time.time_ns(), error)  # LangChain tells no callback of it
            raise
        finally:
            _guard.set(before)
            set_context(outer)

    return wrapped


def _aguarded(original: Any, *operations: str) -> Any:
    @functools.wraps(original)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer, before = get_context(), _guard.get()
        guard = Guard(operations)
        _guard.set(guard)
        try:
            return await original(self, *args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception):
                guard.let_go(time.time_ns(), error)  # LangChain tells no callback of it
            raise
        finally:
            _guard.set(before)
            set_context(outer)

    return wrapped


# Streams: every step of the producer inside, every step of the consumer outside


def _stream(original: Any) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return _steps(original(self, *args, **kwargs), None)

    return wrapped


def _astream(original: Any) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return _AsyncSteps(original(self, *args, **kwargs), None)

    return wrapped


def _events(original: Any) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = original(self, *args, **kwargs)
        inside = _inside(kwargs.get("run_manager"))
        return steps if inside is None else _steps(steps, inside)

    return wrapped


def _aevents(original: Any) -> Any:
    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        steps = original(self, *args, **kwargs)
        inside = _inside(kwargs.get("run_manager"))
        return steps if inside is None else _AsyncSteps(steps, inside)

    return wrapped


def _steps(inner: Generator[Any, None, Any], inside: Context | None) -> Iterator[Any]:
    guard, outer, before = Guard(_MODELS), get_context(), _guard.get()
    _guard.set(guard)
    set_context(inside or outer)
    try:
        item = next(inner, inner)
    finally:
        _guard.set(before)
        set_context(outer)
    inside = inside or guard.inside
    while item is not inner:
        try:
            yield item
        except GeneratorExit:
            inner.close()
            raise
        except BaseException as error:
            item = inner.throw(error)
            continue
        if inside is None:
            item = next(inner, inner)
            continue
        outer = get_context()
        set_context(inside)
        try:
            item = next(inner, inner)
        finally:
            set_context(outer)


class _AsyncSteps:
    """An asynchronous stream with its steps inside the call's span.

    No async generator: event loops close those by themselves, the outer and the inner one at the
    same time, and complain. Dropping this drops the stream within, as if nobody were there.
    """

    __slots__ = ("_guard", "_inner", "_inside", "_loop")

    def __init__(self, inner: AsyncGenerator[Any, Any], inside: Context | None) -> None:
        self._inner, self._inside = inner, inside
        self._guard: Guard | None = Guard(_MODELS)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __aiter__(self) -> _AsyncSteps:
        return self

    async def __anext__(self) -> Any:
        if self._inside is None:
            return await self._first()
        outer = get_context()
        set_context(self._inside)
        try:
            return await anext(self._inner)
        except BaseException:
            self._guard = None
            raise
        finally:
            set_context(outer)

    async def _first(self) -> Any:
        guard, outer, before = self._guard, get_context(), _guard.get()
        self._loop = asyncio.get_running_loop()
        _guard.set(guard)
        try:
            return await anext(self._inner)
        except BaseException:
            self._guard = None
            raise
        finally:
            _guard.set(before)
            set_context(outer)
            self._inside = (guard and guard.inside) or outer

    async def asend(self, value: Any) -> Any:
        return await (anext(self) if value is None else self._inner.asend(value))

    async def athrow(self, *error: Any) -> Any:
        return await self._inner.athrow(*error)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __del__(self) -> None:
        guard, loop = self._guard, self._loop
        if guard is None or loop is None or not guard.runs:
            return
        # May run inside the garbage collector: note it, and let the loop do the rest.
        guard.dropped_ns = time.time_ns()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_let_go, guard, loop, _TICKS)


#: What LangChain needs to report the end of a stream that was dropped, with what came so far. A
#: loop that ends may cut it off.
_TICKS = 4


def _let_go(guard: Guard, loop: asyncio.AbstractEventLoop, ticks: int) -> None:
    if ticks:
        loop.call_soon(_let_go, guard, loop, ticks - 1)
        return
    guard.let_go(guard.dropped_ns)


# Wrapping and unwrapping


def _first_of_many(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    managers = args[2] if len(args) > 2 else kwargs.get("run_managers")
    return managers[0] if managers else None


#: Module -> class -> method -> what wraps it.
_PLACES: dict[str, dict[str, dict[str, Callable[[Any], Any]]]] = {
    "langchain_core.language_models.chat_models": {
        "BaseChatModel": {
            "_generate_with_cache": _known,
            "_agenerate_with_cache": _aknown,
            "stream": _stream,
            "astream": _astream,
            "_iter_v2_events": _events,
            "_aiter_v2_events": _aevents,
        }
    },
    "langchain_core.language_models.llms": {
        "BaseLLM": {
            "_generate_helper": lambda f: _known(f, _first_of_many),
            "_agenerate_helper": lambda f: _aknown(f, _first_of_many),
            "stream": _stream,
            "astream": _astream,
        }
    },
    "langchain_core.tools.base": {
        "BaseTool": {
            "run": lambda f: _guarded(f, semconv.EXECUTE_TOOL),
            "arun": lambda f: _aguarded(f, semconv.EXECUTE_TOOL),
        }
    },
    "langchain_core.retrievers": {
        "BaseRetriever": {
            "invoke": lambda f: _guarded(f, semconv.RETRIEVAL),
            "ainvoke": lambda f: _aguarded(f, semconv.RETRIEVAL),
        }
    },
}

_lock = threading.RLock()
_users = 0
_put: list[tuple[type[Any], str, Any, Any]] = []


def keep_while(user: object) -> None:
    """Wrap LangChain's methods as long as ``user`` lives."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()
    weakref.finalize(user, _release).atexit = False


def _release() -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            _uninstall()


def _install() -> None:
    for module in _PLACES:
        when_imported(module, _wrap)


def _wrap(module: ModuleType) -> None:
    with _lock:
        if not _users:
            return
        for owner, places in _PLACES[module.__name__].items():
            for name, wrap in places.items():
                _wrap_one(getattr(module, owner, None), owner, name, wrap)


def _wrap_one(owner: Any, called: str, name: str, wrap: Callable[[Any], Any]) -> None:
    original = vars(owner).get(name) if owner is not None else None
    if original is None:
        warn_once(
            f"LangChain's {called}.{name}",
            f"slm-adapters does not know this version of LangChain: {called}.{name} "
            "is not there, so spans of HTTP clients may not nest under their model call.",
        )
    elif not _is_ours(original):
        wrapped = wrap(original)
        wrapped._slm_adapters = True
        setattr(owner, name, wrapped)
        _put.append((owner, name, original, wrapped))


def _uninstall() -> None:
    forget()
    for owner, name, original, wrapped in _put:
        # Somebody else's wrapper over ours stays; ours below passes through.
        if vars(owner).get(name) is wrapped:
            setattr(owner, name, original)
    _put.clear()


def _is_ours(method: Any) -> bool:
    while method is not None:
        if getattr(method, "__dict__", {}).get("_slm_adapters"):
            return True
        method = getattr(method, "__wrapped__", None)
    return False
