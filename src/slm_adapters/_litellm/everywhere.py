"""``instrument()``: LiteLLM's recorder under the name every framework here has for it."""

from __future__ import annotations

import threading
from typing import Any

from ..telemetry.harmless import warn_once
from .recording import CallRecorder

__all__ = ["instrument", "uninstrument"]

_lock = threading.Lock()
_recorder: CallRecorder | None = None


def instrument(**options: Any) -> CallRecorder:
    """Record every LiteLLM call from here on; ``options`` are ``CallRecorder``'s.

    A second call returns the recorder of the first; ``uninstrument()`` ends it::

        instrument(store="calls.db")
    """
    global _recorder
    with _lock:
        if _recorder is None or _recorder.closed:
            _recorder = CallRecorder(**options)
        elif options:
            warn_once(
                "instrument",
                "slm_adapters.litellm.instrument() is already active, so its new options are "
                "not used: call uninstrument() first.",
            )
        return _recorder


def uninstrument() -> None:
    """End what ``instrument()`` began: LiteLLM's lists are as before.

    Where LiteLLM has calls to report that were answered already, they are once it has.
    """
    global _recorder
    with _lock:
        recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.close()
