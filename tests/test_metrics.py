"""Metrics: the conventions' names, units and buckets, in both profiles."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from slm_adapters import Recorder, Reply, Usage
from slm_adapters.calls import Message
from slm_adapters.telemetry import semconv

SECRET = "4111-1111-1111-1111"


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


def collected(reader: InMemoryMetricReader) -> dict[str, object]:
    data = reader.get_metrics_data()
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def use(recorder: Recorder) -> None:
    """A streamed call, a failed one, and one span of each other kind."""
    call = recorder.open(
        framework="x",
        provider="openai",
        model="m",
        messages=[Message("user", SECRET)],
        streamed=True,
    )
    for _ in range(3):
        call.chunk(SECRET)
    usage = Usage(100, 20, cached_tokens=64, reasoning_tokens=5)
    call.finish([Reply(Message("assistant", SECRET), "stop")], usage, response_model="m-1")
    recorder.open(framework="x", provider="openai", model="m").fail(ValueError(SECRET))
    recorder.span(semconv.INVOKE_AGENT, "Triage", attributes={semconv.AGENT_NAME: "Triage"}).end()
    recorder.span(semconv.EXECUTE_TOOL, "look", attributes={semconv.TOOL_NAME: "look"}).end("Boom")
    recorder.span(semconv.INVOKE_WORKFLOW, "desk").end()
    recorder.span(semconv.EXECUTE_TASK, "sort").end()


def test_the_default_profile_is_what_official_packages_emit(spans, reader) -> None:
    """Names, units, buckets, label sets and values of the 1.41 generation."""
    provider = MeterProvider([reader])
    use(Recorder(tracer_provider=spans.provider, meter_provider=provider))
    found = collected(reader)
    assert set(found) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
        "gen_ai.client.token.usage",
        "gen_ai.invoke_agent.duration",
        "gen_ai.execute_tool.duration",
        "gen_ai.invoke_workflow.duration",
    }
    duration = found["gen_ai.client.operation.duration"]
    assert duration.unit == "s"
    points = {p.attributes.get("error.type"): p for p in duration.data.data_points}
    assert dict(points[None].attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-1",
    }
    assert points["ValueError"].count == 1
    assert points[None].explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert points[None].explicit_bounds[-1] == pytest.approx(81.92)
    span = next(s for s in spans.named("chat") if s.status.is_unset)
    assert points[None].sum == pytest.approx((span.end_time - span.start_time) / 1e9)
    tokens = {
        p.attributes["gen_ai.token.type"]: p.sum
        for p in found["gen_ai.client.token.usage"].data.data_points
    }
    assert tokens == {"input": 100, "output": 20}
    per_chunk = found["gen_ai.client.operation.time_per_output_chunk"].data.data_points[0]
    assert per_chunk.count == 2
    assert SECRET not in reader_text(found)


def reader_text(found: dict[str, object]) -> str:
    return "".join(metric.to_json() for metric in found.values())


def test_the_latest_profile_is_chosen_by_the_standard_variable(spans, reader, monkeypatch) -> None:
    """gen_ai_latest_experimental switches metric names and counts tokens by detail."""
    monkeypatch.setenv(semconv.OPT_IN_VARIABLE, "http,gen_ai_latest_experimental")
    use(Recorder(tracer_provider=spans.provider, meter_provider=MeterProvider([reader])))
    found = collected(reader)
    assert "gen_ai.client.inference.duration" in found
    assert "gen_ai.client.operation.duration" not in found
    usage = "gen_ai.client.inference.usage"
    sums = {
        name.removeprefix(usage + "."): metric.data.data_points[0].value
        for name, metric in found.items()
        if name.startswith(usage)
    }
    assert sums == {
        "input_tokens": 100,
        "output_tokens": 20,
        "cache_read.input_tokens": 64,
        "reasoning.output_tokens": 5,
    }


def test_without_a_meter_provider_nothing_is_computed(spans) -> None:
    """No provider, no work: the instruments are not even created."""
    recorder = Recorder(tracer_provider=spans.provider)
    use(recorder)
    assert recorder.metrics._instruments == {}
