"""The record of one model call. What it is made of, and the scope that labels it, are here too.

A ``Call`` is what telemetry, the store and the training pipeline all read. Messages and tool
calls have the OpenAI chat shape; ``Call.to_json`` / ``Call.from_json`` round-trip it with a
schema version.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .messages import Content, Message, Plain, Reply, Tool, ToolCall, Usage, as_json
from .scope import NO_LABELS, Scope, current_scope, role, run

__all__ = [
    "NO_LABELS", "SCHEMA", "Call", "Content", "Label", "Message", "Outcome", "Reply", "Scope",
    "Tool", "ToolCall", "Usage", "as_json", "current_scope", "role", "run",
]  # fmt: skip

SCHEMA = "call/1"

Outcome = Literal["finished", "failed", "abandoned"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Label(Plain):
    """What became known of an answer later: ``Label("accepted", True, "human")``."""

    name: str
    value: bool | int | float | str
    source: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Plain):
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
