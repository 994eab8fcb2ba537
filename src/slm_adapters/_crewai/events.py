"""CrewAI's events to spans and calls: the sink of one recorder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from crewai.events.event_context import SCOPE_STARTING_EVENTS, VALID_EVENT_PAIRS
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from ..calls import Message, Reply, ToolCall
from ..errors import CancelledGenerationError
from ..telemetry import semconv
from ..telemetry.harmless import harmless
from ..telemetry.recorder import OpenCall, OpenSpan, Recorder, current_call, set_current_call
from . import convert, guards
from .bus import Moment
from .facts import facts_for
from .scopes import Scope, Scopes

__all__ = ["EventRecorder"]

_OTHER = "_OTHER"
_FAILED = frozenset(kind for kind in VALID_EVENT_PAIRS if kind.endswith(("_failed", "_error")))


class EventRecorder:
    """Turns events into spans of ``recorder``; ``only`` limits it to some models' calls."""

    def __init__(
        self, recorder: Recorder, only: Callable[[Any], bool] | None = None, *, shadow: Any = None
    ) -> None:
        self.recorder, self.only, self._shadow = recorder, only, shadow
        self.sees_everything = only is None
        self.scopes = Scopes()
        self._key = otel_context.create_key("slm-adapters-crewai-scope")

    # Events

    def see(self, source: Any, event: Any, moment: Moment) -> None:
        """One event, on the thread and in the context that emitted it."""
        kind = event.type
        if kind == "llm_stream_chunk":
            self._chunk(event)
        elif kind in SCOPE_STARTING_EVENTS:
            if self.only is None or (kind == "llm_call_started" and self.only(source)):
                self._start(source, event, moment)
        elif kind in VALID_EVENT_PAIRS:
            self._end(source, event, moment)

    def _start(self, source: Any, event: Any, moment: Moment) -> None:
        marked = self._marked(moment.ambient)
        scope = Scope(event, source, self._parent(event, marked))
        opener = _OPENERS.get(event.type)
        if opener is not None:
            context = self._context_for(scope.parent, marked, moment)
            scope.opened = opener(self, source, event, scope, context, moment)
        evicted = self.scopes.add(scope)
        if scope.opened is not None:
            self._enter(scope, moment)
        if evicted is not None:
            self._close(evicted, None, moment.at_ns, early=True)

    def _end(self, source: Any, event: Any, moment: Moment) -> None:
        marked = self._marked(moment.ambient)
        scope = self.scopes.ended_by(event, source, marked)
        if scope is None:
            return
        error = _error_of(event, moment) if event.type in _FAILED else None
        call = scope.call
        if call is not None and error is None:
            self._finish_call(call, scope, source, event, moment)
        elif call is None and scope.opened is not None and error is None:
            self._finish_tool(scope.opened, event)
        self._close(scope, error, moment.at_ns)

    def _chunk(self, event: Any) -> None:
        scope = self.scopes.call(event.call_id)
        if scope is not None and scope.call is not None:
            scope.call.chunk(event.chunk)

    # Ends without an event

    def unwind(self, boundary: guards.Boundary, error: BaseException) -> None:
        """An exception left a model call or a crew: end what that opened."""
        for scope in reversed(self.scopes.open_now()):
            if scope.boundary is boundary:
                self._close(scope, error, None, early=True)

    def silent_call(self, call: guards.Attempt) -> None:
        """A model call that emitted no events: its span is made afterwards."""
        if self.only is not None and not self.only(call.llm):
            return
        marked = self._marked(call.ambient)
        parent = marked.nearest_visible() if marked else None
        arguments, llm = call.arguments, call.llm
        task, agent = arguments.get("from_task"), arguments.get("from_agent")
        content = self.recorder.wants_content
        opened = self.recorder.open(
            framework="crewai",
            provider=convert.provider_of(llm),
            model=getattr(llm, "model", None),
            params=convert.params_of(llm),
            messages=convert.messages_of(arguments.get("messages")) if content else (),
            tools=convert.tools_of(arguments.get("tools")) if content else (),
            parent=call.ambient,
            start_ns=call.started_ns,
            role=_text(getattr(agent, "role", None)) or (parent.role if parent else None),
            task=convert.low_cardinality(getattr(task, "name", None))
            or (parent.task if parent else None),
            run_id=parent.run_id if parent else None,
            parent_id=_id_of(parent),
            attempt=call.number,
        )
        if call.error is not None:
            _end_opened(opened, call.error, call.ended_ns)
            return
        self._remember_asked(parent, convert.tool_calls_of(call.result))
        reply = convert.reply_of(call.result, None, with_content=content)
        opened.finish([reply], end_ns=call.ended_ns)

    @harmless("closing a recorder")
    def close(self) -> None:
        """End every span still open."""
        for scope in reversed(self.scopes.open_now()):
            self._close(scope, None, None, early=True)

    # The tree

    def _marked(self, context: Context) -> Scope | None:
        scope = otel_context.get_value(self._key, context)
        return scope if isinstance(scope, Scope) else None

    def _parent(self, event: Any, marked: Scope | None) -> Scope | None:
        recorded = self.scopes.get(event.parent_event_id)
        recorded = recorded.nearest_open() if recorded else None
        current = marked.nearest_open() if marked else None
        if recorded is None or (current is not None and current.is_inside(recorded)):
            return current
        return recorded

    def _context_for(self, parent: Scope | None, marked: Scope | None, moment: Moment) -> Context:
        visible = parent.nearest_visible() if parent else None
        if visible is None:
            return _outside(marked) or moment.ambient
        # Between our span and here the program may have spans of its own: keep them.
        if visible is marked and moment.leads:
            return moment.ambient
        return visible.context or moment.ambient

    def _enter(self, scope: Scope, moment: Moment) -> None:
        opened = scope.opened
        assert opened is not None
        scope.outer_context, scope.outer_call = moment.ambient, current_call()
        scope.context = otel_context.set_value(self._key, scope, opened.context)
        opened.context = scope.context
        if not moment.synchronous:
            return
        if moment.leads:
            set_current_call(scope.call, scope.context)
        else:
            otel_context.attach(otel_context.set_value(self._key, scope))

    def _close(
        self,
        scope: Scope,
        error: BaseException | str | None,
        end_ns: int | None,
        *,
        early: bool = False,
    ) -> None:
        if scope.ended:
            return
        for child in self.scopes.drop(scope, early=early):
            self._close(child, error, end_ns, early=True)
        if scope.opened is not None:
            _end_opened(scope.opened, error, end_ns)
            self._leave(scope)

    def _leave(self, scope: Scope) -> None:
        """Make current what was current before, unless something else became current since."""
        current = otel_context.get_current()
        ours = self._marked(current) is scope and scope.owns(current)
        if ours and scope.outer_context is not None:
            set_current_call(scope.outer_call, scope.outer_context)

    # Spans

    def _open_span(
        self,
        operation: str,
        target: str | None,
        context: Context,
        moment: Moment,
        attributes: Mapping[str, Any],
    ) -> OpenSpan:
        return self.recorder.span(
            operation, target, attributes=attributes, parent=context, start_ns=moment.at_ns
        )

    def _crew(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenSpan:
        scope.run_id = event.event_id
        name = convert.low_cardinality(event.crew_name)
        attributes = {semconv.WORKFLOW_NAME: name, semconv.RUN_ID: scope.run_id}
        return self._open_span(semconv.INVOKE_WORKFLOW, name, context, moment, attributes)

    def _flow(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenSpan | None:
        internal = getattr(source, "is_crewai_internal", False)
        if internal or getattr(source, "suppress_flow_events", False):
            return None
        scope.run_id = scope.run_id or event.event_id
        name = convert.low_cardinality(event.flow_name)
        attributes = {semconv.WORKFLOW_NAME: name, semconv.RUN_ID: scope.run_id}
        return self._open_span(semconv.INVOKE_WORKFLOW, name, context, moment, attributes)

    def _task(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenSpan:
        # A task's description is its prompt; only a given name is a name.
        scope.task = convert.low_cardinality(getattr(event.task, "name", None))
        agent = getattr(event.task, "agent", None)
        attributes = {
            semconv.TASK_NAME: scope.task,
            semconv.AGENT_NAME: _text(getattr(agent, "role", None)),
        }
        return self._open_span(semconv.EXECUTE_TASK, scope.task, context, moment, attributes)

    def _agent(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenSpan:
        info = getattr(event, "agent_info", None) or {}
        role = getattr(getattr(event, "agent", None), "role", None) or info.get("role")
        scope.role = _text(role)
        scope.run_id = scope.run_id or event.event_id
        target = convert.low_cardinality(scope.role)
        attributes = {semconv.AGENT_NAME: scope.role, semconv.TASK_NAME: scope.task}
        return self._open_span(semconv.INVOKE_AGENT, target, context, moment, attributes)

    def _tool(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenSpan:
        attributes = {
            semconv.TOOL_NAME: event.tool_name,
            semconv.TOOL_TYPE: "function",
            semconv.TOOL_CALL_ID: _take_asked(scope.parent, event.tool_name, event.tool_args),
            semconv.AGENT_NAME: scope.role,
        }
        if self.recorder.content_on_spans:
            attributes[semconv.TOOL_CALL_ARGUMENTS] = self._redacted(event.tool_args)
        name = convert.low_cardinality(event.tool_name)
        return self._open_span(semconv.EXECUTE_TOOL, name, context, moment, attributes)

    def _finish_tool(self, opened: OpenSpan, event: Any) -> None:
        if event.type != "tool_usage_finished":
            return
        if self.recorder.content_on_spans:
            opened.note(**{semconv.TOOL_CALL_RESULT: self._redacted(event.output)})
        failure = getattr(event, "failure", None)
        if failure is not None:
            reason = getattr(failure, "reason", None)
            opened.end(str(getattr(reason, "value", reason) or "tool_failure"))

    def _redacted(self, value: Any) -> str:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        return self.recorder.redaction.apply_to_text(text)

    # Model calls

    def _call(
        self, source: Any, event: Any, scope: Scope, context: Context, moment: Moment
    ) -> OpenCall:
        recorder = self._shadow if moment.covered and self.only is not None else self.recorder
        facts, attempt = facts_for(source), scope.boundary
        content = recorder.wants_content
        parent = scope.parent.nearest_visible() if scope.parent else None
        if facts is not None:
            facts.recorded = True
        opened: OpenCall = recorder.open(
            framework="crewai",
            provider=facts.provider if facts else convert.provider_of(source),
            model=event.model or getattr(source, "model", None),
            params=convert.params_of(event),
            messages=convert.messages_of(event.messages) if content else (),
            tools=convert.tools_of(event.tools) if content else (),
            response_format=facts.response_format if facts else None,
            stream=bool(event.stream),
            parent=context,
            start_ns=moment.at_ns,
            role=_text(event.agent_role) or scope.role,
            task=scope.task,
            run_id=scope.run_id,
            parent_id=_id_of(parent),
            attempt=attempt.number if isinstance(attempt, guards.Attempt) else 1,
            in_process=facts.in_process if facts else False,
        )
        return opened

    def _finish_call(
        self, call: OpenCall, scope: Scope, source: Any, event: Any, moment: Moment
    ) -> None:
        facts = facts_for(source)
        content = call.recorder.wants_content
        asked = convert.tool_calls_of(event.response)
        if scope.parent is not None:
            self._remember_asked(scope.parent.nearest_visible(), asked)
        if facts is not None:
            call.note(**facts.attributes)
            reply = facts.reply or Reply(Message("assistant"))
            usage = facts.usage
        else:
            reply = _reply(event, asked, content)
            usage = convert.usage_of(event.usage)
        call.finish(
            [reply],
            usage,
            response_model=facts.response_model if facts else None,
            response_id=event.response_id,
            end_ns=moment.at_ns,
        )

    def _remember_asked(self, scope: Scope | None, asked: tuple[ToolCall, ...]) -> None:
        if scope is not None and asked:
            scope.asked = list(asked)


def _outside(marked: Scope | None) -> Context | None:
    """The context around a whole ended run, for what still carries its mark."""
    outermost = None
    for outermost in marked.upwards() if marked else ():  # noqa: B007
        pass
    return outermost.outer_context if outermost else None


def _reply(event: Any, asked: tuple[ToolCall, ...], content: bool) -> Reply:
    executed = getattr(event.call_type, "value", None) == "tool_call" and not asked
    # The response of an executed call is the tool's result, not the model's text.
    response = None if executed else event.response
    reason = event.finish_reason or ("tool_call" if executed else None)
    return convert.reply_of(response, reason, with_content=content)


def _take_asked(parent: Scope | None, name: str, arguments: Any) -> str | None:
    scope = parent.nearest_visible() if parent else None
    if scope is None:
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


def _end_opened(opened: OpenSpan, error: BaseException | str | None, end_ns: int | None) -> None:
    given_up = isinstance(error, BaseException) and not _is_failure(error)
    if isinstance(opened, OpenCall):
        if error is None or given_up:
            opened.abandon(end_ns=end_ns)
        else:
            opened.fail(error, end_ns=end_ns)
    else:
        if given_up:
            opened.note(**{semconv.OUTCOME: "abandoned"})
        opened.end(None if given_up else error, end_ns=end_ns)


def _is_failure(error: BaseException) -> bool:
    """Cancellation, closed streams and interrupts are ends, not failures."""
    return isinstance(error, Exception) and not isinstance(error, CancelledGenerationError)


def _error_of(event: Any, moment: Moment) -> BaseException | str:
    """The exception behind a failed event: the active one, or what the event carries."""
    carried = getattr(event, "error", None)
    if isinstance(carried, BaseException):
        return carried
    active = sys.exc_info()[1] if moment.synchronous else None
    if active is not None:
        return active
    kind = getattr(event, "error_type", None)
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else _OTHER


def _id_of(parent: Scope | None) -> str | None:
    if parent is None:
        return None
    return str(parent.call.fields["call_id"]) if parent.call else parent.event_id


def _text(value: Any) -> str | None:
    text = str(value).strip() if value else ""
    return text or None


_Opener = Callable[[EventRecorder, Any, Any, Scope, Context, Moment], OpenSpan | None]
_OPENERS: dict[str, _Opener] = {
    "crew_kickoff_started": EventRecorder._crew,
    "flow_started": EventRecorder._flow,
    "task_started": EventRecorder._task,
    "agent_execution_started": EventRecorder._agent,
    "lite_agent_execution_started": EventRecorder._agent,
    "llm_call_started": EventRecorder._call,
    "tool_usage_started": EventRecorder._tool,
}
