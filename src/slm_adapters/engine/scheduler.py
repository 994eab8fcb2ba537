"""Who may use a model now: fair turns, deadlines, cancellation."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from ..errors import CancelledGenerationError, DeadlineExceededError

__all__ = ["FairLock", "Patience"]

#: How often a waiting caller looks at its cancel event, in seconds.
_GLANCE_S = 0.02


class Patience:
    """How long a caller waits: until ``cancel`` is set or ``timeout`` seconds have passed."""

    __slots__ = ("cancel", "deadline", "endless", "timeout")

    def __init__(self, timeout: float | None = None, cancel: threading.Event | None = None) -> None:
        self.timeout, self.cancel = timeout, cancel
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.endless = timeout is None and cancel is None

    def check(self) -> None:
        """Raise ``CancelledGenerationError`` or ``DeadlineExceededError`` when it is over."""
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledGenerationError(
                "the caller gave this reply up: send the request again if it is still wanted."
            )
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceededError(
                f"the local model did not finish within {self.timeout:g} s: raise timeout=, "
                "lower max_tokens, or give the model a fallback=."
            )


class FairLock:
    """A lock served in order of arrival; waiting ends early when the caller's patience does."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    def acquire(self, patience: Patience | None = None) -> None:
        """Wait for the turn; raises what ``patience`` raises, and then holds nothing."""
        with self._mutex:
            if not self._held and not self._waiting:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            self._wait(turn, patience)
        except BaseException:
            with self._mutex:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    raise
            # The lock arrived while this caller was giving up: pass it on.
            self.release()
            raise

    @staticmethod
    def _wait(turn: threading.Event, patience: Patience | None) -> None:
        if patience is None or patience.endless:
            turn.wait()
            return
        while not turn.wait(_GLANCE_S):
            patience.check()

    def release(self) -> None:
        """Hand the lock to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
