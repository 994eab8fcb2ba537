"""What we export, read back and held against the conventions: spans, metrics and events."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import conformance
import crewai_cases
import litellm
import pytest
from conftest import InMemoryLogRecordExporter
from crewai import Crew
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_models import HostedChat, PlainLLM
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import slm_adapters.crewai
import slm_adapters.langchain
import slm_adapters.litellm
from slm_adapters.calls import ToolCall
from slm_adapters.langchain import ChatSLM
from slm_adapters.telemetry.semconv import CAPTURE_CONTENT_VARIABLE, OPT_IN_VARIABLE
from slm_adapters.testing import ScriptedModel


class Caching(HostedChat):
    """A provider that says what its cache did and how long it thought."""

    def _next(self) -> AIMessage:
        message = super()._next()
        message.usage_metadata = message.usage_metadata | {
            "input_token_details": {"cache_read": 2, "cache_creation": 3},
            "output_token_details": {"reasoning": 1},
        }
        return message


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
    Caching().invoke("q", using)
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
            model="text-embedding-3-small", input=["q"], api_key="x", mock_response=[[0.1, 0.2]],
            dimensions=2, encoding_format="float",
        )  # fmt: skip
        time.sleep(0.3)
        assert recorder.open_calls == 0


def not_empty(output):
    """A guardrail of a task; CrewAI reads annotations, and these would be strings."""
    return bool(output.raw), output


def crewai_runs(providers: dict[str, Any], folder: Path) -> None:
    """A planned crew with a tool, a guardrail, memory and knowledge; a failing LLM."""
    from crewai.memory.unified_memory import Memory

    with slm_adapters.crewai.CallRecorder(**providers):
        asking = [ToolCall("c1", "look_up", '{"word": "x"}').to_openai()]
        llm = crewai_cases.HostedLLM(asking, "done")
        writer = crewai_cases.agent(llm, tools=[crewai_cases.tool()])
        task = crewai_cases.task(writer, guardrail=not_empty)
        Crew(name="desk", agents=[writer], tasks=[task]).kickoff()
        planner = crewai_cases.HostedLLM(
            '{"list_of_plans_per_task": [{"task_number": 1, "task": "find", "plan": "look"}]}'
        )
        other = crewai_cases.agent(crewai_cases.HostedLLM("done"))
        Crew(
            name="desk", agents=[other], tasks=[crewai_cases.task(other)],
            planning=True, planning_llm=planner,
        ).kickoff()  # fmt: skip
        kept = Memory(
            llm=crewai_cases.HostedLLM("[]"),
            storage=str(folder),
            embedder=lambda texts: [[0.1, 0.2] for _ in texts],
        )
        kept.remember("It is blue.", scope="/", categories=["a"], importance=0.5)
        kept.recall("colour", depth="shallow")
        with contextlib.suppress(ConnectionError):
            crewai_cases.HostedLLM(ConnectionError("down")).call("q")


@functools.cache
def exported(generation: str) -> Any:
    """Everything the runs above export, content switched on everywhere."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, loggers, logs = TracerProvider(), LoggerProvider(), InMemoryLogRecordExporter()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    providers = {
        "tracer_provider": tracers,
        "meter_provider": MeterProvider([reader]),
        "logger_provider": loggers,
    }
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv(CAPTURE_CONTENT_VARIABLE, "SPAN_AND_EVENT")
        patch.setenv(OPT_IN_VARIABLE, "gen_ai_latest_experimental" * (generation == "latest"))
        langchain_runs(providers)
        litellm_runs(providers)
        crewai_runs(providers, Path(folder))
    data = reader.get_metrics_data()
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
    events = [item.log_record for item in logs.get_finished_logs()]
    return SimpleNamespace(spans=spans.get_finished_spans(), metrics=metrics, events=events)


GENERATIONS = ["1.41", "latest"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_span_is_as_the_conventions_say(generation) -> None:
    """Names, kinds, attribute names, types and levels, of every operation there is."""
    spans = exported(generation).spans
    operations = {span.attributes["gen_ai.operation.name"] for span in spans}
    assert operations == set(conformance.SPANS[generation])
    assert [f for span in spans for f in conformance.check_span(span, generation)] == []


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_metric_is_as_the_conventions_say(generation) -> None:
    """Names, units, boundaries and labels; every instrument of the generation is there."""
    metrics = exported(generation).metrics
    assert {metric.name for metric in metrics} == set(conformance.METRICS[generation])
    assert [f for metric in metrics for f in conformance.check_metric(metric, generation)] == []


def test_an_agent_s_provider_and_what_a_cache_took_go_by_generation() -> None:
    """1.41 requires an agent's provider and says creation; later ones neither."""
    for generation in GENERATIONS:
        spans = exported(generation).spans
        agents = {s.context.span_id: s for s in spans if s.name.startswith("invoke_agent")}
        inner = [s for s in spans if s.parent and s.parent.span_id in agents]
        asked = {s.parent.span_id: s.attributes["gen_ai.provider.name"] for s in inner
                 if s.name.startswith("chat")}  # fmt: skip
        said = {key: a.attributes.get("gen_ai.provider.name") for key, a in agents.items()}
        assert set(asked.values()) == {"openai", "anthropic"}
        assert said == (asked if generation == "1.41" else dict.fromkeys(asked))
        word = "cache_creation" if generation == "1.41" else "cache_write"
        written = [s for s in spans if f"gen_ai.usage.{word}.input_tokens" in s.attributes]
        assert [s.attributes[f"gen_ai.usage.{word}.input_tokens"] for s in written] == [3]


def test_every_event_and_message_is_as_the_conventions_say() -> None:
    """One event a model call, linked to its span; messages in the conventions' shape."""
    found = exported("latest")
    inference = ("chat", "text_completion")
    calls = [s for s in found.spans if s.attributes["gen_ai.operation.name"] in inference]
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


def test_the_command_prints_every_operation_and_fails_on_a_fault(monkeypatch, capsys) -> None:
    """``python tests/conformance.py`` does this in an interpreter of its own."""
    assert conformance.main() == 0
    text = capsys.readouterr().out
    for operation in conformance.SPANS["1.41"]:
        assert f"## {operation}" in text
    assert "faults in all" in text
    assert "wrong:" not in text
    monkeypatch.setitem(conformance.SPANS["latest"], "retrieval", {})
    monkeypatch.setitem(
        conformance.METRICS["1.41"], "gen_ai.client.token.usage", ("{token}", (1.0,), set())
    )
    assert conformance.main() == 1
    text = capsys.readouterr().out
    assert "wrong: retrieval Shelf: gen_ai.data_source.id is not of this operation" in text
    assert "wrong: gen_ai.client.token.usage: bucket boundaries" in text
