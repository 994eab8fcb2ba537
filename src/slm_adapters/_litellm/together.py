"""Several recorders in one process: they make one span of a call per destination, not one each."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry.context import Context

from ..calls import Outcome
from ..telemetry.recorder import OpenCall

if TYPE_CHECKING:
    from .ledger import Ledger

__all__ = [
    "Ending", "Made", "answered", "decided", "failed_for_good", "inside", "join", "learned",
    "leave", "made_by_another", "remember", "retried", "retries_failed", "retrying",
]  # fmt: skip

#: LiteLLM's id of a call, which its retries share, and how this one ended, if it did.
Ending: TypeAlias = tuple[str, Outcome | None]
#: What a ledger made of the last calls. Each keeps its own, so that it can go with it.
Made: TypeAlias = OrderedDict[Ending, OpenCall]

#: All recorders hear of an outcome one after the other, so a few spans are enough.
_LIMIT = 64

#: In the order in which they joined.
_ledgers: weakref.WeakKeyDictionary[Ledger, None] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def join(ledger: Ledger) -> None:
    """``ledger`` listens from now on."""
    with _lock:
        _ledgers[ledger] = None


def leave(ledger: Ledger) -> None:
    """It does not any more."""
    with _lock:
        _ledgers.pop(ledger, None)
        ledger.made.clear()
        if len(_ledgers) == 1:
            for last in _ledgers:
                last.made.clear()


def inside(call_id: str, *, asking: bool = False) -> Context | None:
    """The context inside a call under way, of the first ledger that has it; see its `inside`."""
    for ledger in _all():
        context: Context | None = ledger.inside(call_id, asking=asking)
        if context is not None:
            return context
    return None


def answered(call_id: str) -> None:
    """A model of ours answered this call, which LiteLLM reports later."""
    for ledger in _all():
        ledger.answered(call_id)


def retrying(details: Mapping[str, Any]) -> None:
    """LiteLLM makes attempts of this call now: no failure is its end. ``details``: its dict."""
    for ledger in _all():
        ledger.retrying(details)


def retried(details: Mapping[str, Any], answer: Any = None) -> None:
    """One of them succeeded. ``answer``: where LiteLLM may not report it."""
    for ledger in _all():
        ledger.retried(details, answer)


def failed_for_good(details: Mapping[str, Any], error: BaseException | None = None) -> None:
    """None did. The call failed with ``error``, else with the failure that was told."""
    for ledger in _all():
        ledger.failed_for_good(details, error)


def retries_failed(details: Mapping[str, Any]) -> None:
    """None did, and LiteLLM may begin again."""
    for ledger in _all():
        ledger.retries_failed(details)


def decided(details: Mapping[str, Any]) -> None:
    """A failure was told and no attempt follows it, as far as its entry point knows."""
    for ledger in _all():
        ledger.decided(details)


def learned(call_id: str, answer: Any) -> None:
    """What a call was answered, before the program has it."""
    for ledger in _all():
        ledger.learned(call_id, answer)


def _all() -> list[Ledger]:
    with _lock:
        return list(_ledgers)


def remember(ledger: Ledger, ending: Ending, call: OpenCall) -> None:
    """Keep the span that ``ledger`` made of this call, if others listen too."""
    if call.quiet or len(_ledgers) < 2:
        return
    with _lock:
        ledger.made[ending] = call
        while len(ledger.made) > _LIMIT:
            ledger.made.popitem(last=False)


def made_by_another(ledger: Ledger, ending: Ending) -> OpenCall | None:
    """What another ledger with the same destination made of this call."""
    if len(_ledgers) < 2:
        return None
    provider = ledger.recorder.tracer_provider
    with _lock:
        for other in _ledgers:
            if other is not ledger and other.recorder.tracer_provider is provider:
                call: OpenCall | None = other.made.get(ending) or other.opened(ending[0])
                if call is not None:
                    return call
    return None
