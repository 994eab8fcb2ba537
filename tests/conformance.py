"""The GenAI conventions as a table, and a checker of finished spans, metrics and events.

Transcribed from open-telemetry/semantic-conventions-genai (main, read 2026-09), independent of
``slm_adapters.telemetry.semconv`` on purpose. ``python tests/conformance.py`` prints a report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jsonschema
from opentelemetry.trace import SpanKind, StatusCode


class Attribute(NamedTuple):
    """Type and requirement level: required, conditional, recommended or opt-in."""

    kind: str
    level: str


INT, FLOAT, TEXT, BOOL, TEXTS, JSON = "int", "double", "string", "boolean", "string[]", "json"

_SERVER = {
    "server.address": Attribute(TEXT, "recommended"),
    "server.port": Attribute(INT, "conditional"),
}
_COMMON = {
    "gen_ai.operation.name": Attribute(TEXT, "required"),
    "error.type": Attribute(TEXT, "conditional"),
}
_CONTENT = {
    "gen_ai.input.messages": Attribute(JSON, "opt-in"),
    "gen_ai.output.messages": Attribute(JSON, "opt-in"),
    "gen_ai.system_instructions": Attribute(JSON, "opt-in"),
    "gen_ai.tool.definitions": Attribute(JSON, "opt-in"),
}
_INFERENCE = {
    **_COMMON,
    **_SERVER,
    **_CONTENT,
    "gen_ai.provider.name": Attribute(TEXT, "required"),
    "gen_ai.request.model": Attribute(TEXT, "conditional"),
    "gen_ai.conversation.id": Attribute(TEXT, "conditional"),
    "gen_ai.output.type": Attribute(TEXT, "conditional"),
    "gen_ai.request.choice.count": Attribute(INT, "conditional"),
    "gen_ai.request.seed": Attribute(INT, "conditional"),
    "gen_ai.request.stream": Attribute(BOOL, "conditional"),
    "gen_ai.request.top_k": Attribute(INT, "conditional"),
    "gen_ai.request.temperature": Attribute(FLOAT, "recommended"),
    "gen_ai.request.top_p": Attribute(FLOAT, "recommended"),
    "gen_ai.request.max_tokens": Attribute(INT, "recommended"),
    "gen_ai.request.frequency_penalty": Attribute(FLOAT, "recommended"),
    "gen_ai.request.presence_penalty": Attribute(FLOAT, "recommended"),
    "gen_ai.request.stop_sequences": Attribute(TEXTS, "recommended"),
    "gen_ai.request.reasoning.level": Attribute(TEXT, "recommended"),
    "gen_ai.response.id": Attribute(TEXT, "recommended"),
    "gen_ai.response.model": Attribute(TEXT, "recommended"),
    "gen_ai.response.finish_reasons": Attribute(TEXTS, "recommended"),
    "gen_ai.response.time_to_first_chunk": Attribute(FLOAT, "recommended"),
    "gen_ai.usage.input_tokens": Attribute(INT, "recommended"),
    "gen_ai.usage.output_tokens": Attribute(INT, "recommended"),
    "gen_ai.usage.cache_read.input_tokens": Attribute(INT, "recommended"),
    "gen_ai.usage.cache_write.input_tokens": Attribute(INT, "recommended"),
    "gen_ai.usage.reasoning.output_tokens": Attribute(INT, "recommended"),
}
_USAGE = {key: value for key, value in _INFERENCE.items() if ".usage." in key}
#: Operation -> its attributes. ``execute_task`` is ours: the conventions have no word for tasks.
SPANS: dict[str, dict[str, Attribute]] = {
    "chat": _INFERENCE,
    "text_completion": _INFERENCE,
    "embeddings": {
        **_COMMON,
        **_SERVER,
        "gen_ai.provider.name": Attribute(TEXT, "required"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
        "gen_ai.response.model": Attribute(TEXT, "recommended"),
        "gen_ai.usage.input_tokens": Attribute(INT, "recommended"),
        "gen_ai.usage.output_tokens": Attribute(INT, "recommended"),
    },
    "retrieval": {
        **_COMMON,
        "gen_ai.data_source.id": Attribute(TEXT, "conditional"),
        "gen_ai.provider.name": Attribute(TEXT, "conditional"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
    },
    "execute_tool": {
        **_COMMON,
        "gen_ai.tool.name": Attribute(TEXT, "required"),
        "gen_ai.tool.type": Attribute(TEXT, "recommended"),
        "gen_ai.tool.call.id": Attribute(TEXT, "recommended"),
        "gen_ai.tool.description": Attribute(TEXT, "recommended"),
        "gen_ai.tool.call.arguments": Attribute(TEXT, "opt-in"),
        "gen_ai.tool.call.result": Attribute(TEXT, "opt-in"),
    },
    "invoke_agent": {
        **_COMMON,
        **_USAGE,
        **_CONTENT,
        "gen_ai.agent.name": Attribute(TEXT, "conditional"),
        "gen_ai.agent.description": Attribute(TEXT, "conditional"),
        "gen_ai.conversation.id": Attribute(TEXT, "conditional"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
        "gen_ai.provider.name": Attribute(TEXT, "recommended"),
    },
    "invoke_workflow": {
        **_COMMON,
        **_USAGE,
        **_CONTENT,
        "gen_ai.workflow.name": Attribute(TEXT, "conditional"),
        "gen_ai.conversation.id": Attribute(TEXT, "conditional"),
    },
    "execute_task": {**_COMMON, "gen_ai.agent.name": Attribute(TEXT, "conditional")},
}
_CLIENT = {"chat", "text_completion", "embeddings", "retrieval"}
#: What follows the operation in a span's name.
_TARGETS = {
    "chat": "gen_ai.request.model",
    "text_completion": "gen_ai.request.model",
    "embeddings": "gen_ai.request.model",
    "retrieval": "gen_ai.data_source.id",
    "execute_tool": "gen_ai.tool.name",
    "invoke_agent": "gen_ai.agent.name",
    "invoke_workflow": "gen_ai.workflow.name",
    "execute_task": "slm_adapters.task.name",
}
_OWN = re.compile(r"slm_adapters\.[a-z_.]+")
_REASONS = {"stop", "length", "content_filter", "tool_call", "compaction", "error"}
_FITS = {
    INT: lambda v: isinstance(v, int) and not isinstance(v, bool),
    FLOAT: lambda v: isinstance(v, float | int) and not isinstance(v, bool),
    TEXT: lambda v: isinstance(v, str),
    JSON: lambda v: isinstance(v, str),
    BOOL: lambda v: isinstance(v, bool),
    TEXTS: lambda v: isinstance(v, tuple | list) and all(isinstance(i, str) for i in v),
}

_SECONDS = tuple(0.01 * 2**i for i in range(14))
_TOKENS = tuple(float(4**i) for i in range(14))
_AGENT = tuple(0.1 * 2**i for i in range(13))
_WORKFLOW = (1.0, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_CALL_LABELS = {
    "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model",
    "gen_ai.response.model", "server.address", "server.port", "error.type",
}  # fmt: skip
#: Labels of our own, by which a dashboard tells roles apart; bounded like the roles of a program.
OWN_LABELS = {"slm_adapters.role"}

#: Histogram -> unit, boundaries, labels (generation 1.41).
METRICS: dict[str, tuple[str, tuple[float, ...], set[str]]] = {
    "gen_ai.client.operation.duration": ("s", _SECONDS, _CALL_LABELS),
    "gen_ai.client.operation.time_to_first_chunk": ("s", _SECONDS, _CALL_LABELS),
    "gen_ai.client.operation.time_per_output_chunk": ("s", _SECONDS, _CALL_LABELS),
    "gen_ai.client.token.usage": ("{token}", _TOKENS, _CALL_LABELS | {"gen_ai.token.type"}),
    "gen_ai.execute_tool.duration": (
        "s", _SECONDS, {"gen_ai.operation.name", "gen_ai.tool.name", "error.type"}),
    "gen_ai.invoke_agent.duration": (
        "s", _AGENT, {"gen_ai.operation.name", "gen_ai.agent.name", "error.type"}),
    "gen_ai.invoke_workflow.duration": (
        "s", _WORKFLOW, {"gen_ai.operation.name", "gen_ai.workflow.name", "error.type"}),
}  # fmt: skip

_PART = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string"}},
    "allOf": [
        {
            "if": {"properties": {"type": {"const": kind}}},
            "then": {"required": [*required]},
        }
        for kind, required in {
            "text": ("content",),
            "tool_call": ("id", "name", "arguments"),
            "tool_call_response": ("id", "response"),
        }.items()
    ],
}
MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role", "parts"],
        "properties": {
            "role": {"enum": ["system", "user", "assistant", "tool"]},
            "parts": {"type": "array", "items": _PART},
            "name": {"type": "string"},
            "finish_reason": {"type": ["string", "null"]},
        },
        "additionalProperties": False,
    },
}


def check_span(span: Any) -> list[str]:
    """What is wrong with one span; an empty list if nothing is."""
    attributes = dict(span.attributes or {})
    operation = attributes.get("gen_ai.operation.name")
    table = SPANS.get(operation)
    if table is None:
        return [f"{span.name}: no such operation: {operation}"]
    wrong = [*_named(span, operation, attributes), *_ended(span, attributes)]
    for name, spec in table.items():
        if spec.level == "required" and name not in attributes:
            wrong.append(f"{name} is required")
    for name, value in attributes.items():
        if name not in table and not _OWN.fullmatch(name):
            wrong.append(f"{name} is not of this operation")
        elif name in table and not _FITS[table[name].kind](value):
            wrong.append(f"{name} is a {type(value).__name__}, not a {table[name].kind}")
    return [f"{span.name}: {fault}" for fault in wrong]


def _named(span: Any, operation: str, attributes: dict[str, Any]) -> Iterable[str]:
    target = attributes.get(_TARGETS[operation])
    if span.name != (f"{operation} {target}" if target else operation):
        yield f"the name is not '{operation} {target}'"
    kinds = {SpanKind.INTERNAL} if operation not in _CLIENT else {SpanKind.CLIENT}
    if attributes.get("gen_ai.provider.name") == "slm_adapters":
        kinds = {SpanKind.INTERNAL}  # the model runs in this process
    if span.kind not in kinds:
        yield f"kind {span.kind}"


def _ended(span: Any, attributes: dict[str, Any]) -> Iterable[str]:
    failed = span.status.status_code is StatusCode.ERROR
    if failed != ("error.type" in attributes):
        yield "error.type and the status disagree"
    if span.status.status_code is StatusCode.OK:
        yield "success leaves the status unset"
    strange = set(attributes.get("gen_ai.response.finish_reasons", ())) - _REASONS
    if strange:
        yield f"finish reasons {strange}"
    if attributes.get("gen_ai.request.stream") is False:
        yield "request.stream is there only when true"
    first = "gen_ai.response.time_to_first_chunk" in attributes
    if first and "gen_ai.request.stream" not in attributes:
        yield "time to first chunk of what is no stream"
    if span.events:
        yield "no span events"


def check_metric(metric: Any) -> list[str]:
    """What is wrong with one histogram."""
    if metric.name not in METRICS:
        return [f"{metric.name} is not in the conventions"]
    unit, boundaries, labels = METRICS[metric.name]
    wrong = [f"unit {metric.unit}"] if metric.unit != unit else []
    for point in metric.data.data_points:
        if tuple(point.explicit_bounds) != boundaries:
            wrong.append("bucket boundaries")
        extra = set(point.attributes) - labels - OWN_LABELS
        wrong += [f"label {name}" for name in extra]
    return [f"{metric.name}: {fault}" for fault in wrong]


def check_event(record: Any) -> list[str]:
    """What is wrong with one content event."""
    wrong = []
    if record.event_name != "gen_ai.client.inference.operation.details":
        wrong.append(f"name {record.event_name}")
    for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
        if key in record.attributes:
            wrong += check_messages(record.attributes[key])
    if not record.span_id:
        wrong.append("no span")
    return wrong


def check_messages(messages: Any) -> list[str]:
    """What is wrong with structured messages."""
    found = jsonschema.Draft202012Validator(MESSAGES).iter_errors(_plain(messages))
    return [error.message[:200] for error in found]


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def report(spans: Iterable[Any]) -> str:
    """Markdown: every operation's attributes, their level, and how many spans carry them."""
    by_operation: dict[str, list[Any]] = {}
    for span in spans:
        by_operation.setdefault(span.attributes["gen_ai.operation.name"], []).append(span)
    lines = ["# Conformance", ""]
    for operation, found in sorted(by_operation.items()):
        faults = [fault for span in found for fault in check_span(span)]
        lines += [f"## {operation}: {len(found)} spans, {len(faults)} faults", ""]
        lines += ["| attribute | type | level | spans |", "|---|---|---|---|"]
        for name, spec in SPANS[operation].items():
            have = sum(name in span.attributes for span in found)
            lines.append(f"| `{name}` | {spec.kind} | {spec.level} | {have} |")
        own = {key for span in found for key in span.attributes if _OWN.fullmatch(key)}
        lines += [f"| `{name}` | | ours | |" for name in sorted(own)]
        lines += ["", *(f"- {fault}" for fault in faults)]
    return "\n".join(lines)


if __name__ == "__main__":
    from test_conformance import exported

    print(report(exported().spans))
