"""``store=`` as users write it: a path, a URL, a ``CallStore``, or any object with ``write``."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import StoreError
from ..telemetry.harmless import warn_once

if TYPE_CHECKING:
    from ..calls import Call
    from .database import CallStore

__all__ = ["StoreLike", "open_store"]


class _Sink(Protocol):
    def write(self, call: Call) -> None: ...


StoreLike = str | Path | _Sink

_open: weakref.WeakValueDictionary[str, CallStore] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def open_store(store: StoreLike | None) -> _Sink | None:
    """The store to write to; one object per location, however many recorders name it.

    A location that cannot be opened costs one warning and gives ``None``: the agent goes on.
    """
    if not isinstance(store, str | Path):
        return store
    # SQLAlchemy takes longer to import than everything else a recorder needs.
    from .database import CallStore

    location = str(store)
    with _lock:
        found = _open.get(location)
        if found is None:
            try:
                found = _open[location] = CallStore(location)
            except StoreError as error:
                warn_once(f"store {location}", f"calls are not being stored: {error}")
        return found
