"""One CrewAI event to one span or call: names, attributes, what a call ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context

from ..calls import Message, Reply, ToolCall
from ..errors import CancelledGenerationError
from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, OpenSpan, Recorder
from . import convert, guards
from .bus import Moment
from .facts import facts_for
from .scopes import Scope

__all__ = [
    "Start",
    "end_opened",
    "error_of",
    "finish_call",
    "finish_tool",
    "is_failure",
    "open_for",
    "open_silent_call",
]

_OTHER = "_OTHER"


@dataclass(frozen=True)
class Start:
    """A started event and where its span goes."""

    recorder: Recorder
    source: Any
    event: Any
    scope: Scope
    context: Context
    at_ns: int

    def span(self, operation: str, target: str | None, attributes: Mapping[str, Any]) -> OpenSpan:
        return self.recorder.span(
            operation, target, attributes=attributes, parent=self.context, start_ns=self.at_ns
        )


def open_for(start: Start) -> OpenSpan | None:
    """The span of a started event; None for what is CrewAI's own business."""
    opener = _OPENERS.get(start.event.type)
    return opener(start) if opener else None


def _crew(start: Start) -> OpenSpan:
    scope, event = start.scope, start.event
    scope.run_id = event.event_id
    return _workflow(start, event.crew_name)


def _flow(start: Start) -> OpenSpan | None:
    scope, source = start.scope, start.source
    internal = getattr(source, "is_crewai_internal", False)
    if internal or getattr(source, "suppress_flow_events", False):
        return None
    scope.run_id = scope.run_id or start.event.event_id
    return _workflow(start, start.event.flow_name)


def _workflow(start: Start, name: Any) -> OpenSpan:
    name = convert.low_cardinality(name)
    attributes = {semconv.WORKFLOW_NAME: name, semconv.RUN_ID: start.scope.run_id}
    return start.span(semconv.INVOKE_WORKFLOW, name, attributes)


def _task(start: Start) -> OpenSpan:
    task, scope = start.event.task, start.scope
    # A task's description is its prompt; only a given name is a name.
    scope.task = convert.low_cardinality(getattr(task, "name", None))
    role = _text(getattr(getattr(task, "agent", None), "role", None))
    attributes = {semconv.TASK_NAME: scope.task, semconv.AGENT_NAME: role}
    return start.span(semconv.EXECUTE_TASK, scope.task, attributes)


def _agent(start: Start) -> OpenSpan:
    event, scope = start.event, start.scope
    info = getattr(event, "agent_info", None) or {}
    role = getattr(getattr(event, "agent", None), "role", None) or info.get("role")
    scope.role = _text(role)
    scope.run_id = scope.run_id or event.event_id
    attributes = {semconv.AGENT_NAME: scope.role, semconv.TASK_NAME: scope.task}
    return start.span(semconv.INVOKE_AGENT, convert.low_cardinality(scope.role), attributes)


def _tool(start: Start) -> OpenSpan:
    event, scope, recorder = start.event, start.scope, start.recorder
    attributes = {
        semconv.TOOL_NAME: event.tool_name,
        semconv.TOOL_TYPE: "function",
        semconv.TOOL_CALL_ID: _take_asked(scope.parent, event.tool_name, event.tool_args),
        semconv.AGENT_NAME: scope.role,
    }
    if recorder.content_on_spans:
        attributes[semconv.TOOL_CALL_ARGUMENTS] = _redacted(recorder, event.tool_args)
    return start.span(semconv.EXECUTE_TOOL, convert.low_cardinality(event.tool_name), attributes)


def finish_tool(recorder: Recorder, opened: OpenSpan, event: Any) -> None:
    """Note the result; a tool that reported failure ends as an error."""
    if event.type != "tool_usage_finished":
        return
    if recorder.content_on_spans:
        opened.note(**{semconv.TOOL_CALL_RESULT: _redacted(recorder, event.output)})
    failure = getattr(event, "failure", None)
    if failure is not None:
        reason = getattr(failure, "reason", None)
        opened.end(str(getattr(reason, "value", reason) or "tool_failure"))


def _redacted(recorder: Recorder, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return recorder.redaction.apply_to_text(text)


def _take_asked(parent: Scope | None, name: str, arguments: Any) -> str | None:
    """The id of the model's call that this tool run answers; each is taken once."""
    from crewai.utilities.string_utils import sanitize_tool_name

    scope = parent.nearest_visible() if parent else None
    if scope is None:
        return None
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


# Model calls


def _call(start: Start) -> OpenCall:
    event, scope, source = start.event, start.scope, start.source
    facts, attempt = facts_for(source), scope.boundary
    content = start.recorder.wants_content
    if facts is not None:
        facts.recorded = True
    return start.recorder.open(
        framework="crewai",
        provider=facts.provider if facts else convert.provider_of(source),
        model=facts.model if facts else event.model or getattr(source, "model", None),
        params=convert.params_of(event),
        messages=convert.messages_of(event.messages) if content else (),
        tools=convert.tools_of(event.tools) if content else (),
        response_format=facts.response_format if facts else None,
        stream=bool(event.stream),
        parent=start.context,
        start_ns=start.at_ns,
        role=_text(event.agent_role) or scope.role,
        task=scope.task,
        run_id=scope.run_id,
        parent_id=_id_of(scope.parent),
        attempt=attempt.number if isinstance(attempt, guards.Attempt) else 1,
        in_process=facts.in_process if facts else False,
    )


def open_silent_call(recorder: Recorder, attempt: guards.Attempt, parent: Scope | None) -> OpenCall:
    """A call whose LLM emitted no events, opened after it ended."""
    arguments, llm = attempt.arguments, attempt.llm
    task, agent = arguments.get("from_task"), arguments.get("from_agent")
    content = recorder.wants_content
    return recorder.open(
        framework="crewai",
        provider=convert.provider_of(llm),
        model=getattr(llm, "model", None),
        params=convert.params_of(llm),
        messages=convert.messages_of(arguments.get("messages")) if content else (),
        tools=convert.tools_of(arguments.get("tools")) if content else (),
        parent=attempt.ambient,
        start_ns=attempt.started_ns,
        role=_text(getattr(agent, "role", None)) or (parent.role if parent else None),
        task=convert.low_cardinality(getattr(task, "name", None))
        or (parent.task if parent else None),
        run_id=parent.run_id if parent else None,
        parent_id=_id_of(parent),
        attempt=attempt.number,
    )


def finish_call(call: OpenCall, source: Any, event: Any, at_ns: int) -> None:
    """End a call with what its completed event, or our own model class, says."""
    facts = facts_for(source)
    if facts is not None:
        call.note(**facts.attributes)
        reply, usage = facts.reply or Reply(Message("assistant")), facts.usage
    else:
        reply = _reply(event, with_content=call.recorder.wants_content)
        usage = convert.usage_of(event.usage)
    call.finish(
        [reply],
        usage,
        response_model=facts.response_model if facts else None,
        response_id=event.response_id,
        end_ns=at_ns,
    )


def _reply(event: Any, *, with_content: bool) -> Reply:
    kind = getattr(event.call_type, "value", None)
    executed = kind == "tool_call" and not convert.tool_calls_of(event.response)
    # The response of an executed call is the tool's result, not the model's text.
    response = None if executed else event.response
    reason = event.finish_reason or ("tool_call" if executed else None)
    return convert.reply_of(response, reason, with_content=with_content)


# Ends


def end_opened(opened: OpenSpan, error: BaseException | str | None, end_ns: int | None) -> None:
    """End a span or a call that no completed event has ended."""
    given_up = isinstance(error, BaseException) and not is_failure(error)
    if not isinstance(opened, OpenCall):
        if given_up:
            opened.note(**{semconv.OUTCOME: "abandoned"})
        opened.end(None if given_up else error, end_ns=end_ns)
    elif error is None or given_up:
        opened.abandon(end_ns=end_ns)
    else:
        opened.fail(error, end_ns=end_ns)


def is_failure(error: BaseException) -> bool:
    """Cancellation, closed streams and interrupts are ends, not failures."""
    return isinstance(error, Exception) and not isinstance(error, CancelledGenerationError)


def error_of(event: Any, moment: Moment) -> BaseException | str:
    """The exception behind a failed event: carried by it, active where it was emitted, or none."""
    carried = getattr(event, "error", None)
    if isinstance(carried, BaseException):
        return carried
    active = sys.exc_info()[1] if moment.synchronous else None
    if active is not None:
        return active
    kind = getattr(event, "error_type", None)
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else _OTHER


def _id_of(parent: Scope | None) -> str | None:
    """The record's id of what encloses it: a call's own id, or the event's."""
    visible = parent.nearest_visible() if parent else None
    if visible is None:
        return None
    return str(visible.call.fields["call_id"]) if visible.call else visible.event_id


def _text(value: Any) -> str | None:
    text = str(value).strip() if value else ""
    return text or None


_OPENERS = {
    "crew_kickoff_started": _crew,
    "flow_started": _flow,
    "task_started": _task,
    "agent_execution_started": _agent,
    "lite_agent_execution_started": _agent,
    "llm_call_started": _call,
    "tool_usage_started": _tool,
}
