"""The record of one model call, and the ambient scope that labels it.

A ``Call`` is what telemetry, the store and the training pipeline all read. Messages and tool
calls have the OpenAI chat shape; ``Call.to_json`` / ``Call.from_json`` round-trip it with a
schema version. ``role(...)`` and ``run(...)`` label every call made inside them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = [
    "SCHEMA",
    "Call",
    "Content",
    "Label",
    "Message",
    "Outcome",
    "Reply",
    "Scope",
    "Tool",
    "ToolCall",
    "Usage",
    "as_json",
    "current_scope",
    "role",
    "run",
]

SCHEMA = "call/1"

#: Text, or OpenAI content parts (``{"type": "text", "text": ...}``, images, ...).
Content: TypeAlias = str | list[dict[str, Any]] | None
Outcome = Literal["finished", "failed", "abandoned"]
UsageSource = Literal["provider", "tokenizer", "estimated"]


def as_json(value: Any) -> str:
    """``value`` as JSON; what JSON has no form for as text, so that anything can be recorded."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        return str(value)  # cycles, keys that are no text
    except RecursionError:
        return '"[too deep]"'


@dataclass(frozen=True, slots=True)
class ToolCall:
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


@dataclass(frozen=True, slots=True)
class Message:
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


@dataclass(frozen=True, slots=True)
class Tool:
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


@dataclass(frozen=True, slots=True)
class Usage:
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


@dataclass(frozen=True, slots=True)
class Reply:
    """One choice of an answer. Finish reasons: stop, length, tool_call, content_filter, error."""

    message: Message
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What became known of an answer later: ``Label("accepted", True, "human")``."""

    name: str
    value: bool | int | float | str
    source: str


@dataclass(frozen=True, slots=True)
class Call:
    """One finished, failed or abandoned model call. Times are Unix nanoseconds.

    ``Call.from_json(call.to_json()) == call``.
    """

    call_id: str
    framework: str
    operation: str = "chat"
    run_id: str | None = None
    parent_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    app: str | None = None
    role: str | None = None
    task: str | None = None
    call_site: str | None = None
    provider: str | None = None
    model: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    response_format: dict[str, Any] | None = None
    replies: tuple[Reply, ...] = ()
    usage: Usage | None = None
    streamed: bool = False
    started_ns: int = 0
    first_chunk_ns: int | None = None
    ended_ns: int = 0
    outcome: Outcome = "finished"
    error_type: str | None = None
    attempt: int = 1
    cost: float | None = None
    cost_source: str | None = None
    energy_j: float | None = None
    energy_source: str | None = None
    labels: tuple[Label, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return (self.ended_ns - self.started_ns) / 1e9

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with ``"schema": "call/1"``; empty fields are left out."""
        data: dict[str, Any] = {"schema": SCHEMA}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or value == () or value == {}:
                continue
            data[item.name] = _plain(value)
        return data

    def to_json(self) -> str:
        """One line of JSON; values JSON does not know become their ``str``."""
        return json.dumps(self.to_dict(), ensure_ascii=False, default=str)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Call:
        """Rebuild a call; raises ``ValueError`` for a schema this version cannot read."""
        if data.get("schema") != SCHEMA:
            raise ValueError(
                f"cannot read call schema {data.get('schema')!r} (this version reads {SCHEMA}): "
                "upgrade slm-adapters or export the calls again."
            )
        known = {item.name for item in dataclasses.fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        for name, read in _READERS.items():
            if values.get(name) is not None:
                values[name] = read(values[name])
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Call:
        """Rebuild a call from :meth:`to_json`'s text."""
        return cls.from_dict(json.loads(text))


def _plain(value: Any) -> Any:
    if isinstance(value, Message | ToolCall | Tool):
        return value.to_openai()
    if isinstance(value, Reply):
        return {"message": value.message.to_openai(), "finish_reason": value.finish_reason}
    if isinstance(value, Usage | Label):
        return {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _read_replies(items: Sequence[Mapping[str, Any]]) -> tuple[Reply, ...]:
    return tuple(Reply(Message.from_openai(i["message"]), i.get("finish_reason")) for i in items)


_READERS: dict[str, Any] = {
    "messages": lambda items: tuple(Message.from_openai(i) for i in items),
    "tools": lambda items: tuple(Tool.from_openai(i) for i in items),
    "replies": _read_replies,
    "usage": lambda data: Usage(**data),
    "labels": lambda items: tuple(Label(**i) for i in items),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Labels for the calls made inside ``role(...)`` and ``run(...)``."""

    role: str | None = None
    run_id: str | None = None
    attributes: Mapping[str, str | int | float | bool] = field(default_factory=dict)


#: The scope outside of any ``role`` or ``run``.
NO_LABELS = Scope()
_scope: ContextVar[Scope] = ContextVar("slm_adapters_scope", default=NO_LABELS)


#: The labels in force here; read once, when a call starts.
current_scope = _scope.get


@contextmanager
def role(name: str) -> Iterator[None]:
    """Label the calls inside with a role: ``with role("triage"): chain.invoke(x)``."""
    with _scoped(dataclasses.replace(_scope.get(), role=name)):
        yield


@contextmanager
def run(run_id: str, **attributes: str | int | float | bool) -> Iterator[None]:
    """Label the calls inside with one run: ``with run("ticket-17", customer_tier="gold"): ...``."""
    outer = _scope.get()
    merged = {**outer.attributes, **attributes}
    with _scoped(dataclasses.replace(outer, run_id=run_id, attributes=merged)):
        yield


@contextmanager
def _scoped(scope: Scope) -> Iterator[None]:
    outer = _scope.get()
    _scope.set(scope)
    try:
        yield
    finally:
        # Set, not reset(token): an async generator may be closed in another context.
        _scope.set(outer)
