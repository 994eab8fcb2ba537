"""Replacing functions of CrewAI, and putting them back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["holder_of", "put_back", "replace"]

_undo: list[Callable[[], None]] = []


def replace(owner: str, name: str, wrap: Callable[[Callable[..., Any]], Any]) -> None:
    """Wrap ``name`` of a ``"module"`` or ``"module:Class"``; raises what its absence raises."""
    holder = holder_of(owner, name)
    original = vars(holder)[name]
    plain = getattr(original, "__func__", original)
    if not callable(plain):
        raise TypeError(type(plain).__name__)
    replacement = wrap(plain)
    if isinstance(original, staticmethod):
        replacement = staticmethod(replacement)
    setattr(holder, name, replacement)

    def undo() -> None:
        # Somebody may have wrapped ours meanwhile: theirs stays.
        if vars(holder).get(name) is replacement:
            setattr(holder, name, original)

    _undo.append(undo)


def put_back() -> None:
    """Undo every replacement that is still ours, the last one first."""
    while _undo:
        _undo.pop()()


def holder_of(owner: str, name: str) -> Any:
    """The module, or among a class and its bases the one that defines ``name``."""
    module, _, kind = owner.partition(":")
    found = importlib.import_module(module)
    if not kind:
        return found
    return next(base for base in getattr(found, kind).__mro__ if name in vars(base))
