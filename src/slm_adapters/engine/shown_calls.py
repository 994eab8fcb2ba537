"""The tool calls of a stream: what has been shown of them, against what the reply says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ..calls import ToolCall
from ..errors import InvalidReplyError
from .engine import Completion, ToolCallDelta

__all__ = ["ShownCalls"]


class ShownCalls:
    """What a stream has shown of its tool calls so far.

    Pieces that were shown cannot be taken back: the finished reply has to go on from them.
    """

    def __init__(self) -> None:
        self._shown: dict[int, ToolCall] = {}

    def note(self, delta: ToolCallDelta) -> ToolCall:
        """``delta`` is shown; returns all that is shown of its call now."""
        before = self._shown.get(delta.index) or ToolCall(delta.id, delta.name, "")
        call = replace(before, arguments=before.arguments + delta.arguments)
        self._shown[delta.index] = call
        return call

    def named(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """The reply's calls, with the ids they were shown by."""
        return tuple(
            replace(call, id=self._shown[index].id) if index in self._shown else call
            for index, call in enumerate(calls)
        )

    def rest(self, completion: Completion) -> list[ToolCallDelta]:
        """What is still to be shown of the reply's calls.

        Raises ``InvalidReplyError``, with the completion on it, where something else was shown.
        """
        rest: list[ToolCallDelta] = []
        calls = completion.reply.message.tool_calls
        for index, call in enumerate(calls):
            shown = self._shown.get(index)
            if shown is None:
                rest.append(ToolCallDelta(index, call.id, call.name, call.arguments))
                continue
            more = _after(shown, call)
            if more is None:
                raise _broken_off(shown, completion)
            if more:
                rest.append(ToolCallDelta(index, arguments=more))
        for index, shown in self._shown.items():
            if index >= len(calls):
                raise _broken_off(shown, completion)
        return rest


def _after(shown: ToolCall, call: ToolCall) -> str | None:
    """The arguments' text after what was shown; None where the call is another one."""
    if shown.name != call.name:
        return None
    if call.arguments.startswith(shown.arguments):
        return call.arguments[len(shown.arguments) :]
    try:
        # The same object, spelled otherwise.
        return "" if json.loads(shown.arguments) == json.loads(call.arguments) else None
    except ValueError:
        return None


def _broken_off(shown: ToolCall, completion: Completion) -> InvalidReplyError:
    why = "was cut off by max_tokens" if completion.reply.finish_reason == "length" else "broke off"
    error = InvalidReplyError(
        f"the model's call of {shown.name!r} {why} after a part of it was streamed: raise "
        "max_tokens, or ask without a stream, where a fallback= can still answer."
    )
    error.completion = completion
    return error
