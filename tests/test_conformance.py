"""What we export, read back and held against the conventions: spans, metrics and events."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from types import SimpleNamespace
from typing import Any

import conformance
import crewai_cases
import litellm
import pytest
from crewai import Agent, Crew, Task
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_models import HostedChat, PlainLLM
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import slm_adapters.crewai
import slm_adapters.langchain
import slm_adapters.litellm
from slm_adapters.langchain import ChatSLM
from slm_adapters.telemetry.semconv import CAPTURE_CONTENT_VARIABLE
from slm_adapters.testing import ScriptedModel


def langchain_runs(providers: dict[str, Any]) -> None:
    """Answers, streams, failures, tools, retrieval, a plain LLM, a local model, an agent."""
    using = {"callbacks": [slm_adapters.langchain.CallRecorder(**providers)]}
    model = HostedChat()
    model.invoke("q", using, temperature=0.5, stop=["END"], max_tokens=9, top_k=3, seed=1, n=1)
    list(model.stream("q", using))
    closed = model.stream("q", using)
    next(closed)
    closed.close()
    with contextlib.suppress(ConnectionError):
        HostedChat(replies=[ConnectionError("down")]).invoke("q", using)
    PlainLLM().invoke("q", using)
    ChatSLM(ScriptedModel(["local"])).invoke("q", using)

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document("found")]

    Shelf().invoke("q", using)
    asking = AIMessage("", tool_calls=[{"name": "look_up", "args": {"q": "x"}, "id": "c1"}])

    def look_up(q: str) -> str:
        """Look something up."""
        return "found"

    agent = create_agent(HostedChat(replies=[asking, "done"]), [look_up], name="desk")
    agent.invoke({"messages": [("user", "q")]}, using)


def litellm_runs(providers: dict[str, Any]) -> None:
    """Answers, a stream, a failure, embeddings."""
    options = {
        "model": "gpt-4o-mini", "messages": [{"role": "user", "content": "q"}], "api_key": "x"
    }  # fmt: skip
    with slm_adapters.litellm.CallRecorder(**providers) as recorder:
        litellm.completion(**options, mock_response="an answer", temperature=0.5, max_tokens=9)
        list(litellm.completion(**options, mock_response="an answer", stream=True))
        with contextlib.suppress(Exception):
            litellm.completion(**options, mock_response=ValueError("down"))
        litellm.embedding(
            model="text-embedding-3-small", input=["q"], api_key="x", mock_response=[[0.1, 0.2]]
        )
        time.sleep(0.3)
        assert recorder.open_calls == 0


def crewai_runs(providers: dict[str, Any]) -> None:
    """A crew with a tool call, and a failing LLM."""
    with slm_adapters.crewai.CallRecorder(**providers):
        writer = Agent(
            role="Writer", goal="write", backstory="b", llm=crewai_cases.HostedLLM("done")
        )
        task = Task(name="write", description="d", expected_output="e", agent=writer)
        Crew(name="desk", agents=[writer], tasks=[task]).kickoff()
        with contextlib.suppress(ConnectionError):
            crewai_cases.HostedLLM(ConnectionError("down")).call("q")


@functools.cache
def exported() -> Any:
    """Everything the runs above export, content switched on everywhere."""
    spans, reader, logs = InMemorySpanExporter(), InMemoryMetricReader(), LogRecords()
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    providers = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider([reader]),
        "logger_provider": loggers,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CAPTURE_CONTENT_VARIABLE, "SPAN_AND_EVENT")
        langchain_runs(providers)
        litellm_runs(providers)
        crewai_runs(providers)
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    events = [item.log_record for item in logs.get_finished_logs()]
    return SimpleNamespace(spans=spans.get_finished_spans(), metrics=metrics, events=events)


LogRecords = InMemoryLogRecordExporter


def test_every_span_is_as_the_conventions_say() -> None:
    """Names, kinds, attribute names, types and levels, of every operation there is."""
    spans = exported().spans
    operations = {span.attributes["gen_ai.operation.name"] for span in spans}
    assert operations == set(conformance.SPANS)
    assert [fault for span in spans for fault in conformance.check_span(span)] == []


def test_every_metric_is_as_the_conventions_say() -> None:
    """Names, units, boundaries and labels; all seven are there."""
    metrics = exported().metrics
    assert {metric.name for metric in metrics} == set(conformance.METRICS)
    assert [fault for metric in metrics for fault in conformance.check_metric(metric)] == []


def test_every_event_and_message_is_as_the_conventions_say() -> None:
    """One event a model call, linked to its span; messages in the conventions' shape."""
    found = exported()
    calls = [s for s in found.spans if "gen_ai.provider.name" in s.attributes]
    inference = ("chat", "text_completion")
    calls = [s for s in calls if s.attributes["gen_ai.operation.name"] in inference]
    assert len(found.events) == len(calls)
    assert [fault for event in found.events for fault in conformance.check_event(event)] == []
    for span in calls:
        for key in ("gen_ai.input.messages", "gen_ai.output.messages"):
            if key in span.attributes:
                assert conformance.check_messages(json.loads(span.attributes[key])) == []


def test_the_checker_finds_what_is_wrong(spans) -> None:
    """A wrong name, kind, type and attribute, a missing one and a made-up status are found."""
    tracer = spans.provider.get_tracer("t")
    wrong = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": "11",
        "gen_ai.system": "openai",
        "error.type": "Boom",
    }
    tracer.start_span("call m", attributes=wrong).end()
    faults = " / ".join(conformance.check_span(spans.all()[0]))
    for said in (
        "the name is not 'chat m'", "kind", "gen_ai.provider.name is required", "is a str",
        "gen_ai.system is not of this operation", "error.type and the status disagree",
    ):  # fmt: skip
        assert said in faults
    assert conformance.check_messages([{"role": "user", "content": "x"}])


def test_the_report_names_every_operation() -> None:
    """``python tests/conformance.py`` prints this."""
    text = conformance.report(exported().spans)
    for operation in conformance.SPANS:
        assert f"## {operation}: " in text
    assert " 0 faults" in text
