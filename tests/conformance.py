"""The GenAI conventions as a table, and a checker of finished spans, metrics and events.

Transcribed from open-telemetry/semantic-conventions-genai (main, read 2026-09) and from the main
conventions' 1.41.1, independent of ``slm_adapters.telemetry.semconv`` on purpose.

``python tests/conformance.py`` runs every framework under both generations of names, prints what
was exported beside the tables, and exits with 1 if anything disagrees.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jsonschema
from opentelemetry.trace import SpanKind, StatusCode


class Attribute(NamedTuple):
    """Type and requirement level: required, conditional, recommended or opt-in.

    ``added``: the registry has it, this operation's list does not; written where it is known.
    """

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
    "gen_ai.usage.reasoning.output_tokens": Attribute(INT, "recommended"),
}
_TOKENS_ONLY = {
    "gen_ai.usage.input_tokens": Attribute(INT, "recommended"),
    "gen_ai.usage.output_tokens": Attribute(INT, "recommended"),
}
_AGENT_NAME = {"gen_ai.agent.name": Attribute(TEXT, "conditional")}
#: Who used a tool, a memory or a data source; OpenTelemetry's own packages say it of tools.
_USER = {"gen_ai.agent.name": Attribute(TEXT, "added")}
_MEMORY = {
    **_COMMON,
    **_USER,
    **_SERVER,
    "gen_ai.provider.name": Attribute(TEXT, "conditional"),
    "gen_ai.memory.record.count": Attribute(INT, "recommended"),
    "gen_ai.memory.query.text": Attribute(TEXT, "opt-in"),
}
#: Operations of ours, for what the conventions have no word for.
OWN_OPERATIONS = {"execute_task", "execute_guardrail"}
#: Operations that 1.41 does not know; they are written under both generations.
LATER_OPERATIONS = {"plan", "search_memory", "upsert_memory"}
_SPANS: dict[str, dict[str, Attribute]] = {
    "chat": _INFERENCE,
    "text_completion": _INFERENCE,
    "embeddings": {
        **_COMMON,
        **_SERVER,
        "gen_ai.provider.name": Attribute(TEXT, "required"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
        "gen_ai.request.encoding_formats": Attribute(TEXTS, "recommended"),
        "gen_ai.embeddings.dimension.count": Attribute(INT, "recommended"),
        "gen_ai.response.model": Attribute(TEXT, "recommended"),
        "gen_ai.usage.input_tokens": Attribute(INT, "recommended"),
    },
    "retrieval": {
        **_COMMON,
        **_USER,
        **_SERVER,
        "gen_ai.data_source.id": Attribute(TEXT, "conditional"),
        "gen_ai.provider.name": Attribute(TEXT, "conditional"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
        "gen_ai.retrieval.query.text": Attribute(TEXT, "opt-in"),
    },
    "execute_tool": {
        **_COMMON,
        **_USER,
        "gen_ai.tool.name": Attribute(TEXT, "required"),
        "gen_ai.tool.type": Attribute(TEXT, "recommended"),
        "gen_ai.tool.call.id": Attribute(TEXT, "recommended"),
        "gen_ai.tool.description": Attribute(TEXT, "recommended"),
        "gen_ai.tool.call.arguments": Attribute(TEXT, "opt-in"),
        "gen_ai.tool.call.result": Attribute(TEXT, "opt-in"),
    },
    "invoke_agent": {
        **_COMMON,
        **_TOKENS_ONLY,
        **_CONTENT,
        **_AGENT_NAME,
        "gen_ai.agent.description": Attribute(TEXT, "conditional"),
        "gen_ai.conversation.id": Attribute(TEXT, "conditional"),
        "gen_ai.request.model": Attribute(TEXT, "conditional"),
    },
    "invoke_workflow": {
        **_COMMON,
        "gen_ai.workflow.name": Attribute(TEXT, "conditional"),
        "gen_ai.input.messages": Attribute(JSON, "opt-in"),
        "gen_ai.output.messages": Attribute(JSON, "opt-in"),
        "gen_ai.conversation.id": Attribute(TEXT, "added"),
    },
    "plan": {**_COMMON, **_AGENT_NAME},
    "search_memory": _MEMORY,
    "upsert_memory": _MEMORY,
    "execute_task": {**_COMMON, **_AGENT_NAME},
    "execute_guardrail": {**_COMMON, **_USER},
}


def _generation(write: str, agent: Mapping[str, Attribute]) -> dict[str, dict[str, Attribute]]:
    cache = {f"gen_ai.usage.{write}.input_tokens": Attribute(INT, "recommended")}
    changed = {name: _SPANS[name] | cache for name in ("chat", "text_completion")}
    return _SPANS | changed | {"invoke_agent": {**_SPANS["invoke_agent"], **agent}}


#: Generation -> operation -> its attributes.
SPANS = {
    "1.41": _generation("cache_creation", {"gen_ai.provider.name": Attribute(TEXT, "required")}),
    "latest": _generation("cache_write", {}),
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
    "execute_guardrail": "slm_adapters.guardrail.name",
    "plan": "gen_ai.agent.name",
    "search_memory": None,
    "upsert_memory": None,
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

_COUNTS = tuple(float(2**i) for i in range(8))
_AROUND = {
    "gen_ai.execute_tool.duration": (
        "s", _SECONDS, {"gen_ai.operation.name", "gen_ai.tool.name", "error.type"}),
    "gen_ai.invoke_agent.duration": (
        "s", _AGENT, {"gen_ai.operation.name", "gen_ai.agent.name", "error.type"}),
    "gen_ai.invoke_workflow.duration": (
        "s", _WORKFLOW, {"gen_ai.operation.name", "gen_ai.workflow.name", "error.type"}),
}  # fmt: skip
_TIMES = ("time_to_first_chunk", "time_per_output_chunk", "duration")
_AGENT_LABELS = {"gen_ai.operation.name", "gen_ai.agent.name"}
_MODALITY = {"gen_ai.token.modality"}
#: Generation -> instrument -> unit, boundaries (None: a counter), labels.
METRICS: dict[str, dict[str, tuple[str, tuple[float, ...] | None, set[str]]]] = {
    "1.41": {
        **{f"gen_ai.client.operation.{name}": ("s", _SECONDS, _CALL_LABELS) for name in _TIMES},
        "gen_ai.client.token.usage": ("{token}", _TOKENS, _CALL_LABELS | {"gen_ai.token.type"}),
        **_AROUND,
    },
    "latest": {
        **{f"gen_ai.client.inference.{name}": ("s", _SECONDS, _CALL_LABELS) for name in _TIMES},
        **{
            f"gen_ai.client.inference.operation.{way}_tokens": ("{token}", _TOKENS, _CALL_LABELS)
            for way in ("input", "output")
        },
        **{
            f"gen_ai.client.inference.usage.{kind}_tokens": (
                "{token}", None, _CALL_LABELS | _MODALITY)
            for kind in (
                "input", "output", "cache_read.input", "cache_write.input", "reasoning.output")
        },
        "gen_ai.invoke_agent.inference_calls": ("{inference_call}", _COUNTS, _AGENT_LABELS),
        "gen_ai.invoke_agent.tool_calls": ("{tool_call}", _COUNTS, _AGENT_LABELS),
        **_AROUND,
    },
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


def check_span(span: Any, generation: str = "1.41") -> list[str]:
    """What is wrong with one span; an empty list if nothing is."""
    attributes = dict(span.attributes or {})
    operation = attributes.get("gen_ai.operation.name")
    table = SPANS[generation].get(operation)
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
    target = attributes.get(_TARGETS[operation] or "")
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


def check_metric(metric: Any, generation: str = "1.41") -> list[str]:
    """What is wrong with one instrument."""
    table = METRICS[generation]
    if metric.name not in table:
        own = metric.name.startswith("slm_adapters.")
        return [] if own else [f"{metric.name} is not in the conventions"]
    unit, boundaries, labels = table[metric.name]
    wrong = [f"unit {metric.unit}"] if metric.unit != unit else []
    for point in metric.data.data_points:
        if getattr(point, "explicit_bounds", None) != boundaries:
            wrong.append("bucket boundaries")
        wrong += [f"label {name}" for name in set(point.attributes) - labels - OWN_LABELS]
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


def faults(found: Any, generation: str) -> list[str]:
    """Everything wrong with one export: its ``spans``, ``metrics`` and ``events``."""
    wrong = [fault for span in found.spans for fault in check_span(span, generation)]
    wrong += [fault for metric in found.metrics for fault in check_metric(metric, generation)]
    wrong += [fault for event in found.events for fault in check_event(event)]
    for span in found.spans:
        for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
            if key in span.attributes:
                wrong += check_messages(json.loads(span.attributes[key]))
    operations = {span.attributes.get("gen_ai.operation.name") for span in found.spans}
    wrong += [f"no {name} span was exported" for name in set(SPANS[generation]) - operations]
    names = {metric.name for metric in found.metrics}
    return wrong + [f"{name} was not exported" for name in set(METRICS[generation]) - names]


def report(found: Any, generation: str) -> str:
    """Markdown: each operation's attributes, their types and levels, how many spans have them."""
    by_operation: dict[str, list[Any]] = {}
    for span in found.spans:
        by_operation.setdefault(span.attributes["gen_ai.operation.name"], []).append(span)
    lines = [f"# Conformance, generation {generation}", ""]
    for operation, spans in sorted(by_operation.items()):
        wrong = [fault for span in spans for fault in check_span(span, generation)]
        word = "ours" if operation in OWN_OPERATIONS else ""
        if generation == "1.41" and operation in LATER_OPERATIONS:
            word = "of later conventions"
        lines += [f"## {operation}{f' ({word})' if word else ''}: {_counted(spans, wrong)}", ""]
        lines += ["| attribute | type | level | spans |", "|---|---|---|---|"]
        for name, spec in SPANS[generation].get(operation, {}).items():
            have = sum(name in span.attributes for span in spans)
            lines.append(f"| `{name}` | {spec.kind} | {spec.level} | {have} |")
        own = {key for span in spans for key in span.attributes if _OWN.fullmatch(key)}
        lines += [f"| `{name}` | | ours | |" for name in sorted(own)]
        lines.append("")
    lines += ["## metrics", "", "| instrument | unit | points | faults |", "|---|---|---|---|"]
    for metric in sorted(found.metrics, key=lambda metric: metric.name):
        points = len(metric.data.data_points)
        wrong = check_metric(metric, generation)
        lines.append(f"| `{metric.name}` | {metric.unit} | {points} | {len(wrong)} |")
    wrong = [fault for event in found.events for fault in check_event(event)]
    lines += ["", f"## events: {_counted(found.events, wrong)}", ""]
    return "\n".join(lines)


def _counted(found: Iterable[Any], wrong: list[str]) -> str:
    return f"{len(list(found))}, {len(wrong)} faults"


def main() -> int:
    import conftest  # noqa: F401  (offline, before any framework is imported)
    from test_conformance import exported

    failed = 0
    for generation in SPANS:
        found = exported(generation)
        wrong = faults(found, generation)
        print(report(found, generation))
        print(f"Generation {generation}: {len(found.spans)} spans, {len(found.metrics)} ", end="")
        print(f"instruments, {len(found.events)} events; {len(wrong)} faults in all.", end="\n\n")
        for fault in wrong:
            print("wrong:", fault)
        failed += len(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
