"""``export_traces``: send this process's spans to an OTLP backend. The only call that sets
anything global, and only if the program has no tracer provider of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import trace

from ..errors import MissingExtraError
from .harmless import warn_once

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

__all__ = ["TraceExport", "export_traces"]

Protocol = Literal["http/protobuf", "grpc"]


class TraceExport:
    """Handle on a running export. Use as a context manager, or call ``shutdown()`` at the end."""

    def __init__(self, provider: Any, processor: Any) -> None:
        self.provider, self._processor = provider, processor

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Send what is waiting; False when it did not get through in time."""
        return bool(self._processor.force_flush(int(timeout_s * 1000)))

    def shutdown(self) -> None:
        """Flush and stop this export; the provider and other exporters go on."""
        self._processor.shutdown()

    def __enter__(self) -> TraceExport:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()


def export_traces(
    endpoint: str | None = None,
    *,
    protocol: Protocol | None = None,
    headers: dict[str, str] | None = None,
    service_name: str | None = None,
    timeout_s: float = 10.0,
    provider: Any = None,
) -> TraceExport:
    """Export spans over OTLP: ``export_traces("http://localhost:4318")``.

    Missing arguments come from the standard ``OTEL_EXPORTER_OTLP_*`` and ``OTEL_SERVICE_NAME``
    variables. ``protocol`` defaults to gRPC for port 4317, else HTTP. An existing SDK provider
    gets one more exporter; without one, a new provider is made global. ``provider``: export the
    spans of this SDK provider instead, and set nothing global. An endpoint that is down
    costs one warning. Raises ``MissingExtraError`` without the OpenTelemetry SDK.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtraError("export_traces()", "opentelemetry-sdk", "otlp") from None
    exporter = _quiet(_exporter(endpoint, protocol, headers, timeout_s), endpoint)
    provider = provider or trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        attributes = {"service.name": service_name} if service_name else {}
        provider = TracerProvider(resource=Resource.create(attributes))
        trace.set_tracer_provider(provider)
    processor = BatchSpanProcessor(exporter)
    provider.add_span_processor(processor)
    return TraceExport(provider, processor)


def _exporter(
    endpoint: str | None, protocol: str | None, headers: dict[str, str] | None, timeout_s: float
) -> SpanExporter:
    environment = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    guess = "grpc" if endpoint and endpoint.rstrip("/").endswith(":4317") else "http/protobuf"
    chosen = protocol or (environment if endpoint is None else None) or guess
    if chosen not in ("grpc", "http/protobuf"):
        raise ValueError(f"unknown OTLP protocol {chosen!r}: use 'grpc' or 'http/protobuf'.")
    module = "grpc" if chosen == "grpc" else "http"
    try:
        if chosen == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
                OTLPSpanExporter as GrpcExporter,
            )

            # The scheme decides between plain text and TLS when `insecure` is not given.
            return GrpcExporter(endpoint=endpoint, headers=headers, timeout=timeout_s)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter as HttpExporter,
        )

        if endpoint and not endpoint.rstrip("/").endswith("/v1/traces"):
            endpoint = endpoint.rstrip("/") + "/v1/traces"
        return HttpExporter(endpoint=endpoint, headers=headers, timeout=timeout_s)
    except ImportError:
        package = f"opentelemetry-exporter-otlp-proto-{module}"
        raise MissingExtraError("export_traces()", package, "otlp") from None


def _quiet(exporter: SpanExporter, endpoint: str | None) -> SpanExporter:
    """An exporter that reports an unreachable backend once instead of at every batch."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    # The SDK's exporters log every retry of every batch; one sentence of ours replaces that.
    for name in (type(exporter).__module__, "opentelemetry.exporter.otlp.proto.grpc.exporter"):
        logging.getLogger(name).addFilter(_below_critical)

    class QuietExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            try:
                result = exporter.export(spans)
            except Exception:
                result = SpanExportResult.FAILURE
            if result is not SpanExportResult.SUCCESS:
                where = endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "localhost"
                warn_once(
                    "trace export",
                    f"no OTLP backend takes spans at {where}: traces are dropped, your program "
                    "is not affected. Start the backend or correct the endpoint.",
                )
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return exporter.force_flush(timeout_millis)

    return QuietExporter()


def _below_critical(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL
