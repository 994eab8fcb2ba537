"""A model that keeps failing rests for a while; then one call finds out whether it is back."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import (
    CancelledGenerationError,
    GenerationError,
    ModelError,
    NotAskedError,
    RejectedReplyError,
)

__all__ = ["Breaker", "Circuit", "is_a_failure"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """After ``failures`` in a row within ``within`` seconds, no calls for ``pause`` seconds."""

    failures: int = 5
    within: float = 60.0
    pause: float = 30.0

    def __post_init__(self) -> None:
        if self.failures < 1 or self.within <= 0 or self.pause < 0:
            raise ValueError(
                f"{self} can never work: pass failures >= 1, within > 0 and pause >= 0."
            )


def is_a_failure(error: BaseException) -> bool:
    """Whether ``error`` says that the model does not work, not that one request or answer was odd.

    An oversized prompt, a check's verdict or the caller's own cancellation says nothing of it.
    """
    if isinstance(error, CancelledGenerationError | RejectedReplyError | NotAskedError):
        return False
    return isinstance(error, GenerationError | ModelError)


class Circuit:
    """One model's state: closed (calls pass), open (none pass), half open (one call probes)."""

    def __init__(self, settings: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._failures: deque[float] = deque(maxlen=settings.failures)
        self._opened: float | None = None
        self._probe: float | None = None
        self._lock = threading.Lock()

    def admits(self) -> bool:
        """Whether the model may be asked now; the call that may probe is told so once."""
        with self._lock:
            if self._opened is None:
                return True
            now, pause = self._clock(), self._settings.pause
            if now - self._opened < pause:
                return False
            # A probe that never reported back does not keep the model away for ever.
            if self._probe is not None and now - self._probe < max(pause, 1.0):
                return False
            self._probe = now
            return True

    def succeeded(self) -> None:
        """The model gave a usable answer."""
        with self._lock:
            self._failures.clear()
            self._opened = self._probe = None

    def failed(self) -> None:
        """It did not."""
        with self._lock:
            now = self._clock()
            self._failures.append(now)
            full = len(self._failures) == self._settings.failures
            if self._probe is not None:
                self._opened, self._probe = now, None
            elif full and now - self._failures[0] <= self._settings.within:
                self._opened = now if self._opened is None else self._opened

    def undecided(self) -> None:
        """The call ended without a verdict: another one may probe."""
        with self._lock:
            self._probe = None
