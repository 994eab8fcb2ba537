"""LangChain's open runs: parents, the graphs among them, and runs whose owner vanished."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context

from ..telemetry import suppression
from ..telemetry.current import get_context
from ..telemetry.lifetimes import Lifetimes, Watched
from ..telemetry.recorder import OpenCall, OpenSpan
from .nesting import Guard, contexts

__all__ = ["ALL_NOTED", "Run", "Runs"]

_LIMIT = 10_000
#: See ``Run.chunks``.
ALL_NOTED = ""

#: The recorders of this process. Not a ``WeakSet``: every run asks how many there are.
_everyone: set[weakref.ref[Runs]] = set()
#: Per run and tracer provider, the recorder's run that came first.
_first: dict[tuple[int, int], Run] = {}


class Run(Watched):
    """One open LangChain run; most of them make no span. ``Runs.start`` fills it in.

    It is the weak reference to its id, which dies with the run's manager: that is how a run nobody
    reports on is noticed.
    """

    # No ``__init__``, slots for what every run has and class attributes for what few change: every
    # step of every chain makes one of these.
    __slots__ = (
        "__dict__", "__weakref__", "context", "metadata", "parent", "span", "started_ns", "table",
    )  # fmt: skip

    key: int
    table: Runs
    metadata: Mapping[str, Any]
    started_ns: int
    parent: Run | None
    #: Where the outermost run began; inner ones inherit from it.
    context: Context | None
    span: OpenSpan | None
    name: str | None = None
    #: The run around this one, if that was not reported to us. As a number: ids tell by dying
    #: that their run is lost.
    unseen_parent: int | None = None
    #: The same run in another recorder on the same provider, which heard of it first.
    leader: Run | None = None
    #: Another framework's call that this model run is the inside of; it has the span.
    outer: OpenCall | None = None
    #: Which callback reports this run's chunks, once one did; ``ALL_NOTED`` when none matter more.
    chunks: str | None = None
    #: The stream this run answers, if it does.
    guard: Guard | None = None
    _root_id: str | None = None

    @property
    def root_id(self) -> str:
        """The id of the outermost run, which all inside it share."""
        if self._root_id is None:
            if self.parent is not None:
                self._root_id = self.parent.root_id
            else:
                self._root_id = str(UUID(int=self.unseen_parent or self.key))
        return self._root_id

    def answers(self, guard: Guard) -> None:
        """This run is the step ``guard`` stands for; weak, as streams outlive their runs."""
        self.guard = guard
        guard.runs = (*guard.runs, weakref.ref(self))

    @property
    def is_dropped(self) -> bool:
        """Whether the consumer of this stream let go of it."""
        return self.guard is not None and self.guard.dropped_ns > 0

    def let_go(self, when_ns: int, error: BaseException | None = None) -> None:
        """End a run whose caller let go of it, if that did not happen yet."""
        self.table.lose(self, when_ns, error)

    def beside(self) -> OpenSpan | None:
        """The other recorder's span of this run: one span a run, whoever listens."""
        return self.leader.span if self.leader is not None else None

    def parent_context(self) -> Context | None:
        """The nearest ancestor's span; else the caller's; ``None`` for the current context."""
        ancestor = self.parent
        while ancestor is not None:
            if ancestor.span is not None:
                current = get_context()
                # The program may have a span of its own open in there.
                inside = suppression.is_inside(current, ancestor.span)
                return current if inside else ancestor.span.context
            if ancestor.context is not None:
                break
            ancestor = ancestor.parent
        if ancestor is None or trace.get_current_span().get_span_context().is_valid:
            return None
        # On a thread without context: the trace in which the whole chain was called.
        return ancestor.context

    def is_inside(self, outer: Run) -> bool:
        """Whether ``outer`` is an ancestor."""
        ancestor = self.parent
        while ancestor is not None and ancestor is not outer:
            ancestor = ancestor.parent
        return ancestor is outer


class Runs:
    """The live runs of one recorder, at most 10,000.

    Cancelling ``agenerate`` calls no handler, and neither does dropping some streams. A run's
    manager then dies, and with it the run's id object: that is how a lost run is noticed.
    """

    def __init__(
        self, on_lost: Callable[[Run, int, BaseException | None], None], provider: object = None
    ) -> None:
        self._provider = id(provider)
        self.live: dict[int, Run] = {}
        self._on_lost = on_lost
        self._lifetimes = Lifetimes(self._end_lost)
        # Every run asks for these two.
        self._lost, self._noticed = self._lifetimes.lost, self._lifetimes.noticed
        _everyone.add(weakref.ref(self, _everyone.discard))

    def __len__(self) -> int:
        self.settle()
        return len(self.live)

    def get(self, run_id: UUID) -> Run | None:
        """The open run with this id."""
        return self.live.get(run_id.int)

    def start(
        self,
        run_id: UUID,
        parent_id: UUID | None,
        name: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> Run | None:
        """Register a run that just started; ``None`` when it was reported before."""
        if self._lost:
            self.settle()
        key, live = run_id.int, self.live
        if key in live:
            return None
        run = Run(run_id, self._noticed)
        run.key, run.table, run.metadata = key, self, metadata or {}
        run.started_ns = time.time_ns()
        run.parent = run.context = run.span = None
        if name is not None:
            run.name = name
        if parent_id is not None:
            run.parent = live.get(parent_id.int)
        if run.parent is None:
            run.context = get_context()
            if parent_id is not None:
                run.unseen_parent = parent_id.int
        # Alone, nobody else can have heard of a run: handlers are chosen when it starts.
        if len(_everyone) > 1:
            first = _first.setdefault((key, self._provider), run)
            if first is not run:
                run.leader = first
        live[key] = run
        if len(live) > _LIMIT:
            self._evict()
        return run

    def take(self, key: int) -> Run | None:
        """Forget a run that ended, by its id's number; ``None`` when it is not open (any more)."""
        if self._lost:
            self.settle()
        run = self.live.pop(key, None)
        if run is None:
            return None
        if run.span is not None:
            contexts.pop(key, None)
        if _first and _first.get((key, self._provider)) is run:
            _first.pop((key, self._provider), None)
        return run

    def inside(self, outer: Run) -> list[Run]:
        """Take out every open descendant of ``outer``, innermost last."""
        found = [(key, run) for key, run in list(self.live.items()) if run.is_inside(outer)]
        return [run for key, run in found if self.take(key) is not None]

    def lose(self, run: Run, when_ns: int, error: BaseException | None) -> None:
        """End ``run`` if it is still open: nobody else will."""
        if self.live.get(run.key) is run and self.take(run.key) is run:
            self._on_lost(run, when_ns, error)

    def settle(self) -> None:
        """End the runs whose owner vanished, at the time it did."""
        self._lifetimes.settle()

    def close(self) -> None:
        """End everything still open."""
        self.settle()
        while self.live:
            self._evict()

    def _end_lost(self, key: Hashable, when_ns: int) -> None:
        run = self.take(key) if isinstance(key, int) else None
        if run is not None:
            self._on_lost(run, when_ns, None)

    def _evict(self) -> None:
        try:
            key = next(iter(self.live))
        except (RuntimeError, StopIteration):
            return
        run = self.take(key)
        if run is not None:
            self._on_lost(run, time.time_ns(), None)
