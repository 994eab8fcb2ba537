"""What the model calls and tools inside an agent or a workflow used, for its span and metrics."""

from __future__ import annotations

import threading

from ..messages import Usage
from ..telemetry import semconv
from ..telemetry.recorder import OpenSpan
from ..telemetry.spending import Spent
from .runs import Run

__all__ = ["called", "summed_up", "tool_used"]

_USAGE_NAMES = {
    semconv.INVOKE_AGENT: (semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS),
    semconv.INVOKE_WORKFLOW: (semconv.WORKFLOW_INPUT_TOKENS, semconv.WORKFLOW_OUTPUT_TOKENS),
}
# Nodes of one graph run on several threads.
_adding = threading.Lock()


def called(run: Run, usage: Usage | None) -> None:
    """A model call ended: its tokens go to every graph around it, the call to its own agent."""
    with _adding:
        counted = False
        for span in _graphs(run):
            spent = span.spent = span.spent or Spent()
            spent.add(usage)
            if not counted and span.operation == semconv.INVOKE_AGENT:
                spent.calls, counted = spent.calls + 1, True


def tool_used(run: Run) -> None:
    """A tool ended: it counts for the agent that used it."""
    with _adding:
        for span in _graphs(run):
            if span.operation == semconv.INVOKE_AGENT:
                spent = span.spent = span.spent or Spent()
                spent.tools += 1
                return


def summed_up(run: Run) -> None:
    """Write an ending graph's sums: tokens when all are known, and how much it called."""
    span = run.span
    names = _USAGE_NAMES.get(span.operation) if span is not None else None
    if span is None or names is None:
        return
    spent = span.spent
    if spent is not None and spent.exact and (spent.input or spent.output):
        span.note(**{names[0]: spent.input, names[1]: spent.output})
    if span.operation == semconv.INVOKE_AGENT and span.recorder.metrics.counts_agent_calls:
        spent = spent or Spent()
        name = run.name if semconv.may_be_a_label(run.name) else None
        span.recorder.metrics.agent_ended(name, spent.calls, spent.tools)


def _graphs(run: Run) -> list[OpenSpan]:
    """The agents and workflows around ``run``, the innermost first."""
    found, ancestor = [], run.parent
    while ancestor is not None:
        span = ancestor.span
        if span is not None and span.operation in _USAGE_NAMES:
            found.append(span)
        ancestor = ancestor.parent
    return found
