"""What agents do beside asking models: tools, MCP, memory, knowledge, plans, guardrails."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlsplit

from ..messages import ToolCall
from ..telemetry import semconv
from ..telemetry.recorder import OpenSpan, Recorder, error_type
from . import convert
from .scopes import Scope
from .starts import Start, as_text, redacted

__all__ = ["FINISHERS", "OPENERS", "failed_inside"]


def failed_inside(scope: Scope, error: BaseException | str) -> None:
    """Something without a span failed: an MCP call fails the tool around it."""
    outer = scope.parent.nearest_visible() if scope.parent else None
    if scope.kind == "mcp_tool_execution_started" and outer is not None:
        outer.failure = error_type(error)


# Tools


def _tool(start: Start) -> OpenSpan:
    event, scope, recorder = start.event, start.scope, start.recorder
    attributes = {
        semconv.TOOL_NAME: event.tool_name,
        semconv.TOOL_TYPE: "function",
        semconv.TOOL_CALL_ID: _take_asked(scope.parent, event.tool_name, event.tool_args),
        semconv.AGENT_NAME: scope.role,
    }
    if recorder.content_on_spans:
        attributes[semconv.TOOL_CALL_ARGUMENTS] = redacted(recorder, event.tool_args)
    return start.span(semconv.EXECUTE_TOOL, convert.low_cardinality(event.tool_name), attributes)


def _finish_tool(recorder: Recorder, scope: Scope, opened: OpenSpan, event: Any) -> str | None:
    if recorder.content_on_spans:
        opened.note(**{semconv.TOOL_CALL_RESULT: redacted(recorder, event.output)})
    failure = getattr(event, "failure", None)
    if failure is None:
        return scope.failure
    reason = getattr(failure, "reason", None)
    return scope.failure or str(getattr(reason, "value", reason) or "tool_failure")


def _take_asked(parent: Scope | None, name: str, arguments: Any) -> str | None:
    """The id of the model's call that this tool run answers; each is taken once."""
    scope = parent.nearest_visible() if parent else None
    if scope is None or not scope.asked:
        return None
    from crewai.utilities.string_utils import sanitize_tool_name

    named = [c for c in scope.asked if sanitize_tool_name(c.name) == sanitize_tool_name(name)]
    exact = [call for call in named if _same_arguments(call, arguments)]
    found = exact[0] if exact else named[0] if len(named) == 1 else None
    if found is None:
        return None
    scope.asked.remove(found)
    return found.id or None


def _same_arguments(call: ToolCall, arguments: Any) -> bool:
    try:
        asked = call.parsed()
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return False
    return bool(asked == given)


# MCP: the conventions put its attributes on the tool's span where there is one


def _mcp_tool(start: Start) -> OpenSpan | None:
    event, scope = start.event, start.scope
    outer = scope.parent.nearest_visible() if scope.parent else None
    if outer is not None and outer.kind == "tool_usage_started" and outer.opened is not None:
        outer.opened.note(**_mcp_facts(event))
        return None
    opened = start.span(
        semconv.EXECUTE_TOOL,
        convert.low_cardinality(event.tool_name),
        {
            semconv.TOOL_NAME: event.tool_name,
            semconv.TOOL_TYPE: "function",
            semconv.AGENT_NAME: scope.role,
            **_mcp_facts(event),
        },
    )
    if start.recorder.content_on_spans:
        arguments = redacted(start.recorder, event.tool_args)
        opened.note(**{semconv.TOOL_CALL_ARGUMENTS: arguments})
    return opened


def _mcp_facts(event: Any) -> dict[str, Any]:
    transport = (event.transport_type or "").lower()
    facts: dict[str, Any] = {
        semconv.MCP_METHOD: "tools/call",
        semconv.NETWORK_TRANSPORT: "pipe" if transport == "stdio" else "tcp",
    }
    try:
        address = urlsplit(event.server_url or "")
        if address.hostname:
            secure = address.scheme == "https"
            facts[semconv.SERVER_ADDRESS] = address.hostname
            facts[semconv.SERVER_PORT] = address.port or (443 if secure else 80)
    except ValueError:
        return facts
    return facts


def _finish_mcp(recorder: Recorder, _: Scope, opened: OpenSpan, event: Any) -> None:
    if recorder.content_on_spans:
        opened.note(**{semconv.TOOL_CALL_RESULT: redacted(recorder, event.result)})


# Memory. Saving may create, update or merge records: the conventions call that upsert.


def _memory_search(start: Start) -> OpenSpan:
    attributes = {semconv.AGENT_NAME: start.scope.role}
    if start.recorder.content_on_spans:
        attributes[semconv.MEMORY_QUERY] = redacted(start.recorder, start.event.query)
    return start.span(semconv.SEARCH_MEMORY, None, attributes)


def _finish_memory_search(_: Recorder, __: Scope, opened: OpenSpan, event: Any) -> None:
    if isinstance(event.results, list):
        opened.note(**{semconv.MEMORY_RECORD_COUNT: len(event.results)})


def _memory_save(start: Start) -> OpenSpan:
    return start.span(semconv.UPSERT_MEMORY, None, {semconv.AGENT_NAME: start.scope.role})


# Knowledge


def _retrieval(start: Start) -> OpenSpan:
    source = convert.low_cardinality(_data_source(start.source))
    attributes = {semconv.DATA_SOURCE_ID: source, semconv.AGENT_NAME: start.scope.role}
    return start.span(semconv.RETRIEVAL, source, attributes)


def _data_source(agent: Any) -> Any:
    """The name of the one collection searched; None when there are two."""
    crew = getattr(agent, "crew", None)
    knowledges = [getattr(agent, "knowledge", None), getattr(crew, "knowledge", None)]
    names = {
        getattr(getattr(knowledge, "storage", None), "collection_name", None)
        for knowledge in knowledges
        if knowledge is not None
    }
    return names.pop() if len(names) == 1 else None


def _finish_retrieval(recorder: Recorder, _: Scope, opened: OpenSpan, event: Any) -> None:
    if recorder.content_on_spans:
        opened.note(**{semconv.RETRIEVAL_QUERY: redacted(recorder, event.query)})


# Plans


def _plan(start: Start) -> OpenSpan | None:
    if any(scope.kind == start.scope.kind for scope in _around(start.scope)):
        return None  # a refinement of the plan being made
    role = as_text(start.event.agent_role) or start.scope.role
    return start.span(semconv.PLAN, convert.low_cardinality(role), {semconv.AGENT_NAME: role})


def _around(scope: Scope) -> list[Scope]:
    parent = scope.parent
    return [] if parent is None else [outer for outer in parent.upwards() if not outer.ended]


# Guardrails. A verdict is no error; an LLM's instruction is content, so its type names it.


def _guardrail(start: Start) -> OpenSpan:
    event = start.event
    kind = as_text(event.guardrail_type)
    name = event.guardrail_name if kind == "function" else kind
    name = convert.low_cardinality(name) if name != "<lambda>" else None
    attributes = {
        semconv.GUARDRAIL_NAME: name,
        semconv.GUARDRAIL_TYPE: kind,
        semconv.GUARDRAIL_ATTEMPT: event.retry_count + 1,
        semconv.AGENT_NAME: start.scope.role,
        semconv.TASK_NAME: start.scope.task,
    }
    return start.span(semconv.EXECUTE_GUARDRAIL, name, attributes)


def _finish_guardrail(_: Recorder, __: Scope, opened: OpenSpan, event: Any) -> str | None:
    opened.note(**{semconv.GUARDRAIL_PASSED: bool(event.success)})
    active = sys.exc_info()[1]
    raised = active is not None and (event.error or "").startswith(f"{type(active).__name__}: ")
    return type(active).__name__ if raised else None


OPENERS = {
    "tool_usage_started": _tool,
    "mcp_tool_execution_started": _mcp_tool,
    "memory_query_started": _memory_search,
    "memory_save_started": _memory_save,
    "knowledge_search_query_started": _retrieval,
    "agent_reasoning_started": _plan,
    "llm_guardrail_started": _guardrail,
}
#: What notes on a span what its end event says; the result is an ``error.type``, if it failed.
FINISHERS = {
    "tool_usage_finished": _finish_tool,
    "mcp_tool_execution_completed": _finish_mcp,
    "memory_query_completed": _finish_memory_search,
    "knowledge_search_query_completed": _finish_retrieval,
    "llm_guardrail_completed": _finish_guardrail,
}
