"""``instrument()``: one recorder for every LangChain run of the process, without a callback."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

from ..telemetry.harmless import warn_once
from .handler import CallRecorder

__all__ = ["instrument", "uninstrument"]

_lock = threading.Lock()
_recorder: CallRecorder | None = None
_variable: ContextVar[Any] | None = None


def instrument(**options: Any) -> CallRecorder:
    """Record every run from here on, in all threads; ``options`` are ``CallRecorder``'s.

    A second call returns the recorder of the first. Beside callbacks there is still one span per
    run. ``uninstrument()`` ends it::

        instrument(store="calls.db")
    """
    # Here, because it brings LangSmith's client along.
    from langchain_core.tracers import context as hooks

    global _recorder, _variable
    with _lock:
        if _recorder is not None:
            if options:
                warn_once(
                    "instrument",
                    "slm_adapters.langchain.instrument() is already active, so its new options "
                    "are not used: call uninstrument() first.",
                )
            return _recorder
        _recorder = CallRecorder(**options)
        # LangChain adds the value of such a variable to every manager it configures; as a
        # default, the value is the same in every thread and task.
        _variable = ContextVar("slm_adapters_recorder", default=_recorder)
        hooks.register_configure_hook(_variable, inheritable=True)
        return _recorder


def uninstrument() -> None:
    """End what ``instrument()`` began: open runs end, LangChain is as it was before."""
    global _recorder, _variable
    with _lock:
        recorder, variable = _recorder, _variable
        _recorder = _variable = None
    if recorder is None:
        return
    from langchain_core.tracers.context import _configure_hooks as registered

    registered[:] = [entry for entry in registered if entry[0] is not variable]
    recorder.close()
