"""What is said in a model call: messages, tools, replies, token counts; the OpenAI chat shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Content", "Message", "Plain", "Reply", "Tool", "ToolCall", "Usage", "as_json"]

#: Text, or OpenAI content parts (``{"type": "text", "text": ...}``, images, ...).
Content: TypeAlias = str | list[dict[str, Any]] | None
UsageSource = Literal["provider", "tokenizer", "estimated"]


def as_json(value: Any) -> str:
    """``value`` as JSON; what JSON has no form for as text, so that anything can be recorded."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return str(value)  # cycles, keys that are no text
    except RecursionError:
        return '"[too deep]"'


class Plain:
    """What the record's dataclasses share; generating it for each of them makes imports slow."""

    __slots__ = ()
    __match_args__: tuple[str, ...]

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plain) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        named = zip(self.__match_args__, self._values(), strict=True)
        return f"{type(self).__qualname__}({', '.join(f'{k}={v!r}' for k, v in named)})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ToolCall(Plain):
    """A function call asked for by a model; ``arguments`` is JSON text, as OpenAI sends it."""

    id: str
    name: str
    arguments: str = "{}"

    def parsed(self) -> dict[str, Any]:
        """The arguments as a dict; raises ``ValueError`` when they are no JSON object."""
        value = json.loads(self.arguments or "{}")
        if not isinstance(value, dict):
            raise ValueError(f"arguments of {self.name} are not a JSON object")
        return value

    def to_openai(self) -> dict[str, Any]:
        """``{"id": ..., "type": "function", "function": {"name": ..., "arguments": "..."}}``."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    @classmethod
    def from_openai(cls, data: Mapping[str, Any]) -> ToolCall:
        """Read the OpenAI shape; arguments may be JSON text or already an object."""
        function = data.get("function") or data
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = as_json(arguments or {})
        return cls(str(data.get("id") or ""), str(function.get("name") or ""), arguments or "{}")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Message(Plain):
    """One chat message: role system, user, assistant or tool.

    ``reasoning``: what a model thought before its answer. No model is sent it again.
    """

    role: str
    content: Content = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        """The text of the content; other parts are left out."""
        if isinstance(self.content, list):
            parts = (p.get("text", "") if isinstance(p, dict) else str(p) for p in self.content)
            return "".join(part for part in parts if isinstance(part, str))
        return self.content or ""

    def to_openai(self) -> dict[str, Any]:
        """The OpenAI chat dict; empty fields are left out, ``content`` never is."""
        data: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            data["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            data["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            data["name"] = self.name
        if self.reasoning:
            data["reasoning_content"] = self.reasoning
        return data

    @classmethod
    def from_openai(cls, data: Mapping[str, Any]) -> Message:
        """Read an OpenAI chat dict; unknown keys are ignored."""
        calls = tuple(ToolCall.from_openai(c) for c in data.get("tool_calls") or ())
        thought = data.get("reasoning_content")
        return cls(
            role=str(data.get("role") or "user"),
            content=data.get("content"),
            tool_calls=calls,
            tool_call_id=data.get("tool_call_id"),
            name=data.get("name"),
            reasoning=(thought or None) if isinstance(thought, str) else None,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tool(Plain):
    """A function a model may call; ``parameters`` is its JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_openai(self) -> dict[str, Any]:
        """``{"type": "function", "function": {...}}``."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = self.parameters or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}

    @classmethod
    def from_openai(cls, data: Mapping[str, Any]) -> Tool:
        """Read the OpenAI tool shape, with or without the outer ``function`` key."""
        function = data.get("function") or data
        return cls(
            name=str(function.get("name") or ""),
            description=str(function.get("description") or ""),
            parameters=dict(function.get("parameters") or {}),
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Usage(Plain):
    """Token counts. ``input_tokens`` includes cached ones, ``output_tokens`` reasoning ones."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "provider"

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        def total(one: int | None, more: int | None) -> int | None:
            return more if one is None else one + (more or 0)

        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            total(self.cached_tokens, other.cached_tokens),
            total(self.cache_write_tokens, other.cache_write_tokens),
            total(self.reasoning_tokens, other.reasoning_tokens),
            self.source,
        )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reply(Plain):
    """One choice of an answer. Finish reasons: stop, length, tool_call, content_filter, error."""

    message: Message
    finish_reason: str | None = None
