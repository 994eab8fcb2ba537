"""CrewAI's events to spans and calls: the sink of one recorder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from ..telemetry import semconv
from ..telemetry.current import get_context, set_context
from ..telemetry.harmless import harmless
from ..telemetry.recorder import OpenCall, OpenSpan, Recorder
from ..telemetry.spending import Spent
from . import bus, convert, guards, spans, steps
from .bus import Moment
from .scopes import AGENTS, Scope, Scopes
from .starts import Start
from .tables import ENDS, FAILED, HUMAN, STARTS, THOUGHT
from .untold import Asked

__all__ = ["EventRecorder"]


class EventRecorder:
    """Turns events into spans of ``recorder``; ``only`` limits it to some models' calls.

    Where another recorder makes the same spans in the same place, only the hooks are told.
    """

    def __init__(self, recorder: Recorder, only: Callable[[Any], bool] | None = None) -> None:
        self.recorder, self.only, self._shadow = recorder, only, recorder.shadow()
        self.sees_everything = only is None
        self.scopes = Scopes()
        self._key = otel_context.create_key("slm-adapters-crewai-scope")

    @property
    def destination(self) -> Any:
        return self.recorder.tracer_provider or trace.get_tracer_provider()

    # Events

    def see(self, source: Any, event: Any, moment: Moment) -> None:
        """One event, on the thread and in the context that emitted it."""
        kind = event.type
        if kind in STARTS:
            if self.only is None or (kind == "llm_call_started" and self.only(source)):
                self._start(kind, source, event, moment)
        elif kind in ENDS:
            self._end(kind, source, event, moment)
        elif kind in HUMAN:
            self._point(self._parent(event, self._marked(moment.ambient)), HUMAN[kind])
        else:
            self._chunk(kind, event)

    def _start(self, kind: str, source: Any, event: Any, moment: Moment) -> None:
        marked = self._marked(moment.ambient)
        scope = Scope(kind, event, source, self._parent(event, marked))
        if scope.parent is not None and scope.parent.guessed and kind == "llm_call_started":
            self._hand_over(scope.parent, scope, event, source)
            return
        opener = spans.OPENERS.get(kind)
        if opener is not None:
            recorder, context = self.recorder, self._context_for(scope.parent, marked, moment)
            if bus.covered(self):
                # The span that stands for this one too is current by now: same ids in the record.
                recorder = self._shadow
                context = get_context() if moment.synchronous else context
            scope.opened = opener(Start(recorder, source, event, scope, context, moment.at_ns))
            if isinstance(scope.opened, OpenCall):
                scope.call, scope.guessed = scope.opened, type(event) is Asked
        evicted = self.scopes.add(scope)
        if scope.opened is not None:
            self._enter(scope, scope.opened, moment)
        if evicted is not None:
            self._close(evicted, None, moment.at_ns, early=True)

    def _hand_over(self, wrapper: Scope, scope: Scope, event: Any, source: Any) -> None:
        """The LLM that spoke first asks another one: it is that one's call."""
        call, outer = wrapper.call, wrapper.outer_context
        wrapper.guessed, wrapper.opened, wrapper.call = False, None, None
        if call is None or outer is None:
            return
        scope.opened = scope.call = call
        scope.context, scope.outer_context = wrapper.context, outer
        spans.retell(call, Start(call.recorder, source, event, scope, outer, call.started_ns))
        scope.guessed = type(event) is Asked
        self.scopes.add(scope)

    def _end(self, kind: str, source: Any, event: Any, moment: Moment) -> None:
        scope = self.scopes.ended_by(kind, event, source, self._marked(moment.ambient))
        if scope is None:
            return
        error = spans.error_of(event, moment) if kind in FAILED else None
        if scope.call is not None and error is None:
            _remember(scope.parent, event.response)
            self.scopes.spend(scope, spans.finish_call(scope.call, source, event, moment.at_ns))
        elif error is None:
            finisher = steps.FINISHERS.get(kind)
            if finisher is not None and scope.opened is not None:
                error = finisher(self.recorder, scope, scope.opened, event)
        elif scope.opened is None:
            steps.failed_inside(scope, error)
        self._close(scope, error, moment.at_ns)
        if kind == "knowledge_query_failed":
            self._close_search(scope.parent, moment)

    def _close_search(self, search: Scope | None, moment: Moment) -> None:
        """Without a query CrewAI searches nothing, and never says that the search is over."""
        if search is not None and search.kind == "knowledge_search_query_started":
            self._close(search, None, moment.at_ns, early=True)

    def _chunk(self, kind: str, event: Any) -> None:
        scope = self.scopes.call(event.call_id)
        if scope is not None and scope.call is not None:
            # A thought and a tool call's arguments are no text of the reply.
            is_text = kind != THOUGHT and not event.tool_call
            scope.call.chunk(event.chunk if is_text else None)

    # What has no event

    def unwind(self, boundary: guards.Boundary, error: BaseException) -> None:
        """An exception left a model call or a crew: end what that opened."""
        for scope in reversed(self.scopes.open_now()):
            if scope.boundary is boundary:
                self._close(scope, error, None, early=True)

    def human(self, what: str) -> None:
        """A person was asked, or answered, for the agent that runs here."""
        self._point(self._marked(get_context()), what)

    def _point(self, scope: Scope | None, what: str) -> None:
        visible = scope.nearest_visible() if scope else None
        if visible is not None and visible.opened is not None:
            visible.opened.span.add_event(f"{semconv.HUMAN_INPUT}.{what}")

    @harmless("closing a recorder")
    def close(self) -> None:
        """End every span still open."""
        for scope in reversed(self.scopes.open_now()):
            self._close(scope, None, None, early=True)

    # The tree

    def _marked(self, context: Context) -> Scope | None:
        scope: Any = context.get(self._key)
        return scope  # type: ignore[no-any-return]  # the key is this recorder's alone

    def _parent(self, event: Any, marked: Scope | None) -> Scope | None:
        named = event.parent_event_id
        if marked is not None and marked.event_id == named and not marked.ended:
            return marked
        recorded = self.scopes.get(named)
        recorded = recorded.nearest_open() if recorded else None
        current = marked.nearest_open() if marked else None
        if recorded is None or current is recorded:
            return current
        if current is not None and current.is_inside(recorded):
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

    def _enter(self, scope: Scope, opened: OpenSpan, moment: Moment) -> None:
        scope.outer_context = moment.ambient
        scope.context = opened.context = Context(opened.context, **{self._key: scope})
        if moment.leads:
            set_context(scope.context)
        elif moment.synchronous:
            set_context(otel_context.set_value(self._key, scope))

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
            if scope.call is None:
                spans.note_usage(scope)
            elif not scope.call.ended and not spans.counts_nothing(error):
                self.scopes.spend(scope, None)
            self._count(scope, scope.opened)
            if not scope.opened.ended:
                spans.end_opened(scope.opened, error, end_ns)
            self._leave(scope)
            scope.let_go()

    def _count(self, scope: Scope, opened: OpenSpan) -> None:
        if not self.recorder.metrics.counts_agent_calls:
            return
        if scope.kind in ("llm_call_started", "tool_usage_started"):
            self.scopes.count(scope.parent, tool=scope.kind == "tool_usage_started")
        elif scope.kind in AGENTS and opened.recorder is self.recorder:
            spent = scope.spent or Spent()
            name = scope.role if semconv.may_be_a_label(scope.role) else None
            self.recorder.metrics.agent_ended(name, spent.calls, spent.tools)

    def _leave(self, scope: Scope) -> None:
        """Make current what was current before, unless something else became current since."""
        current = get_context()
        if current is not scope.context and not (
            self._marked(current) is scope and scope.owns(current)
        ):
            return
        if scope.outer_context is not None:
            set_context(scope.outer_context)


def _remember(parent: Scope | None, response: Any) -> None:
    """Keep the tool calls a model asked for, for the tool events that follow."""
    asked = convert.tool_calls_of(response)
    scope = parent.nearest_visible() if parent and asked else None
    if scope is not None:
        scope.asked = list(asked)


def _outside(marked: Scope | None) -> Context | None:
    """The context around a whole ended run, for what still carries its mark."""
    outermost = None
    for outermost in marked.upwards() if marked else ():  # noqa: B007
        pass
    return outermost.outer_context if outermost else None
