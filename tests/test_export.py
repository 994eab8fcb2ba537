"""export_traces against a real OTLP receiver: the bytes that arrive, endpoints that are down."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otlp_receiver import Received, attributes, grpc_receiver, http_receiver

from slm_adapters import Recorder, Reply, Usage, export_traces
from slm_adapters.calls import Message
from slm_adapters.telemetry import harmless


@pytest.fixture
def own_provider(monkeypatch):
    """A program that has configured its own tracer provider."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return provider


def one_call(provider: TracerProvider) -> None:
    call = Recorder(tracer_provider=provider).open(
        framework="crewai",
        provider="slm_adapters",
        model="bundled",
        params={"temperature": 0.0},
        messages=[Message("user", "SECRET")],
        in_process=True,
    )
    call.finish([Reply(Message("assistant", "SECRET"), "stop")], Usage(21, 4))


@pytest.mark.parametrize(
    ("receiver", "protocol"), [(http_receiver, "http/protobuf"), (grpc_receiver, "grpc")]
)
def test_a_span_arrives_over_the_wire(own_provider, receiver, protocol) -> None:
    """HTTP and gRPC: the protobuf that arrives holds the span, and no content."""
    with receiver() as received:
        with export_traces(received.endpoint, protocol=protocol):
            one_call(own_provider)
        (span,) = received.spans()
    assert span.name == "chat bundled"
    assert span.kind == span.SPAN_KIND_INTERNAL
    assert len(span.trace_id) == 16
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "slm_adapters",
        "gen_ai.request.model": "bundled",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 4,
    }
    assert b"SECRET" not in b"".join(received.raw)


def test_the_standard_variables_are_honoured(own_provider, monkeypatch) -> None:
    """Without arguments, OTEL_EXPORTER_OTLP_ENDPOINT decides."""
    with http_receiver() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", received.endpoint)
        with export_traces():
            one_call(own_provider)
        assert [span.name for span in received.spans()] == ["chat bundled"]


def test_t32_the_users_provider_and_exporters_live_on(own_provider, spans) -> None:
    """An existing provider gets one more exporter, and shutting ours down leaves the rest."""
    own_provider.add_span_processor(spans.provider._active_span_processor)
    with http_receiver() as received:
        with export_traces(received.endpoint):
            one_call(own_provider)
        one_call(own_provider)
        assert len(received.spans()) == 1
    assert len(spans.all()) == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_t31_an_endpoint_that_is_down_costs_one_warning(own_provider, caplog, protocol) -> None:
    """The program goes on, learns of it once, and exits within a bound."""
    harmless._counts.pop("trace export", None)
    with caplog.at_level(logging.WARNING):
        export = export_traces(f"http://127.0.0.1:{free_port()}", protocol=protocol, timeout_s=0.5)
        started = time.monotonic()
        for _ in range(3):
            one_call(own_provider)
            export.flush()
        export.shutdown()
    assert time.monotonic() - started < 20
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1, warnings
    assert "Start the backend or correct the endpoint" in warnings[0]


def test_an_unknown_protocol_is_refused() -> None:
    """A typo names the two words that work."""
    with pytest.raises(ValueError, match="'grpc' or 'http/protobuf'"):
        export_traces("http://localhost:4318", protocol="udp")  # type: ignore[arg-type]


def test_a_fresh_program_gets_a_provider_of_its_own() -> None:
    """export_traces is the only call that sets the global provider; exit flushes what waits."""
    program = (
        "import sys\n"
        "from slm_adapters import Recorder, export_traces\n"
        "from opentelemetry import trace\n"
        "Recorder().open(framework='x').finish()\n"
        "assert type(trace.get_tracer_provider()).__name__ == 'ProxyTracerProvider'\n"
        "export_traces(sys.argv[1], service_name='desk')\n"
        "Recorder().open(framework='x', model='m').finish()\n"
    )
    with http_receiver() as received:
        subprocess.run([sys.executable, "-c", program, received.endpoint], check=True, timeout=60)
        check_fresh(received)


def check_fresh(received: Received) -> None:
    assert [span.name for span in received.spans()] == ["chat m"]
    assert received.resource_attributes()["service.name"] == "desk"
