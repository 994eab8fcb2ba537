"""Several recorders in one process: they make one span of a call per destination, not one each."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any, TypeAlias

from ..calls import Outcome
from ..telemetry.recorder import OpenCall

__all__ = ["Ending", "Made", "join", "leave", "made_by_another", "remember"]

#: LiteLLM's id of a call, which its retries share, and how this one ended.
Ending: TypeAlias = tuple[str, Outcome]
#: What a recorder made of the last calls. Each keeps its own, so that it can go with it.
Made: TypeAlias = OrderedDict[Ending, OpenCall]

#: All recorders hear of an outcome one after the other, so a few spans are enough.
_LIMIT = 64

_recorders: weakref.WeakSet[Any] = weakref.WeakSet()
_lock = threading.Lock()


def join(recorder: Any) -> None:
    """``recorder`` listens from now on."""
    with _lock:
        _recorders.add(recorder)


def leave(recorder: Any) -> None:
    """It does not any more."""
    with _lock:
        _recorders.discard(recorder)
        recorder.made.clear()
        if len(_recorders) == 1:
            for last in _recorders:
                last.made.clear()


def remember(recorder: Any, ending: Ending, call: OpenCall) -> None:
    """Keep the span that ``recorder`` made of this call, if others listen too."""
    if call.quiet or len(_recorders) < 2:
        return
    with _lock:
        recorder.made[ending] = call
        while len(recorder.made) > _LIMIT:
            recorder.made.popitem(last=False)


def made_by_another(recorder: Any, ending: Ending) -> OpenCall | None:
    """What another recorder with the same destination made of this call."""
    if len(_recorders) < 2:
        return None
    provider = recorder.recorder.tracer_provider
    with _lock:
        for other in _recorders:
            if other is not recorder and other.recorder.tracer_provider is provider:
                call: OpenCall | None = other.made.get(ending)
                if call is not None:
                    return call
    return None
