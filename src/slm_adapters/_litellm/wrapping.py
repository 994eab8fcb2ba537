"""LiteLLM's functions that we are around while a recorder listens, and putting them back."""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ..telemetry.harmless import warn_once

__all__ = ["Places", "Wraps", "put", "take_back", "then", "wrap"]

#: ``module:Class`` or ``module`` below ``litellm`` -> names there.
Places: TypeAlias = Mapping[str, tuple[str, ...]]
#: Wraps its places when it is run, and yields those that are not there.
Wraps: TypeAlias = Callable[[], Iterator[str]]

_lock = threading.RLock()
_users = 0
_put: list[tuple[Any, str, Any, Any]] = []


def put(*parts: Wraps) -> None:
    """Be around the places of all ``parts``; each ``take_back()`` undoes one of these."""
    global _users
    with _lock:
        _users += 1
        if _users > 1:
            return
        missing = [place for part in parts for place in part()]
    if missing:
        warn_once(
            "this litellm version",
            f"slm-adapters: this litellm version is unknown: it has no {', '.join(missing)}. "
            "Calls are recorded; an instrumented client may add a second span to them, HTTP "
            "spans may stand beside them, and a retried call may have a span of its own.",
        )


def take_back() -> None:
    """The last one puts LiteLLM's own functions back."""
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for owner, name, original, wrapped in _put:
            # Somebody else's wrapper over ours stays.
            if vars(owner).get(name) is wrapped:
                setattr(owner, name, original)
        _put.clear()


def wrap(places: Places, around: Callable[[Callable[..., Any]], Any]) -> Iterator[str]:
    """Put ``around`` what is at ``places``; yields those that are not there."""
    for place, names in places.items():
        module, _, kind = place.partition(":")
        try:
            owner = importlib.import_module(f"litellm.{module}".rstrip("."))
            owner = getattr(owner, kind) if kind else owner
        except (ImportError, AttributeError):
            yield place
            continue
        for name in names:
            original = vars(owner).get(name)
            if original is None:
                yield f"{place}.{name}".lstrip(".")
                continue
            wrapped = around(original)
            setattr(owner, name, wrapped)
            _put.append((owner, name, original, wrapped))


def then(told: Callable[[Any], object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Around a function: ``told`` its answer, before the caller has it. ``told`` must not raise."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            answer = function(*args, **kwargs)
            told(answer)
            return answer

        return called

    return around
