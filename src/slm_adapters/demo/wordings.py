"""The phrases of ``wordings.toml`` as nested tables of tuples."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any, Final

Table = dict[str, tuple[str, ...]]


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(value)


_DATA: Final = _frozen(
    tomllib.loads(files(__package__).joinpath("wordings.toml").read_text(encoding="utf-8"))
)
STATUSES: Final[tuple[str, ...]] = _DATA["statuses"]
CARRIERS: Final[tuple[str, ...]] = _DATA["carriers"]
MONTHS: Final[tuple[str, ...]] = _DATA["months"]
SHAPES: Final[dict[str, Table]] = _DATA["shapes"]
NAMES: Final[dict[str, dict[str, Table]]] = _DATA["names"]
ITEMS: Final[dict[str, Table]] = _DATA["items"]
PROBLEMS: Final[dict[str, dict[str, dict[str, Table]]]] = _DATA["problems"]
AROUND: Final[dict[str, dict[str, Table]]] = _DATA["around"]
