"""The queue between callers and a model's worker thread, and the life of that thread.

The thread starts with the first request and ends when nothing came for a while; the next request
starts another. While it waits it refers to this mailbox alone, so a model nobody uses goes.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import EngineBusyError, GenerationError

__all__ = ["Mailbox"]

#: Requests that may wait for one model.
MAX_WAITING = 1024
#: How long an idle thread stays.
_IDLE_S = 30.0
#: How long the end of the process waits for a running step.
_LAST_STEP_S = 10.0

_mailboxes: weakref.WeakSet[Mailbox] = weakref.WeakSet()


class Mailbox:
    """``work()`` runs in the thread whenever something was put; it calls ``take``."""

    def __init__(
        self,
        work: weakref.WeakMethod[Callable[[], None]],
        idle_s: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._work, self._on_idle = work, on_idle
        self._idle_s = _IDLE_S if idle_s is None else idle_s
        # A condition's lock is reentrant: ``close`` may be a finalizer, which runs anywhere.
        self._changed = threading.Condition()
        self._arrived: deque[Any] = deque()
        self._thread: threading.Thread | None = None
        self.closed = False
        _mailboxes.add(self)

    def __len__(self) -> int:
        return len(self._arrived)

    @property
    def thread(self) -> threading.Thread | None:
        """The worker's thread while there is one."""
        return self._thread

    def put(self, item: Any, *, behind: int = 0) -> None:
        """Queue ``item``, to which ``behind`` others were taken and still wait."""
        with self._changed:
            waiting = behind + len(self._arrived)
            if waiting >= MAX_WAITING:
                raise EngineBusyError(
                    f"{waiting} calls wait for the local model already: call it from fewer places "
                    "at once, or give the model a fallback=."
                )
            self._arrived.append(item)
            try:
                self._ensure_thread()
            except RuntimeError as error:  # the interpreter is shutting down
                self._arrived.remove(item)
                raise GenerationError(
                    "the local model cannot start to compute while Python ends: "
                    "wait for its replies before the program returns."
                ) from error
            self._changed.notify_all()

    def take(self) -> list[Any]:
        """All that has arrived since."""
        if not self._arrived:
            return []
        with self._changed:
            items = list(self._arrived)
            self._arrived.clear()
        return items

    def revive(self) -> None:
        """Start the thread again if it died with something to do."""
        with self._changed:
            if self._arrived:
                self._ensure_thread()

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._serve, name="slm-adapters-model", daemon=True)
            thread.start()
            self._thread = thread

    def _serve(self) -> None:
        try:
            while self._wait():
                work = self._work()
                if work is None:
                    return
                work()
                # Nothing here may keep the model alive while it waits.
                del work
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _wait(self) -> bool:
        """True when there is something to do; False when the thread is to end."""
        until = time.monotonic() + self._idle_s
        with self._changed:
            while not self._arrived:
                left = until - time.monotonic()
                if self.closed or left <= 0:
                    self._thread = None
                    break
                self._changed.wait(left)
            else:
                return True
        if not self.closed and self._on_idle is not None:
            self._on_idle()
        return False


@atexit.register
def _end_all() -> None:
    """A thread that computes while the interpreter is taken down would crash it."""
    threads = [(box, box.thread) for box in list(_mailboxes)]
    for box, _ in threads:
        box.close()
    for _, thread in threads:
        if thread is not None:
            thread.join(_LAST_STEP_S)
