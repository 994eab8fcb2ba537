"""One CrewAI event to one span or call: names, attributes, what a call ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CancelledGenerationError
from ..messages import Message, Reply, Usage
from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, OpenSpan
from . import convert, guards, steps
from .bus import Moment
from .facts import facts_for
from .scopes import Scope
from .starts import Start, as_text

__all__ = [
    "OPENERS",
    "counts_nothing",
    "end_opened",
    "error_of",
    "finish_call",
    "note_usage",
    "retell",
]

Opener = Callable[[Start], OpenSpan | None]

_OTHER = "_OTHER"


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
    role = as_text(getattr(getattr(task, "agent", None), "role", None))
    if _is_planning(task):
        return start.span(semconv.PLAN, convert.low_cardinality(role), {semconv.AGENT_NAME: role})
    # A task's description is its prompt; only a given name is a name.
    scope.task = convert.low_cardinality(getattr(task, "name", None))
    attributes = {semconv.TASK_NAME: scope.task, semconv.AGENT_NAME: role}
    return start.span(semconv.EXECUTE_TASK, scope.task, attributes)


def _is_planning(task: Any) -> bool:
    """Whether this is the task ``Crew(planning=True)`` adds to plan the others."""
    model = getattr(task, "output_pydantic", None)
    return getattr(model, "__name__", None) == "PlannerTaskPydanticOutput"


def _agent(start: Start) -> OpenSpan:
    event, scope = start.event, start.scope
    if scope.kind == "lite_agent_execution_started":
        scope.role = as_text((event.agent_info or {}).get("role"))
    else:
        scope.role = as_text(getattr(event.agent, "role", None))
    scope.run_id = scope.run_id or event.event_id
    attributes = {semconv.AGENT_NAME: scope.role, semconv.TASK_NAME: scope.task}
    return start.span(semconv.INVOKE_AGENT, convert.low_cardinality(scope.role), attributes)


# Model calls


def _call(start: Start) -> OpenCall:
    return start.recorder.open(
        **_call_fields(start),
        parent=start.context,
        started_ns=start.at_ns,
        in_process=_runs_here(start),
    )


def retell(call: OpenCall, start: Start) -> None:
    """The call that was begun for a wrapper is the model's inside it, which speaks now."""
    call.recorder.reopen(call, parent=start.context, **_call_fields(start))


def _runs_here(start: Start) -> bool:
    facts = facts_for(start.source, start.event.call_id)
    return facts.in_process if facts else convert.runs_here(start.source)


def _call_fields(start: Start) -> dict[str, Any]:
    event, scope, source = start.event, start.scope, start.source
    facts, attempt = facts_for(source, event.call_id), scope.boundary
    content, named = start.recorder.wants_content, getattr(source, "model", None)
    if facts is not None:
        facts.recorded = True
    return {
        "framework": "crewai",
        "provider": facts.provider if facts else convert.provider_of(source),
        "model": facts.model if facts else convert.model_of(event.model or named, source),
        "params": convert.params_of(event),
        "messages": convert.messages_of(event.messages) if content else (),
        "tools": convert.tools_of(event.tools) if content else (),
        "response_format": facts.response_format if facts else None,
        "streamed": bool(event.stream),
        "role": as_text(event.agent_role) or scope.role,
        "task": scope.task,
        "run_id": scope.run_id,
        "parent_id": _id_of(scope.parent),
        "attempt": attempt.number if isinstance(attempt, guards.Attempt) else 1,
    }


def finish_call(call: OpenCall, source: Any, event: Any, at_ns: int) -> Usage | None:
    """End a call with what its completed event, or our own model class, says."""
    facts = facts_for(source, event.call_id)
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
    if call.usage is None and semconv.FALLBACK_REASON in call.attributes:
        # The fallback's call, inside this one, has counted for itself.
        return Usage(0, 0)
    return call.usage


def note_usage(scope: Scope) -> None:
    """Put on an agent or workflow the tokens of the calls made inside it, in this run alone."""
    names, spent, opened = _USAGE_NAMES.get(scope.kind), scope.spent, scope.opened
    if names is not None and spent is not None and spent.exact and opened is not None:
        opened.attributes[names[0]], opened.attributes[names[1]] = spent.input, spent.output


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
    failed = error if is_failure(error) else None
    if not isinstance(opened, OpenCall):
        if error is not None and failed is None:
            opened.note(**{semconv.OUTCOME: "abandoned"})
        opened.end(failed, end_ns=end_ns)
    elif failed is None:
        opened.abandon(end_ns=end_ns)
    else:
        opened.fail(failed, end_ns=end_ns)


def is_failure(error: BaseException | str | None) -> bool:
    """Whether a span that ends so failed: a stream its consumer closed did not."""
    return error is not None and not isinstance(error, GeneratorExit)


def counts_nothing(error: BaseException | str | None) -> bool:
    """Whether a call that ends so used nothing; of one that was broken off nobody knows."""
    if isinstance(error, str):
        return True
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
    if kind and isinstance(kind, str):
        return kind
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else _OTHER


def _id_of(parent: Scope | None) -> str | None:
    """The record's id of what encloses it: a call's own id, or the event's."""
    visible = parent.nearest_visible() if parent else None
    if visible is None:
        return None
    return visible.call.call_id if visible.call else visible.event_id


_OF_AGENTS = (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS)
_OF_WORKFLOWS = (semconv.WORKFLOW_INPUT_TOKENS, semconv.WORKFLOW_OUTPUT_TOKENS)
_USAGE_NAMES = {
    "agent_execution_started": _OF_AGENTS,
    "lite_agent_execution_started": _OF_AGENTS,
    "crew_kickoff_started": _OF_WORKFLOWS,
    "flow_started": _OF_WORKFLOWS,
}
#: What makes the span of a started event; the others are CrewAI's own business.
OPENERS: Mapping[str, Opener] = {
    "crew_kickoff_started": _crew,
    "flow_started": _flow,
    "task_started": _task,
    "agent_execution_started": _agent,
    "lite_agent_execution_started": _agent,
    "llm_call_started": _call,
    **steps.OPENERS,
}
