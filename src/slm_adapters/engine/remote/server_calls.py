"""Tool calls that a server sends as such: put together, passed on as they come, repaired."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...calls import ToolCall
from ..call_arguments import ArgumentStream
from ..engine import ToolCallDelta
from ..json_repair import read_json
from ..tool_formats import tool_call_id

__all__ = ["ServerCalls"]


@dataclass(slots=True)
class _Call:
    index: str
    id: str = ""
    name: str = ""
    arguments: str = ""
    stream: ArgumentStream | None = None


class ServerCalls:
    """The calls of one reply. ``schemas``: of the tools offered; only these are passed on."""

    def __init__(self, schemas: dict[str, dict[str, Any]]) -> None:
        self._schemas = schemas
        self._calls: list[_Call] = []

    @property
    def found(self) -> bool:
        """Whether the server sent any."""
        return bool(self._calls)

    def add(self, pieces: Iterable[dict[str, Any]]) -> list[ToolCallDelta]:
        """Take pieces in; returns what is new to be told of their calls."""
        changed = dict.fromkeys(self._merged(piece) for piece in pieces)
        return [delta for position in changed for delta in self._told(position)]

    def finished(self, *, cut_off: bool) -> tuple[ToolCall, ...]:
        """All of them; what a limit ``cut_off`` is not completed, lest it be run."""
        repaired = _spelled if cut_off else _repaired
        return tuple(
            ToolCall(call.id or tool_call_id(), call.name, repaired(call.arguments))
            for call in self._calls
        )

    def _merged(self, piece: dict[str, Any]) -> int:
        """The position of the piece's call. Some servers give every call of a reply index 0."""
        function = piece.get("function") or {}
        identifier, index = piece.get("id") or "", str(piece.get("index", len(self._calls)))
        found = [at for at, call in enumerate(self._calls) if call.index == index]
        position = found[-1] if found else len(self._calls)
        if not found or (identifier and self._calls[position].id not in ("", identifier)):
            position = len(self._calls)
            self._calls.append(_Call(index))
        call = self._calls[position]
        call.id = call.id or identifier
        call.name = call.name or function.get("name") or ""
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        call.arguments += arguments or ""
        return position

    def _told(self, position: int) -> Iterator[ToolCallDelta]:
        call = self._calls[position]
        if call.name not in self._schemas:
            return
        if call.stream is None:
            call.stream = ArgumentStream(self._schemas[call.name])
            yield ToolCallDelta(position, call.id or tool_call_id(), call.name)
        if arguments := call.stream.read(call.arguments):
            yield ToolCallDelta(position, arguments=arguments)


def _repaired(arguments: str) -> str:
    """Arguments as JSON text; what cannot be read stays as it is, for the check to turn down."""
    if not arguments.strip():
        return "{}"
    spelled = _spelled(arguments)
    if spelled != arguments:
        return spelled
    try:
        value, end = read_json(arguments)
    except ValueError:
        return arguments
    return arguments if arguments[end:].strip() else json.dumps(value, ensure_ascii=False)


def _spelled(arguments: str) -> str:
    """Valid JSON as ``json.dumps`` spells it, which is how a stream tells it."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments
