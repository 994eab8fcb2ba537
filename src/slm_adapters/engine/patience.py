"""How long a caller waits for its reply."""

from __future__ import annotations

import threading
import time

from ..errors import CancelledGenerationError, DeadlineExceededError

__all__ = ["Patience"]

#: Longest sleep between two looks at a cancel event, or at whether the worker lives, in seconds.
_GLANCE_S, _LOOK_S = 0.05, 1.0


class Patience:
    """Until ``cancel`` is set, ``give_up`` is called or ``timeout`` seconds have passed."""

    __slots__ = ("_given_up", "cancel", "deadline", "timeout")

    def __init__(self, timeout: float | None = None, cancel: threading.Event | None = None) -> None:
        self.timeout, self.cancel = timeout, cancel
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self._given_up = False

    def give_up(self) -> None:
        """The caller is gone; whoever computes for it finds out at the next ``check``."""
        self._given_up = True

    def check(self) -> None:
        """Raise ``CancelledGenerationError`` or ``DeadlineExceededError`` when it is over."""
        if self._given_up or (self.cancel is not None and self.cancel.is_set()):
            raise CancelledGenerationError(
                "the caller gave this reply up: send the request again if it is still wanted."
            )
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineExceededError(
                f"the local model did not finish within {self.timeout:g} s: raise timeout=, "
                "lower max_tokens, or give the model a fallback=."
            )

    def nap(self) -> float:
        """Seconds the caller may sleep before it has to look again."""
        longest = _LOOK_S if self.cancel is None else _GLANCE_S
        if self.deadline is None:
            return longest
        return min(longest, max(self.deadline - time.monotonic(), 0.0))
