"""Traps of telemetry that no other file covers; all forty are listed in ``test_trap_table.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import litellm
import pytest
from conftest import InMemoryLogRecordExporter
from floor import bare_span, function_calls
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import StructuredTool
from langchain_models import HostedChat
from langgraph.graph import START, MessagesState, StateGraph
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import slm_adapters.litellm
from slm_adapters.calls import Message
from slm_adapters.langchain import CallRecorder
from slm_adapters.telemetry.recorder import Recorder

HERE = Path(__file__).parent


def fresh(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\nsys.path.insert(0, 'tests')\n" + program],
        capture_output=True, text=True, cwd=HERE.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_t21_usage_from_the_last_chunk_from_summed_chunks_and_absent(spans) -> None:
    """Others sum a running total twice, or write zeros when a stream reports nothing."""

    class Counting(HostedChat):
        counts: list

        def _stream(self, *args, **kwargs):
            for count in self.counts:
                yield ChatGenerationChunk(message=AIMessageChunk(content="x", usage_metadata=count))

    def count(inputs: int, outputs: int) -> dict:
        return {
            "input_tokens": inputs, "output_tokens": outputs, "total_tokens": inputs + outputs
        }  # fmt: skip

    recorder = CallRecorder(tracer_provider=spans.provider)
    for name, counts in {
        "last": [None, count(11, 3)],
        "summed": [count(11, 1), count(0, 2)],
        "absent": [None, None],
    }.items():
        list(Counting(model_name=name, counts=counts).stream("q", {"callbacks": [recorder]}))
    for name in ("last", "summed"):
        attributes = spans.one(f"chat {name}").attributes
        assert attributes["gen_ai.usage.input_tokens"] == 11
        assert attributes["gen_ai.usage.output_tokens"] == 3
    assert "gen_ai.usage.input_tokens" not in spans.one("chat absent").attributes


SECRET = "SECRET-4711"


@pytest.mark.parametrize("sampled", [True, False])
def test_t25_no_secret_in_any_span_metric_event_or_log(spans, caplog, sampled) -> None:
    """Content on by default, or in exception texts and log lines, is what most others do."""
    caplog.set_level(logging.DEBUG)
    provider = spans.provider if sampled else TracerProvider(sampler=ALWAYS_OFF)
    reader, logs = InMemoryMetricReader(), InMemoryLogRecordExporter()
    loggers = LoggerProvider()
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    providers = {
        "tracer_provider": provider,
        "meter_provider": MeterProvider([reader]),
        "logger_provider": loggers,
    }
    using = {"callbacks": [CallRecorder(**providers)]}
    HostedChat(replies=[SECRET]).invoke(SECRET, using)
    list(HostedChat(replies=[SECRET]).stream(SECRET, using))
    with pytest.raises(ValueError):
        HostedChat(replies=[ValueError(SECRET)]).invoke(SECRET, using)
    asking = AIMessage("", tool_calls=[{"name": "look_up", "args": {"q": SECRET}, "id": "c1"}])

    def look_up(q: str) -> str:
        """Look something up."""
        return SECRET

    create_agent(HostedChat(replies=[asking, SECRET]), [look_up]).invoke(
        {"messages": [("user", SECRET)]}, using
    )
    with slm_adapters.litellm.CallRecorder(**providers):
        for mock in (SECRET, ValueError(SECRET)):
            with contextlib.suppress(litellm.exceptions.InternalServerError):
                litellm.completion(
                    model="gpt-4o-mini",
                    messages=[{"role": "user", "content": SECRET}],
                    mock_response=mock,
                    api_key="x",
                )
        time.sleep(0.3)
    exported = "".join(span.to_json() for span in spans.all())
    assert exported.count("gen_ai.operation.name") == (9 if sampled else 0)
    exported += str(reader.get_metrics_data().to_json()) + str(logs.get_finished_logs())
    assert SECRET not in exported
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("slm_adapters")]
    assert SECRET not in "".join(ours)


def test_t27_images_bytes_and_models_on_a_span_are_valid_json(spans, monkeypatch) -> None:
    """Others copy base64 images into attributes until the collector answers 413."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    recorder = CallRecorder(tracer_provider=spans.provider)
    image = {"type": "image", "base64": "A" * 3_000_000, "mime_type": "image/png"}
    parts = [{"type": "text", "text": "what is this?"}, image, {"type": "odd", "x": b"\x00"}]
    HostedChat().invoke([("user", parts)], {"callbacks": [recorder]})
    text = spans.one("chat").attributes["gen_ai.input.messages"]
    (message,) = json.loads(text)
    assert message["parts"][0] == {"type": "text", "content": "what is this?"}
    assert [part["type"] for part in message["parts"]] == ["text", "image_url", "odd"]
    assert len(text) < 64_000


def test_t27_odd_arguments_cost_no_span(spans, monkeypatch) -> None:
    """Bytes and cycles in what a tool was, or is to be, called with."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    using = {"callbacks": [CallRecorder(tracer_provider=spans.provider)]}
    cycle: dict = {}
    cycle["self"] = cycle
    results = iter(odds := [{"x": b"\xff", "n": float("nan")}, cycle])
    tool = StructuredTool.from_function(lambda: next(results), name="f", description="f")
    for odd in odds:
        history = [AIMessage("", tool_calls=[{"name": "f", "args": odd, "id": "c1"}])]
        HostedChat().invoke(history, using)
        tool.invoke({}, using)
    for span in spans.named("chat"):
        text = span.attributes["gen_ai.input.messages"]
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(spans.named("chat")) == len(spans.named("execute_tool f")) == 2


@pytest.mark.parametrize(
    ("provider", "spans_worth"), [(None, 0.5), (TracerProvider(), 1.25)], ids=["without", "with"]
)
def test_t30_a_call_costs_little_with_and_without_a_provider(provider, spans_worth) -> None:
    """20 us an event without a provider and 50 with one are more than a bare span a call.

    Counted in function calls, which no busy machine changes.
    """
    recorder = Recorder(tracer_provider=provider)

    def one_call() -> None:
        recorder.open(framework="test", provider="p", model="m").finish()

    assert function_calls(one_call) < spans_worth * bare_span()


class Blocking(SpanExporter):
    """A backend that takes requests and never answers, or that raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.release = error, threading.Event()

    def export(self, spans):
        if self.error is not None:
            raise self.error
        self.release.wait(60)
        self.release.set()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.release.set()


@pytest.mark.parametrize("exporter", [Blocking(), Blocking(ConnectionError("down"))])
def test_t31_an_exporter_that_blocks_or_raises_costs_the_caller_nothing(exporter) -> None:
    """A span sent from the caller's thread would wait here until somebody lets it go."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=10))
    recorder = CallRecorder(tracer_provider=provider)
    for _ in range(50):
        assert HostedChat().invoke("q", {"callbacks": [recorder]}).content == "a hosted answer"
    assert not exporter.release.is_set(), "the calls waited for the exporter"
    exporter.release.set()
    provider.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_t33_a_forked_child_and_a_second_import_record_as_before() -> None:
    """Locks and tables that do not survive a fork would hang the child."""
    printed = fresh("""
import importlib, os
from langchain_core.tools import StructuredTool
from langchain_models import HostedChat
from langgraph.graph import START, MessagesState, StateGraph
import slm_adapters.langchain as ours
calls = []
ours.instrument(hooks=[calls.append])
HostedChat().invoke("q")
pid = os.fork()
if pid == 0:
    HostedChat().invoke("q")
    os._exit(0 if len(calls) == 2 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
importlib.reload(ours)
HostedChat().invoke("q")
ours.uninstrument()
HostedChat().invoke("q")
print(len(calls))
""")
    assert printed.strip() == "2"


@pytest.mark.parametrize("absent", ["crewai", "langchain_core", "litellm"])
def test_t36_each_framework_may_be_absent(absent) -> None:
    """A package that imports them all at the top fails here; so does one that swallows it."""
    printed = fresh(f"""
import importlib, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import slm_adapters
from slm_adapters import Recorder
Recorder().open(framework="test", model="m").finish()
for name in ("crewai", "langchain_core", "litellm"):
    ours = "slm_adapters." + name.removesuffix("_core")
    try:
        importlib.import_module(ours)
        print(name, "there")
    except ImportError as error:
        print(name, type(error).__name__)
""")
    said = dict(line.split() for line in printed.strip().splitlines())
    assert said.pop(absent) == "MissingExtraError"
    # CrewAI brings LiteLLM's users along, but neither needs the other to be importable.
    assert set(said.values()) == {"there"}


def test_t28_an_agent_that_works_for_hours_stays_open(spans, monkeypatch) -> None:
    """The clock moves four hours while a tool runs: nothing is ended by it, and no error made."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    using, open_then = {"callbacks": [recorder]}, []
    asking = AIMessage("", tool_calls=[{"name": "work", "args": {}, "id": "c1"}])
    real, wall = time.time_ns, time.time

    def work() -> str:
        """Take long."""
        monkeypatch.setattr(time, "time_ns", lambda: real() + 4 * 3600 * 10**9)
        monkeypatch.setattr(time, "time", lambda: wall() + 4 * 3600)
        HostedChat().invoke("another call, so that whatever watches the clock would notice", using)
        open_then.append(len(spans.named("invoke_agent")) + len(spans.named("execute_tool")))
        return "done"

    agent = create_agent(HostedChat(replies=[asking, "done"]), [work], name="desk")
    agent.invoke({"messages": [("user", "q")]}, using)
    assert open_then == [0]
    desk = spans.one("invoke_agent")
    assert desk.end_time - desk.start_time > 3600 * 10**9
    assert {span.status.status_code for span in spans.all()} == {StatusCode.UNSET}


def test_t39_usage_is_a_calls_own_never_a_lifetime_counter(spans) -> None:
    """Peers write a model object's running total on the second run's agent span."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    asking = AIMessage("", tool_calls=[{"name": "look_up", "args": {"q": "x"}, "id": "c1"}])

    def look_up(q: str) -> str:
        """Look something up."""
        return "found"

    agent = create_agent(HostedChat(replies=[asking, "done"]), [look_up], name="desk")
    for _ in range(2):
        agent.invoke({"messages": [("user", "q")]}, {"callbacks": [recorder]})
    chats = [s.attributes["gen_ai.usage.input_tokens"] for s in spans.named("chat")]
    agents = spans.named("invoke_agent")
    assert chats == [11, 11, 11, 11]
    for way, count in (("input", 22), ("output", 6)):
        assert [a.attributes[f"gen_ai.usage.{way}_tokens"] for a in agents] == [count, count]


def test_t39_a_graph_s_usage_is_the_sum_of_parallel_nodes_or_absent(spans) -> None:
    """A workflow's sum is exact across threads, and left off when one call has no count."""

    class Uncounted(HostedChat):
        def _next(self):
            return super()._next().model_copy(update={"usage_metadata": None})

    def graph(*models):
        built = StateGraph(MessagesState)
        for number, model in enumerate(models):
            built.add_node(f"n{number}", lambda s, m=model: {"messages": m.invoke("q")})
            built.add_edge(START, f"n{number}")
        return built.compile(name="fan")

    recorder = CallRecorder(tracer_provider=spans.provider)
    for last in (HostedChat(), Uncounted()):
        graph(HostedChat(), HostedChat(), last).invoke({"messages": []}, {"callbacks": [recorder]})
    sums = [s.attributes.get("slm_adapters.usage.input_tokens") for s in spans.named("invoke_wo")]
    assert sums == [33, None]


def test_t40_no_signal_handler_and_no_thread_that_keeps_a_program_alive() -> None:
    """In a fresh interpreter with both instrumented: handlers as before, daemons only."""
    fresh("""
import signal, threading
before = {s: signal.getsignal(s) for s in signal.valid_signals()}
import litellm
from langchain_core.tools import StructuredTool
from langchain_models import HostedChat
from langgraph.graph import START, MessagesState, StateGraph
import slm_adapters.langchain, slm_adapters.litellm
imported = {s: signal.getsignal(s) for s in signal.valid_signals()}
slm_adapters.langchain.instrument()
slm_adapters.litellm.instrument()
HostedChat().invoke("q")
assert {s: signal.getsignal(s) for s in signal.valid_signals()} == imported == before
others = [t for t in threading.enumerate() if t is not threading.main_thread()]
assert all(t.daemon for t in others), others
""")


async def test_t20_timeouts_never_leave_a_live_entry(spans) -> None:
    """``wait_for`` and ``asyncio.timeout`` one hundred times in one task."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    model, using = HostedChat(delay_s=5), {"callbacks": [recorder]}
    for number in range(100):
        with pytest.raises(TimeoutError):
            if number % 2:
                await asyncio.wait_for(model.ainvoke("q", using), 0.001)
            else:
                async with asyncio.timeout(0.001):
                    await model.ainvoke("q", using)
    assert recorder.open_runs == 0
    assert len(spans.named("chat")) == 100


def test_t26_a_redactor_that_returns_garbage_leaks_nothing_to_a_hook() -> None:
    """Returning strings, ``None`` or the wrong objects drops content like raising does."""
    for garbage in (lambda m: None, lambda m: ["text"], lambda m: 7, lambda m: 1 / 0):
        calls = []
        recorder = Recorder(redact=garbage, hooks=[calls.append])
        recorder.open(framework="test", model="m", messages=[Message("user", SECRET)]).finish()
        assert SECRET not in calls[0].to_json()
