"""``CallRecorder``: one line that turns CrewAI's runs into spans and records."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from opentelemetry._logs import LoggerProvider, NoOpLoggerProvider
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from ..store.opening import StoreLike, open_store
from ..telemetry.content import Redact
from ..telemetry.harmless import warn_once
from ..telemetry.recorder import CallHook, CompletionHook, Recorder
from ..telemetry.spending import Prices
from . import bus
from .events import EventRecorder

__all__ = ["CallRecorder", "instrument", "traced", "uninstrument"]

LLM = TypeVar("LLM")
_MARK = "_slm_adapters_traced"


class CallRecorder:
    """Records every crew, task, agent, tool and model call from here on.

    Constructing it is all there is to do; ``close()`` or a ``with`` block ends it. ``store``: a
    ``CallStore``, its path or its URL; one that cannot be opened costs a warning. ``hooks`` get
    every ended ``Call``. The same object may also stand in ``before_kickoff_callbacks`` (CrewAI
    then says that the crew cannot be checkpointed).

        CallRecorder(store="calls.db")
    """

    def __init__(
        self,
        *,
        store: StoreLike | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        hooks: Sequence[CallHook | CompletionHook] = (),
        redact: Redact | None = None,
        app: str | None = None,
        prices: Prices | None = None,
        energy: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "store": open_store(store), "redact": redact, "app": app,
            "prices": prices, "energy": energy,
        }  # fmt: skip
        self.recorder = Recorder(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            hooks=hooks,
            **options,
        )
        self.store = self.recorder.store
        shadow = _shadow(options)
        shadow.hooks = self.recorder.hooks
        self._events = EventRecorder(self.recorder, shadow=shadow, destination=tracer_provider)
        bus.add(self._events)

    def __call__(self, inputs: Any) -> Any:
        """Return ``inputs`` unchanged: the form ``before_kickoff_callbacks`` takes."""
        return inputs

    def close(self) -> None:
        """Stop recording; open spans end, CrewAI's event bus is as before."""
        bus.remove(self._events)
        self._events.close()

    def __enter__(self) -> CallRecorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

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
    token, sink = object(), open_store(store)
    options: dict[str, Any] = {"store": sink, "hooks": hooks, "redact": redact, "app": app}
    events = EventRecorder(
        Recorder(tracer_provider=tracer_provider, **options),
        only=lambda source: getattr(vars(source).get(_MARK), "token", None) is token,
        shadow=_shadow(options),
        destination=tracer_provider,
    )
    mark = _Mark(token, events)
    object.__setattr__(llm, _MARK, mark)
    bus.add(events)
    # When the LLM and its copies are gone, nobody is left to listen to.
    weakref.finalize(mark, bus.remove, events).atexit = False
    return llm


def _shadow(options: dict[str, Any]) -> Recorder:
    """A recorder for the hooks alone: no span, no metric, no event."""
    return Recorder(
        tracer_provider=NoOpTracerProvider(),
        meter_provider=NoOpMeterProvider(),
        logger_provider=NoOpLoggerProvider(),
        **options,
    )


class _Mark:
    """Sits on a traced LLM; copies of the LLM share it."""

    def __init__(self, token: object, events: EventRecorder) -> None:
        self.token, self.events = token, events

    def __copy__(self) -> _Mark:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mark:
        return self
