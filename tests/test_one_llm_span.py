"""One LLM span per call, whatever instruments the provider's client or surrounds us.

The two with a real client run where langchain-openai and the instrumentation are installed; the
server is a fake on a loopback port, everything else is real.
"""

from __future__ import annotations

import importlib
import sys

import pytest
from fake_openai import fake_openai
from langchain_models import HostedChat
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from slm_adapters.calls import Message, Reply, Usage
from slm_adapters.langchain import CallRecorder
from slm_adapters.telemetry.recorder import Recorder, as_current_call

OPENLLMETRY = "suppress_language_model_instrumentation"
OFFICIAL = "opentelemetry.genai.client.inference.context"
#: (module, class): the official instrumentation of OpenAI's client, and OpenLLMetry's.
INSTRUMENTATIONS = {
    "official": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    "openllmetry": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
}


@pytest.fixture(params=INSTRUMENTATIONS)
def instrumented(request, spans):
    """OpenAI's client under one instrumentation, with spans and metrics of its own."""
    module, name = INSTRUMENTATIONS[request.param]
    pytest.importorskip("langchain_openai")
    pytest.importorskip(module)
    instrumentor = getattr(importlib.import_module(module), name)()
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    instrumentor.instrument(tracer_provider=spans.provider, meter_provider=meters)
    yield meters, reader
    instrumentor.uninstrument()


def llm_spans(spans) -> list:
    return [s for s in spans.all() if s.attributes.get("gen_ai.operation.name") == "chat"]


def token_points(reader) -> list:
    found = []
    for resource in (reader.get_metrics_data() or reader).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "gen_ai.client.token.usage":
                    found += metric.data.data_points
    return found


async def test_t16_an_instrumented_client_makes_no_second_span(spans, instrumented) -> None:
    """Sync, async, both kinds of stream: one span with the provider's facts, tokens once."""
    from langchain_openai import ChatOpenAI

    meters, reader = instrumented
    recorder = CallRecorder(tracer_provider=spans.provider, meter_provider=meters)
    using = {"callbacks": [recorder]}
    with fake_openai("It is done.") as server:
        model = ChatOpenAI(
            model="gpt-4o-mini", base_url=server.base_url, api_key="x", stream_usage=True
        )
        assert model.invoke("q", using).content == "It is done."
        assert (await model.ainvoke("q", using)).content == "It is done."
        assert "".join(c.text for c in model.stream("q", using)).strip() == "It is done."
        async for _ in model.astream("q", using):
            pass
    found = llm_spans(spans)
    assert len(found) == 4, [span.name for span in spans.all()]
    for span in found:
        assert span.instrumentation_scope.name == "slm_adapters"
        assert span.attributes["gen_ai.response.model"] == "fake-gpt-4o-mini"
        assert span.attributes["gen_ai.usage.input_tokens"] == 11
        assert span.attributes["gen_ai.usage.output_tokens"] == 3
    points = token_points(reader)
    assert sum(p.sum for p in points if p.attributes["gen_ai.token.type"] == "input") == 44


def test_t16_without_us_the_client_has_its_own_span(spans, instrumented) -> None:
    """The test above could not pass by accident."""
    from langchain_openai import ChatOpenAI

    with fake_openai("It is done.") as server:
        ChatOpenAI(model="gpt-4o-mini", base_url=server.base_url, api_key="x").invoke("q")
    assert len(spans.all()) == 1
    assert spans.all()[0].instrumentation_scope.name != "slm_adapters"


def test_t16_the_keys_are_set_inside_a_call_and_nowhere_else(spans) -> None:
    """What inner instrumentations look for; ``suppress_instrumentation`` would silence HTTP."""
    seen = []

    class Looking(HostedChat):
        def _generate(self, *args, **kwargs):
            seen.append(dict(otel_context.get_current()))
            return super()._generate(*args, **kwargs)

    Looking().invoke("q", {"callbacks": [CallRecorder(tracer_provider=spans.provider)]})
    assert seen[0][OPENLLMETRY] is True
    assert "suppress_instrumentation" not in seen[0]
    assert OPENLLMETRY not in otel_context.get_current()


class InferenceData:
    """Stands in for util-genai's, which is not always installed; same names."""

    def __init__(self) -> None:
        self.response_model = self.response_id = self.server_address = self.server_port = None
        self.usage_input_tokens = self.usage_output_tokens = None
        self.usage_cache_read_input_tokens = self.usage_cache_write_input_tokens = None
        self.usage_reasoning_output_tokens = None


def test_t16_what_an_inner_instrumentation_learned_fills_our_gaps(spans, monkeypatch) -> None:
    """Server, model and tokens the framework does not pass on; what it does pass on wins."""
    util = type(sys)("opentelemetry.util.genai.invocation")
    util.InferenceData = InferenceData
    monkeypatch.setitem(sys.modules, "opentelemetry.util.genai.invocation", util)
    recorder = Recorder(tracer_provider=spans.provider)
    call = recorder.open(framework="test", model="m")
    with as_current_call(call):
        data = otel_context.get_current()[OFFICIAL]
        data.response_model, data.response_id = "inner-model", "inner-id"
        data.server_address, data.server_port = "api.example.com", 443
        data.usage_input_tokens, data.usage_output_tokens = 7, 2
    call.finish(response_model="outer-model")
    attributes = spans.one("chat m").attributes
    assert attributes["gen_ai.response.model"] == "outer-model"
    assert attributes["gen_ai.response.id"] == "inner-id"
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert (attributes["server.address"], attributes["server.port"]) == ("api.example.com", 443)


@pytest.mark.parametrize("key", [OPENLLMETRY, OFFICIAL, "suppress_instrumentation"])
def test_t16_a_span_somebody_else_has_is_not_made_again(spans, key) -> None:
    """Around us: no span, no metrics; the record is kept and carries the outer span's ids."""
    reader = InMemoryMetricReader()
    calls, data = [], InferenceData()
    recorder = Recorder(
        tracer_provider=spans.provider, meter_provider=MeterProvider([reader]), hooks=[calls.append]
    )
    with TracerProvider().get_tracer("outer").start_as_current_span("chat outer") as outer:
        token = otel_context.attach(otel_context.set_value(key, data if key == OFFICIAL else True))
        call = recorder.open(framework="test", model="m", messages=[Message("user", "q")])
        with as_current_call(call):
            assert trace.get_current_span() is outer or not call.span.is_recording()
        reply = Reply(Message("assistant", "a"), "stop")
        call.finish([reply], Usage(5, 1), response_model="m-1")
        otel_context.detach(token)
    assert spans.all() == []
    assert reader.get_metrics_data() is None
    assert calls[0].span_id == f"{outer.get_span_context().span_id:016x}"
    assert calls[0].replies == (reply,)
    if key == OFFICIAL:
        assert (data.response_model, data.usage_input_tokens) == ("m-1", 5)


def test_t16_a_call_inside_a_call_of_ours_is_another_one(spans) -> None:
    """A fallback's call, a router's: the keys are ours there, and both spans are true."""
    recorder = Recorder(tracer_provider=spans.provider)
    outer = recorder.open(framework="test", model="outer")
    with as_current_call(outer):
        recorder.open(framework="test", model="inner").finish()
    outer.finish()
    assert spans.tree() == [("chat inner", "chat outer"), ("chat outer", None)]
