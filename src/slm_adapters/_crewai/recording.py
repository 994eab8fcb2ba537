"""``CallRecorder``: one line that turns CrewAI's runs into spans and records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from ..errors import StoreError
from ..telemetry.content import Redact
from ..telemetry.harmless import warn_once
from ..telemetry.recorder import CallHook, CallSink, Recorder
from . import bus
from .events import EventRecorder

__all__ = ["CallRecorder", "traced"]

LLM = TypeVar("LLM")
_MARK = "_slm_adapters_traced"


class CallRecorder:
    """Records every crew, task, agent, tool and model call from here on.

    Constructing it is all there is to do; ``close()`` or a ``with`` block ends it. ``store``: a
    ``CallStore``, its path or its URL; one that cannot be opened costs a warning. ``hooks`` get
    every ended ``Call``. The same object may also stand in ``before_kickoff_callbacks``.

        CallRecorder(store="calls.db")
    """

    def __init__(
        self,
        *,
        store: CallSink | str | Path | None = None,
        tracer_provider: TracerProvider | None = None,
        hooks: Sequence[CallHook] = (),
        redact: Redact | None = None,
        app: str | None = None,
    ) -> None:
        self.recorder = Recorder(
            tracer_provider=tracer_provider,
            store=open_store(store),
            hooks=hooks,
            redact=redact,
            app=app,
        )
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

    def __enter__(self) -> CallRecorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Crews copy their callbacks; a recorder is one thing.
    def __copy__(self) -> CallRecorder:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CallRecorder:
        return self


def traced(
    llm: LLM,
    *,
    store: CallSink | str | Path | None = None,
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
    sink, mark = open_store(store), _Mark()
    options: dict[str, Any] = {"store": sink, "hooks": hooks, "redact": redact, "app": app}
    mark.events = EventRecorder(
        Recorder(tracer_provider=tracer_provider, **options),
        only=lambda source: vars(source).get(_MARK) is mark,
        shadow=Recorder(tracer_provider=NoOpTracerProvider(), **options),
    )
    object.__setattr__(llm, _MARK, mark)
    bus.add(mark.events)
    return llm


class _Mark:
    """Sits on a traced LLM; copies of the LLM share it."""

    events: EventRecorder

    def __copy__(self) -> _Mark:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Mark:
        return self


def open_store(store: CallSink | str | Path | None) -> CallSink | None:
    """A store from what the user passed; one that cannot be opened is left out, with a warning."""
    if store is None or not isinstance(store, str | Path):
        return store
    from ..store.database import CallStore

    try:
        return CallStore(store)
    except StoreError as error:
        warn_once("opening the call store", f"slm-adapters: no calls are kept: {error}")
        return None
