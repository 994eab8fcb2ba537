"""Our own failures: counted, logged once per place, never raised into the user's program."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["failure_counts", "harmless", "note_failure", "warn_once"]

logger = logging.getLogger("slm_adapters")
P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_counts: Counter[str] = Counter()


def failure_counts() -> dict[str, int]:
    """How often each part of the observer failed since the process started."""
    with _lock:
        return dict(_counts)


def note_failure(place: str, error: BaseException) -> None:
    """Count a failure and log the first one of each place."""
    with _lock:
        _counts[place] += 1
        first = _counts[place] == 1
    if first:
        # The class only: an exception's text may quote a prompt.
        logger.warning(
            "slm-adapters: %s failed (%s); the call itself is unharmed. "
            "Later failures here are only counted.",
            place,
            type(error).__name__,
            exc_info=logger.isEnabledFor(logging.DEBUG),
        )


def warn_once(place: str, message: str) -> None:
    """Log ``message`` the first time ``place`` speaks up; count always."""
    with _lock:
        _counts[place] += 1
        first = _counts[place] == 1
    if first:
        logger.warning(message)


def harmless(place: str) -> Callable[[Callable[P, T]], Callable[P, T | None]]:
    """Decorator: an exception inside becomes a counted failure and the result ``None``."""

    def decorate(function: Callable[P, T]) -> Callable[P, T | None]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | None:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                note_failure(place, error)
                return None

        return wrapped

    return decorate


@contextmanager
def shielded(place: str) -> Iterator[None]:
    """Context-manager form of :func:`harmless`."""
    try:
        yield
    except Exception as error:
        note_failure(place, error)
