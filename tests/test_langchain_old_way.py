"""LangChain's traps of counts, content and lifetimes: an ordinary handler shows them, ours passes.

Both ways are on the same calls. Nesting, ends and names are in ``test_old_ways.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from conftest import Spans
from fake_openai import fake_openai
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from old_langchain import Hosted, PlainHandler, TellingHandler
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode
from otlp_receiver import http_receiver

from slm_adapters import export_traces
from slm_adapters._langchain import runs
from slm_adapters.langchain import CallRecorder

SECRET = "SECRET-4711"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
def old() -> Spans:
    return Spans()


def both(old: Spans, spans: Spans, *handlers: Any, **ours: Any) -> dict[str, Any]:
    """The old way and ours on one call."""
    recorder = CallRecorder(tracer_provider=spans.provider, **ours)
    return {"callbacks": [*(handlers or (TellingHandler(old.provider),)), recorder]}


@pytest.mark.parametrize(
    "module", ["opentelemetry.instrumentation.genai.openai", "opentelemetry.instrumentation.openai"]
)
def test_t16_an_instrumented_client_makes_a_second_span(old, spans, module) -> None:
    """The handler's span and the client's: every token counted twice."""
    openai = pytest.importorskip("langchain_openai")
    instrumentor = pytest.importorskip(module).OpenAIInstrumentor()
    found = []
    for seen, handler in (
        (old, PlainHandler(old.provider)),
        (spans, CallRecorder(tracer_provider=spans.provider)),
    ):
        instrumentor.instrument(tracer_provider=seen.provider)
        try:
            with fake_openai() as server:
                model = openai.ChatOpenAI(model="gpt-4o", base_url=server.base_url, api_key="x")
                model.invoke("q", {"callbacks": [handler]})
        finally:
            instrumentor.uninstrument()
        found.append(len(seen.all()))
    assert found == [2, 1]


def test_t21_a_stream_has_zero_tokens(old, spans) -> None:
    """``llm_output`` has the usage of an answer, and nothing for a stream: a zero is made of it."""
    openai = pytest.importorskip("langchain_openai")
    using = both(old, spans)
    with fake_openai() as server:
        options = {"model": "gpt-4o", "base_url": server.base_url, "api_key": "x"}
        model = openai.ChatOpenAI(stream_usage=True, **options)
        model.invoke("q", using)
        list(model.stream("q", using))
    assert [span.attributes["input_tokens"] for span in old.all()] == [11, 0]
    ours = [span.attributes["gen_ai.usage.input_tokens"] for span in spans.named("chat")]
    assert ours == [11, 11]


def test_t22_the_v3_stream_has_no_first_chunk(old, spans) -> None:
    """Its events are no tokens; a handler of tokens hears nothing."""
    using = both(old, spans)
    list(Hosted().stream("q", using))
    assert Hosted().stream_events("q", using, version="v3").output.text == "a hosted answer"
    assert [span.attributes.get("first_chunk") for span in old.all()] == [True, None]
    name = "gen_ai.response.time_to_first_chunk"
    assert all(span.attributes[name] > 0 for span in spans.named("chat"))


def test_t24_two_choices_have_one_reason(old, spans) -> None:
    """``generations[0][0]`` is the first choice of the first prompt."""

    class TwoChoices(Hosted):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            made = [("a", "stop"), ("b", "length")]
            return ChatResult(
                generations=[
                    ChatGeneration(message=AIMessage(text), generation_info={"finish_reason": why})
                    for text, why in made
                ]
            )

    TwoChoices().invoke("q", both(old, spans), n=2)
    assert old.one("chat").attributes["finish_reasons"] == ("stop",)
    ours = spans.one("chat").attributes["gen_ai.response.finish_reasons"]
    assert ours == ("stop", "length")


def test_t25_content_and_exception_texts_are_exported(old, spans) -> None:
    """Prompt, reply, the exception's message and its traceback."""
    using = both(old, spans)
    Hosted(replies=[SECRET]).invoke(SECRET, using)
    with pytest.raises(ValueError):
        Hosted(replies=[ValueError(SECRET)]).invoke("q", using)
    assert all(SECRET in span.to_json() for span in old.all())
    assert len(old.all()) == len(spans.all()) == 2
    assert not any(SECRET in span.to_json() for span in spans.all())


@pytest.mark.parametrize("broken", [lambda m: 1 / 0, lambda m: [None]], ids=["raises", "garbage"])
def test_t26_a_redactor_that_fails_loses_the_call(old, spans, monkeypatch, broken) -> None:
    """The span is never opened; ours is, without its content."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    handler = TellingHandler(old.provider, redact=broken)
    using = both(old, spans, handler, redact=broken)
    assert Hosted(replies=["fine"]).invoke(SECRET, using).content == "fine"
    assert old.all() == []
    attributes = spans.one("chat").attributes
    assert attributes["gen_ai.usage.input_tokens"] == 11
    assert SECRET not in spans.one("chat").to_json()


def test_t27_long_content_is_cut_in_the_middle_of_its_json(old, spans, monkeypatch) -> None:
    """And what ``json.dumps`` does not know loses the call, or is no JSON."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    cycle: dict[str, Any] = {"type": "odd"}
    cycle["self"] = cycle
    using = both(old, spans)
    prompts = ["x" * 2_000_000, [{"type": "odd", "n": float("nan")}], [{"type": "b", "b": b"\0"}],
               [cycle]]  # fmt: skip
    for prompt in prompts:
        Hosted().invoke([HumanMessage(prompt)], using)
    cut, number = old.all()
    with pytest.raises(ValueError):
        json.loads(cut.attributes["input"])
    assert "NaN" in number.attributes["input"]
    assert len(spans.named("chat")) == 4
    for span in spans.named("chat"):
        text = span.attributes["gen_ai.input.messages"]
        (message,) = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name}: no JSON"))
        assert message["parts"]
        assert len(text) <= 64_000


def test_t28_a_sweeper_calls_a_long_run_an_error(old, spans, monkeypatch) -> None:
    """Five minutes are a usual limit on what is open; agents work longer."""

    class Sweeping(PlainHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            for run_id, span in list(self.open.items()):
                if time.time_ns() - span.start_time > 300 * 10**9:
                    span.set_status(StatusCode.ERROR, "timed out")
                    self.open.pop(run_id).end()
            super().on_chat_model_start(*args, **kwargs)

    using, real = both(old, spans, Sweeping(old.provider)), time.time_ns

    class Long(Hosted):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
            Hosted(model_name="quick").invoke("another call", using)
            return super()._generate(*args, **kwargs)

    Long(model_name="long").invoke("q", using)
    assert old.one("chat long").status.status_code is StatusCode.ERROR
    assert spans.one("chat long").status.status_code is StatusCode.UNSET


def test_t29_what_never_ends_is_kept_for_ever(old, spans, monkeypatch) -> None:
    """A run whose end is never told stays in the table."""
    monkeypatch.setattr(runs, "_LIMIT", 10)
    handler, recorder = PlainHandler(old.provider), CallRecorder(tracer_provider=spans.provider)
    owners = [uuid4() for _ in range(100)]
    for owner in owners:
        for way in (handler, recorder):
            way.on_chat_model_start(
                {}, [[HumanMessage("q")]], run_id=owner, invocation_params={"model_name": "m"}
            )
    assert len(handler.open) == 100
    assert recorder.open_runs == 10
    recorder.close()


def test_t31_a_span_is_sent_from_the_caller_s_thread(old, spans, monkeypatch) -> None:
    """The SDK's simplest processor sends before the call returns; ``export_traces`` does not."""
    threads: list[threading.Thread] = []

    class Noting(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            threads.append(threading.current_thread())
            return SpanExportResult.SUCCESS

    simple, batched = TracerProvider(), TracerProvider()
    simple.add_span_processor(SimpleSpanProcessor(Noting()))
    Hosted().invoke("q", {"callbacks": [PlainHandler(simple)]})
    monkeypatch.setattr(OTLPSpanExporter, "export", Noting.export)
    with http_receiver() as received, export_traces(received.endpoint, provider=batched):
        Hosted().invoke("q", {"callbacks": [CallRecorder(tracer_provider=batched)]})
    first, second = threads
    assert first is threading.current_thread()
    assert second is not threading.current_thread()


def test_t32_a_provider_made_global_refuses_the_user_s() -> None:
    """OpenTelemetry sets it once: a library that does so takes the program's spans."""
    program = """
import sys
sys.path.insert(0, "tests")
from conftest import Spans
from langchain_models import HostedChat
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import slm_adapters.langchain
if sys.argv[1] == "old":
    trace.set_tracer_provider(TracerProvider())
else:
    slm_adapters.langchain.instrument()
users = Spans()
trace.set_tracer_provider(users.provider)
HostedChat().invoke("q")
with trace.get_tracer("app").start_as_current_span("request"):
    pass
print([span.name for span in users.all()])
"""
    printed = []
    for way in ("old", "ours"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, way],
            capture_output=True, text=True, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.strip())
    assert printed == ["[]", "['chat hosted-1', 'request']"]
