"""When a local answer gives way to the fallback LLM, and how often it did."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from ..errors import (
    CancelledGenerationError,
    ContextOverflowError,
    GenerationError,
    ModelError,
    UnsupportedContentError,
)

__all__ = ["FALLBACK_ON", "Fallbacks", "reason_of", "should_fall_back"]

#: Errors after which the fallback answers instead; see ``should_fall_back`` for the exception.
FALLBACK_ON: tuple[type[Exception], ...] = (
    ContextOverflowError,
    UnsupportedContentError,
    GenerationError,
    ModelError,
)


def should_fall_back(error: BaseException) -> bool:
    """Whether the fallback is asked after ``error``; never after the caller's own cancellation."""
    return isinstance(error, FALLBACK_ON) and not isinstance(error, CancelledGenerationError)


def reason_of(error: BaseException) -> str:
    """The short word for spans and tables: ``overflow``, ``deadline``, ``invalid_reply``, ..."""
    return str(getattr(error, "reason", None) or "error")


@dataclass
class Fallbacks:
    """How often one model object gave way to its fallback, by reason. Thread-safe."""

    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, error: BaseException) -> str:
        """Count ``error`` and return its reason."""
        reason = reason_of(error)
        with self._lock:
            self._counts[reason] += 1
        return reason

    @property
    def count(self) -> int:
        """All fallbacks so far."""
        with self._lock:
            return self._counts.total()

    @property
    def reasons(self) -> dict[str, int]:
        """Fallbacks so far by reason: ``{"overflow": 2}``."""
        with self._lock:
            return dict(self._counts)
