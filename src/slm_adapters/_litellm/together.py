"""Several recorders in one process: they make one span of a call per destination, not one each."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ..telemetry.recorder import OpenCall

__all__ = ["join", "leave", "made_by_another", "remember"]

#: All recorders hear of an outcome one after the other, so a few spans are enough.
_LIMIT = 64

_recorders: weakref.WeakSet[Any] = weakref.WeakSet()
_made: OrderedDict[tuple[str, int], tuple[object, OpenCall]] = OrderedDict()
_lock = threading.Lock()


def join(recorder: Any) -> None:
    """``recorder`` listens from now on."""
    _recorders.add(recorder)


def leave(recorder: Any) -> None:
    """It does not any more."""
    _recorders.discard(recorder)
    if len(_recorders) < 2:
        with _lock:
            _made.clear()


def remember(recorder: Any, details: Mapping[str, Any], call: OpenCall) -> None:
    """Keep what ``recorder`` made of the call with these details, if others listen too."""
    if len(_recorders) < 2:
        return
    with _lock:
        _made.setdefault(_key(recorder, details), (recorder, call))
        while len(_made) > _LIMIT:
            _made.popitem(last=False)


def made_by_another(recorder: Any, details: Mapping[str, Any]) -> OpenCall | None:
    """What another recorder with the same destination made of this call."""
    if not _made:
        return None
    with _lock:
        owner, call = _made.get(_key(recorder, details), (recorder, None))
    return call if owner is not recorder else None


def _key(recorder: Any, details: Mapping[str, Any]) -> tuple[str, int]:
    return str(details.get("litellm_call_id")), id(recorder.recorder.tracer_provider)
