"""Several recorders in one process: they make one span of a call per destination, not one each."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeAlias

from opentelemetry.context import Context

from ..calls import Outcome
from ..telemetry.recorder import OpenCall

__all__ = [
    "Ending", "Made", "answered", "decided", "failed_for_good", "inside", "join", "learned",
    "leave", "made_by_another", "remember", "retried", "retries_failed", "retrying",
]  # fmt: skip

#: LiteLLM's id of a call, which its retries share, and how this one ended, if it did.
Ending: TypeAlias = tuple[str, Outcome | None]
#: What a recorder made of the last calls. Each keeps its own, so that it can go with it.
Made: TypeAlias = OrderedDict[Ending, OpenCall]

#: All recorders hear of an outcome one after the other, so a few spans are enough.
_LIMIT = 64

#: In the order in which they joined.
_recorders: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def join(recorder: Any) -> None:
    """``recorder`` listens from now on."""
    with _lock:
        _recorders[recorder] = None


def leave(recorder: Any) -> None:
    """It does not any more."""
    with _lock:
        _recorders.pop(recorder, None)
        recorder.made.clear()
        if len(_recorders) == 1:
            for last in _recorders:
                last.made.clear()


def inside(call_id: str, *, asking: bool = False) -> Context | None:
    """The context inside a call under way, of the first recorder that has it; see its `inside`."""
    for recorder in _all():
        context: Context | None = recorder.inside(call_id, asking=asking)
        if context is not None:
            return context
    return None


def answered(call_id: str) -> None:
    """A model of ours answered this call, which LiteLLM reports later."""
    for recorder in _all():
        recorder.answered(call_id)


def retrying(details: Mapping[str, Any]) -> None:
    """LiteLLM makes attempts of this call now: no failure is its end. ``details``: its dict."""
    for recorder in _all():
        recorder.retrying(details)


def retried(details: Mapping[str, Any], answer: Any = None) -> None:
    """One of them succeeded. ``answer``: where LiteLLM may not report it."""
    for recorder in _all():
        recorder.retried(details, answer)


def failed_for_good(details: Mapping[str, Any], error: BaseException | None = None) -> None:
    """None did. The call failed with ``error``, else with the failure that was told."""
    for recorder in _all():
        recorder.failed_for_good(details, error)


def retries_failed(details: Mapping[str, Any]) -> None:
    """None did, and LiteLLM may begin again."""
    for recorder in _all():
        recorder.retries_failed(details)


def decided(details: Mapping[str, Any]) -> None:
    """A failure was told and no attempt follows it, as far as its entry point knows."""
    for recorder in _all():
        recorder.decided(details)


def learned(call_id: str, answer: Any) -> None:
    """What a call was answered, before the program has it."""
    for recorder in _all():
        recorder.learned(call_id, answer)


def _all() -> list[Any]:
    with _lock:
        return list(_recorders)


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
                call: OpenCall | None = other.made.get(ending) or other.opened(ending[0])
                if call is not None:
                    return call
    return None
