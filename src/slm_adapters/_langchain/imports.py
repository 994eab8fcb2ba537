"""Do something to a module when it is imported, and never be the one who imports it.

LangChain loads tools, retrievers and plain models only where a program uses them; a recorder that
imported them to wrap their methods would cost every program a tenth of a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["forget", "when_imported"]

#: Called with the module once it has run.
Then = Callable[[ModuleType], None]

_waiting: dict[str, Then] = {}


def when_imported(name: str, then: Then) -> None:
    """Call ``then`` now if the module is there, else right after its import."""
    if name in sys.modules:
        then(importlib.import_module(name))  # waits for a thread that is at it
        return
    _waiting[name] = then
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def forget() -> None:
    """Wait for nothing any more."""
    _waiting.clear()
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


class _Finder:
    """First on ``sys.meta_path``; lets the others find what somebody waits for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = _waiting.pop(name, None)
        if then is None:
            return None
        spec: Any = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, then)
        return spec  # type: ignore[no-any-return]


class _Loader:
    """The module's own loader, and ``then`` behind it."""

    def __init__(self, loader: Any, then: Then) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then(module)


_FINDER: Any = _Finder()
