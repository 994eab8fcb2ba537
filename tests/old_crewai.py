"""CrewAI's old way: the event listeners one writes first, for the tests that show their traps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.agent_events import (
    AgentExecutionCompletedEvent,
    AgentExecutionStartedEvent,
)
from crewai.events.types.crew_events import CrewKickoffCompletedEvent, CrewKickoffStartedEvent
from crewai.events.types.llm_events import (
    LLMCallCompletedEvent,
    LLMCallFailedEvent,
    LLMCallStartedEvent,
)
from crewai.events.types.task_events import TaskCompletedEvent, TaskStartedEvent
from crewai.events.types.tool_usage_events import ToolUsageFinishedEvent, ToolUsageStartedEvent
from opentelemetry.context import Context
from opentelemetry.trace import StatusCode, set_span_in_context


class PlainListener:
    """A span per started event, ended by its completed or failed event.

    ``slow`` delays its started handlers, as a busy process does; ``redact`` is asked for what
    goes on the span.
    """

    def __init__(self, provider: Any, redact: Callable[[str], str] = str) -> None:
        self.tracer, self.redact = provider.get_tracer("plain"), redact
        self.slow = 0.0
        self.open: dict[str, Any] = {}
        self.lost: list[str] = []
        for kind in (LLMCallStartedEvent, CrewKickoffStartedEvent):
            crewai_event_bus.on(kind)(self.started)
        for kind in (LLMCallCompletedEvent, LLMCallFailedEvent, CrewKickoffCompletedEvent):
            crewai_event_bus.on(kind)(self.ended)

    def started(self, source: Any, event: Any) -> None:
        time.sleep(self.slow)
        name = "chat" if event.type.startswith("llm") else "crew"
        asked = self.redact(getattr(event, "messages", None) or "")
        span = self.tracer.start_span(name, attributes={"input": asked})
        self.open[getattr(event, "call_id", None) or str(id(source))] = span

    def ended(self, source: Any, event: Any) -> None:
        span = self.open.pop(getattr(event, "call_id", None) or str(id(source)), None)
        if span is None:
            self.lost.append(event.type)
            return
        if event.type.endswith("_failed"):
            span.set_status(StatusCode.ERROR, event.error)
        span.end()


class NestingListener:
    """Crew, task, agent, tool and call as a tree; a span's name is what the event tells of it."""

    def __init__(self, provider: Any) -> None:
        self.tracer = provider.get_tracer("nesting")
        self.open: dict[str, Any] = {}
        for kind in (CrewKickoffStartedEvent, TaskStartedEvent, AgentExecutionStartedEvent,
                     ToolUsageStartedEvent, LLMCallStartedEvent):  # fmt: skip
            crewai_event_bus.on(kind)(self.started)
        for kind in (CrewKickoffCompletedEvent, TaskCompletedEvent, AgentExecutionCompletedEvent,
                     ToolUsageFinishedEvent, LLMCallCompletedEvent):  # fmt: skip
            crewai_event_bus.on(kind)(self.ended)

    def started(self, source: Any, event: Any) -> None:
        parent = self.parent(event)
        context = set_span_in_context(parent) if parent is not None else Context()
        task = getattr(event, "task", None)
        name = f"task {task.description}" if task else event.type.removesuffix("_started")
        self.open[event.event_id] = self.tracer.start_span(name, context)

    def parent(self, event: Any) -> Any:
        """As CrewAI's event names it."""
        return self.open.get(event.parent_event_id)

    def ended(self, source: Any, event: Any) -> None:
        span = self.open.pop(event.started_event_id, None)
        if span is not None:
            span.end()


class StackListener(NestingListener):
    """The same; a parent is what was started last, as in a console that indents."""

    def parent(self, event: Any) -> Any:
        return next(reversed(self.open.values()), None)
