"""Noticing that a call's owner is gone, when its framework tells nobody."""

from __future__ import annotations

import asyncio
import atexit
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable

__all__ = ["Lifetimes", "Watched"]


class Watched(weakref.ref[object]):
    """A weak reference that remembers what it stands for."""

    __slots__ = ("key",)

    key: Hashable


class Lifetimes:
    """Calls ``on_lost(key, when_ns)`` some time after a watched object died, with the true time.

    Keep what ``watch`` returns: forgetting it ends the watch.
    """

    def __init__(self, on_lost: Callable[[Hashable, int], None]) -> None:
        #: What was noticed and not reported yet.
        self.lost: deque[tuple[Hashable, int]] = deque()
        self._on_lost = on_lost
        #: What a ``Watched`` calls when its object died.
        self.noticed = self._vanished
        _all.add(self)

    def watch(self, owner: object, key: Hashable) -> object | None:
        """Watch ``owner``; ``None`` if its kind cannot be watched."""
        try:
            watched = Watched(owner, self.noticed)
        except TypeError:
            return None
        watched.key = key
        return watched

    def settle(self) -> None:
        """Report the losses noticed so far; on an event loop this happens by itself."""
        while self.lost:
            try:
                key, when_ns = self.lost.popleft()
            except IndexError:
                return  # another thread was faster
            self._on_lost(key, when_ns)

    def _vanished(self, watched: weakref.ref[object]) -> None:
        # May run inside the garbage collector, under anybody's lock: note it, do nothing else.
        assert isinstance(watched, Watched)
        self.lost.append((watched.key, time.time_ns()))
        try:
            asyncio.get_running_loop().call_soon(self.settle)
        except RuntimeError:
            return


_all: weakref.WeakSet[Lifetimes] = weakref.WeakSet()


def _settle_all() -> None:
    for lifetimes in list(_all):
        lifetimes.settle()


atexit.register(_settle_all)
