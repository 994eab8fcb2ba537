"""The open events of CrewAI runs as a tree: who is inside whom, what is still open.

CrewAI's own internal flows are in the tree but make no span: what is inside them belongs to the
nearest visible scope above.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context

from ..messages import ToolCall, Usage
from ..telemetry.recorder import OpenCall, OpenSpan
from ..telemetry.spending import Spent
from . import guards
from .tables import ENDS

__all__ = ["AGENTS", "LIVE_LIMIT", "Scope", "Scopes"]

#: Events that start an agent.
AGENTS = ("agent_execution_started", "lite_agent_execution_started")

#: Open scopes kept at most; the oldest is ended when there are more.
LIVE_LIMIT = 10_000
_EARLY_LIMIT = 1_000


class Scope:
    """One started event; ``opened`` is its span, or None when it is invisible."""

    __slots__ = (
        "asked", "boundary", "call", "call_id", "children", "context", "ended", "event_id",
        "failure", "guessed", "kind", "opened", "outer_context", "parent", "role", "run_id",
        "source_id", "spent", "task",
    )  # fmt: skip

    def __init__(self, kind: str, event: Any, source: Any, parent: Scope | None) -> None:
        self.event_id: str = event.event_id
        self.kind = kind
        # An absent field of a pydantic model is slow to ask for.
        self.call_id: str | None = event.call_id if kind == "llm_call_started" else None
        self.source_id = id(source)
        self.boundary = guards.current_boundary()
        self.parent = parent
        self.children: dict[str, Scope] = {}
        self.opened: OpenSpan | None = None
        #: ``opened`` again, if it is a model call.
        self.call: OpenCall | None = None
        self.context: Context | None = None
        self.outer_context: Context | None = None
        self.ended = False
        #: Whether we speak for this call; one that speaks for itself inside takes it over.
        self.guessed = False
        #: Inherited downwards.
        self.role: str | None = parent.role if parent else None
        self.task: str | None = parent.task if parent else None
        self.run_id: str | None = parent.run_id if parent else None
        #: Tool calls the model last asked for here, not yet seen as tool events.
        self.asked: list[ToolCall] = []
        #: An ``error.type`` that something inside reported and this scope's own end may not.
        self.failure: str | None = None
        self.spent: Spent | None = None

    def let_go(self) -> None:
        """Drop what an ended scope, kept for its place in the tree, no longer needs."""
        self.opened = self.boundary = self.call = None

    def upwards(self) -> Iterator[Scope]:
        """This scope and those around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def nearest_open(self) -> Scope | None:
        """This scope or the first one around it that is still open."""
        scope: Scope | None = self
        while scope is not None and scope.ended:
            scope = scope.parent
        return scope

    def nearest_visible(self) -> Scope | None:
        """This scope or the first one around it that is open and has a span."""
        scope: Scope | None = self
        while scope is not None and (scope.ended or scope.opened is None):
            scope = scope.parent
        return scope

    def is_inside(self, other: Scope) -> bool:
        scope: Scope | None = self
        while scope is not None and scope is not other:
            scope = scope.parent
        return scope is not None

    def owns(self, context: Context) -> bool:
        """Whether this scope's span is the current one in ``context``."""
        return self.opened is not None and trace.get_current_span(context) is self.opened.span


class Scopes:
    """The scopes of one recorder. Thread-safe; bounded by count, never by time."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._live: OrderedDict[str, Scope] = OrderedDict()
        self._calls: dict[str, Scope] = {}
        # Scopes that ended without their event: CrewAI may still name them as a parent.
        self._early: OrderedDict[str, Scope] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, scope: Scope) -> Scope | None:
        """Keep ``scope``; returns one that must be ended to make room."""
        with self._lock:
            self._live[scope.event_id] = scope
            if scope.call_id is not None:
                self._calls[scope.call_id] = scope
            if scope.parent is not None:
                scope.parent.children[scope.event_id] = scope
            if len(self._live) > LIVE_LIMIT:
                return next(iter(self._live.values()))
        return None

    def drop(self, scope: Scope, *, early: bool) -> Sequence[Scope]:
        """Forget ``scope``, but for ``early`` ones its place; returns its open children."""
        with self._lock:
            scope.ended = True
            self._live.pop(scope.event_id, None)
            if scope.call_id is not None:
                self._calls.pop(scope.call_id, None)
            if scope.parent is not None:
                scope.parent.children.pop(scope.event_id, None)
            if early:
                self._early[scope.event_id] = scope
                if len(self._early) > _EARLY_LIMIT:
                    self._early.popitem(last=False)
            return tuple(scope.children.values()) if scope.children else ()

    def get(self, event_id: str | None) -> Scope | None:
        """The scope a started event opened, also when it ended without its event."""
        if event_id is None:
            return None
        return self._live.get(event_id) or self._early.get(event_id)

    def spend(self, call: Scope, usage: Usage | None, *, inside: bool = False) -> None:
        """Add a call's usage to all around it (``inside``: to ``call`` too); None: not known."""
        with self._lock:
            scope = call if inside else call.parent
            while scope is not None:
                if scope.spent is None:
                    scope.spent = Spent()
                scope.spent.add(usage)
                scope = scope.parent

    def count(self, inside: Scope | None, *, tool: bool) -> None:
        """Add a tool or model call to the agent that made it."""
        agent = inside
        while agent is not None and agent.kind not in AGENTS:
            agent = agent.parent
        if agent is None:
            return
        with self._lock:
            if agent.spent is None:
                agent.spent = Spent()
            agent.spent.tools += tool
            agent.spent.calls += not tool

    def open_now(self) -> list[Scope]:
        """Every open scope, oldest first."""
        with self._lock:
            return list(self._live.values())

    def call(self, call_id: str) -> Scope | None:
        """The open model call with that id."""
        return self._calls.get(call_id)

    def ended_by(self, kind: str, event: Any, source: Any, marked: Scope | None) -> Scope | None:
        """The scope an end event belongs to.

        CrewAI pairs ends with whatever is on top of its stack, which is another scope after a
        start that never ended: the kind of event decides, searched outwards.
        """
        started = ENDS.get(kind)
        if started == "llm_call_started":
            return self._ended_call(event, source, marked)
        for start in (self.get(event.started_event_id), marked):
            found = _matching(start, started, id(source))
            if found is not None:
                return found
        return None

    def _ended_call(self, event: Any, source: Any, marked: Scope | None) -> Scope | None:
        named = self._live.get(event.started_event_id or "")
        if named is not None and named.call_id == event.call_id:
            return named
        found = self.call(event.call_id)
        if found is not None:
            return found
        # A class that calls no llm_call_context() invents an id per event.
        for start in (named, marked):
            found = _matching(start, "llm_call_started", id(source))
            if found is not None:
                return found
        return None


def _matching(start: Scope | None, kind: str | None, source_id: int) -> Scope | None:
    if start is None:
        return None
    if start.kind == kind and start.source_id == source_id and not start.ended:
        return start
    same_kind = [s for s in start.upwards() if s.kind == kind and not s.ended]
    same_source = (scope for scope in same_kind if scope.source_id == source_id)
    return next(same_source, same_kind[0] if same_kind else None)
