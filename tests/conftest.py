"""Every test runs offline, without the frameworks' own telemetry, and leaves no span behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    CREWAI_TESTING="true",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    TOKENIZERS_PARALLELISM="false",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker has one core; more threads than cores make each other wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", None)

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

try:
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
except ImportError:  # its name before 1.39
    from opentelemetry.sdk._logs.export import InMemoryLogExporter as InMemoryLogRecordExporter

__all__ = ["InMemoryLogRecordExporter", "Spans", "all_dropped", "until"]


class Spans:
    """The finished spans of one test, with the questions tests ask."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, prefix: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name.startswith(prefix)]

    def one(self, prefix: str) -> ReadableSpan:
        found = self.named(prefix)
        assert len(found) == 1, f"{prefix}: {[span.name for span in self.all()]}"
        return found[0]

    def parent_name(self, span: ReadableSpan) -> str | None:
        ids = {s.context.span_id: s.name for s in self.all()}
        return ids.get(span.parent.span_id) if span.parent else None

    def tree(self) -> list[tuple[str, str | None]]:
        return [(span.name, self.parent_name(span)) for span in self.all()]


async def until(done: Callable[[], object], seconds: float = 30) -> None:
    """Let the loop run until ``done()``: on a busy machine no fixed sleep is long enough."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.002)


def all_dropped(recorder: Any, times: int = 100) -> None:
    """Collect garbage until no call of ``recorder`` is open, ``times`` at most."""
    for _ in range(times):
        gc.collect()
        if recorder.open_calls == 0:
            break
        time.sleep(0.02)


@pytest.fixture
def spans() -> Spans:
    """A private tracer provider: pass ``spans.provider`` to what is under test."""
    return Spans()


@pytest.fixture
def calls() -> list[Any]:
    """What a recorder with ``hooks=[calls.append]`` recorded."""
    return []


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach another host fails the test."""

    def refuse(self, address, *_):
        raise AssertionError(f"tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: refuse(None, host))


# CrewAI; the tests of other frameworks have recorders of their own


@pytest.fixture
def recorder(spans):
    """A recorder of crews on the test's spans; when it closes nothing is open."""
    from slm_adapters.crewai import CallRecorder

    with CallRecorder(tracer_provider=spans.provider) as made:
        yield made
        assert len(made._events.scopes) == 0, "something is still open"


@pytest.fixture
def events():
    """Every event that CrewAI emits in the test, in order."""
    from crewai.events.stream_context import add_stream_sink, reset_stream_sinks

    seen: list = []
    token = add_stream_sink(lambda source, event: seen.append(event))
    yield seen
    reset_stream_sinks(token)


@pytest.fixture
def old():
    """The old way's spans: a test puts the listener it needs on their provider."""
    from crewai.events.event_bus import crewai_event_bus

    with crewai_event_bus.scoped_handlers():
        yield Spans()


@pytest.fixture(autouse=True)
def _no_span_left_open():
    """The current span after a test is the one before it."""
    before = trace.get_current_span()
    yield
    assert trace.get_current_span() is before
