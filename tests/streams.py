"""A stream put together again, the way its consumers do it."""

from __future__ import annotations

from collections.abc import Iterable

from slm_adapters.calls import ToolCall
from slm_adapters.engine.engine import Chunk, ToolCallDelta


def joined_calls(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """The calls their pieces make; each begins with its id and name."""
    calls: dict[int, ToolCall] = {}
    for delta in deltas:
        before = calls.get(delta.index)
        if before is None:
            assert (delta.index, bool(delta.name)) == (len(calls), True)
            calls[delta.index] = ToolCall(delta.id, delta.name, delta.arguments)
        else:
            assert (delta.name, delta.id) == ("", "")
            arguments = before.arguments + delta.arguments
            calls[delta.index] = ToolCall(before.id, before.name, arguments)
    return tuple(calls.values())


def calls_of(chunks: Iterable[Chunk]) -> tuple[ToolCall, ...]:
    """The calls of a stream's chunks."""
    return joined_calls(chunk.tool_call for chunk in chunks if chunk.tool_call is not None)
