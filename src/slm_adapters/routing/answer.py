"""What a check is shown: the question, the small model's answer, and the values in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..calls import ToolCall
from ..engine.engine import ChatRequest, Completion

__all__ = ["Answer", "Check"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the small model before anybody has seen it or run its tool calls."""

    request: ChatRequest
    completion: Completion
    role: str | None = None
    run: str | None = None
    #: Further answers to the same request, for checks that ask for them; None: it failed.
    samples: tuple[Completion | None, ...] = ()

    @property
    def text(self) -> str:
        """The answer's text, empty for tool calls alone."""
        return self.completion.reply.message.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls, already checked against their schemas."""
        return self.completion.reply.message.tool_calls

    @property
    def attributes(self) -> dict[str, str | int | float | bool]:
        """The engine's own facts, such as ``slm_adapters.confidence``."""
        return self.completion.attributes

    def values(self) -> Iterator[tuple[str, Any]]:
        """Every value in the tool calls' arguments, or in a JSON answer, with its field's name.

        ``[("order_id", "AB-1"), ("amount", 3)]``; the items of a list carry the list's name.
        """
        if self.tool_calls:
            for call in self.tool_calls:
                yield from _leaves("", call.parsed())
            return
        try:
            data = json.loads(self.text)
        except ValueError:
            return
        if isinstance(data, dict | list):
            yield from _leaves("", data)


#: Accepts with None or True; turns the answer down with a short reason, or with False.
Check: TypeAlias = Callable[[Answer], str | bool | None]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(str(key), item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(name, item)
    else:
        yield name, value
