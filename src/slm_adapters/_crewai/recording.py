"""``CallRecorder``: one line that turns CrewAI's runs into spans and records."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from opentelemetry.trace import TracerProvider

from ..recording import CallRecorderBase
from ..store.opening import StoreLike, open_store
from ..telemetry.content import Redact
from ..telemetry.harmless import warn_once
from ..telemetry.recorder import CallHook, Recorder
from . import bus
from .events import EventRecorder

__all__ = ["CallRecorder", "instrument", "traced", "uninstrument"]

LLM = TypeVar("LLM")
_MARK = "_slm_adapters_traced"


class CallRecorder(CallRecorderBase):
    """Records every crew, task, agent, tool and model call from here on.

    Constructing it is all there is to do; ``close()`` or a ``with`` block ends it. ``store``: a
    ``CallStore``, its path or its URL; one that cannot be opened costs a warning. ``hooks`` get
    every ended ``Call``. The same object may also stand in ``before_kickoff_callbacks`` (CrewAI
    then says that the crew cannot be checkpointed).

        CallRecorder(store="calls.db")
    """

    def _begin(self) -> None:
        self.store = self.recorder.store
        self._events = EventRecorder(self.recorder)
        bus.add(self._events)

    def __call__(self, inputs: Any) -> Any:
        """Return ``inputs`` unchanged: the form ``before_kickoff_callbacks`` takes."""
        return inputs

    def close(self) -> None:
        """Stop recording; open spans end, CrewAI's event bus is as before."""
        bus.remove(self._events)
        self._events.close()

    # Crews copy their callbacks; a recorder is one thing.
    def __copy__(self) -> CallRecorder:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CallRecorder:
        return self


_instrumented: CallRecorder | None = None
_lock = threading.Lock()


def instrument(**options: Any) -> CallRecorder:
    """Record every run from here on: ``CallRecorder(**options)`` kept by this module.

    A second call returns the recorder that is running. Beside a ``CallRecorder`` that exports
    to the same place there is still one span per call. Raises ``TypeError`` for an option that
    ``CallRecorder`` does not take.

        instrument(store="calls.db")
    """
    global _instrumented
    with _lock:
        if _instrumented is None:
            _instrumented = CallRecorder(**options)
        elif options:
            warn_once(
                "instrument() called twice",
                "slm-adapters: CrewAI is instrumented already, so these options change nothing: "
                "call uninstrument() first.",
            )
        return _instrumented


def uninstrument() -> None:
    """Undo ``instrument()``; open spans end and CrewAI is as before. Without it, nothing."""
    global _instrumented
    with _lock:
        recorder, _instrumented = _instrumented, None
    if recorder is not None:
        recorder.close()


def traced(
    llm: LLM,
    *,
    store: StoreLike | None = None,
    tracer_provider: TracerProvider | None = None,
    hooks: Sequence[CallHook] = (),
    redact: Redact | None = None,
    app: str | None = None,
) -> LLM:
    """Record only this LLM's calls, and its copies'; returns the same object.

    Beside a ``CallRecorder`` there is still one span per call; the hooks and the store given
    here get their records either way. Raises ``TypeError`` for anything but a CrewAI LLM.

        Agent(role="Researcher", ..., llm=traced(LLM("gpt-4.1-mini")))
    """
    from crewai.llms.base_llm import BaseLLM

    if not isinstance(llm, BaseLLM):
        raise TypeError(
            f"traced() takes a CrewAI LLM, not {type(llm).__name__}: pass LLM(...) or SLM(...)."
        )
    previous = vars(llm).get(_MARK)
    if isinstance(previous, _Mark):
        bus.remove(previous.events)
    token = object()
    events = EventRecorder(
        Recorder(
            tracer_provider=tracer_provider,
            store=open_store(store),
            hooks=hooks,
            redact=redact,
            app=app,
        ),
        only=lambda source: getattr(vars(source).get(_MARK), "token", None) is token,
    )
    mark = _Mark(token, events)
    object.__setattr__(llm, _MARK, mark)
    bus.add(events)
    # When the LLM and its copies are gone, nobody is left to listen to.
    weakref.finalize(mark, bus.remove, events).atexit = False
    return llm


class _Mark:
    """Sits on a traced LLM; copies of the LLM share it."""

    def __init__(self, token: object, events: EventRecorder) -> None:
        self.token, self.events = token, events

    def __copy__(self) -> _Mark:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mark:
        return self
