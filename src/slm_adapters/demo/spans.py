"""The demo's spans: kept in memory, optionally exported, and shown as a tree of plain nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from ..telemetry import semconv
from ..telemetry.export import export_traces

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["KeptSpans", "SpanNode", "trees"]


class KeptSpans:
    """A private tracer provider, so that nothing global is set. ``otlp``: also export to there.

    Spans are kept from ``start()`` on; exported are all of them.
    """

    def __init__(self, otlp: str | None = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        except ImportError:
            raise MissingExtraError("the demo", "opentelemetry-sdk", "demo") from None
        self.provider = TracerProvider(resource=Resource.create({"service.name": "support-desk"}))
        self._memory = InMemorySpanExporter()
        self._export = export_traces(otlp, provider=self.provider) if otlp else None

    def start(self) -> None:
        """Keep the spans that end from now on."""
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The kept spans, in order of their ends."""
        return self._memory.get_finished_spans()

    def export(self) -> None:
        """Send what still waits; an endpoint that is down costs one warning."""
        if self._export is not None:
            self._export.shutdown()


@dataclass(frozen=True, slots=True)
class SpanNode:
    """What is shown of one span. ``details``: tokens, quantization, why it fell back, errors."""

    name: str
    kind: str
    duration_s: float
    details: tuple[str, ...] = ()
    failed: bool = False
    children: list[SpanNode] = field(default_factory=list)


def trees(spans: Iterable[ReadableSpan], trace_id: str | None = None) -> list[SpanNode]:
    """The roots of one trace (32 hex digits), or of all; siblings in order of start."""
    chosen = [s for s in spans if trace_id is None or f"{_context(s).trace_id:032x}" == trace_id]
    nodes = {_context(span).span_id: _node(span) for span in chosen}
    roots: list[SpanNode] = []
    for span in sorted(chosen, key=lambda span: span.start_time or 0):
        parent = nodes.get(span.parent.span_id) if span.parent else None
        (parent.children if parent else roots).append(nodes[_context(span).span_id])
    return roots


def _node(span: ReadableSpan) -> SpanNode:
    attributes = span.attributes or {}
    return SpanNode(
        name=span.name,
        kind=span.kind.name.lower(),
        duration_s=((span.end_time or 0) - (span.start_time or 0)) / 1e9,
        details=tuple(_details(attributes)),
        failed=semconv.ERROR_TYPE in attributes,
    )


def _details(attributes: Mapping[str, Any]) -> Sequence[str]:
    details = []
    asked = attributes.get(semconv.USAGE_INPUT_TOKENS)
    given = attributes.get(semconv.USAGE_OUTPUT_TOKENS)
    if asked is not None:
        details.append(f"{asked:,} tokens in, {given or 0:,} out")
    for key, words in _WORDS.items():
        if attributes.get(key):
            details.append(f"{words} {attributes[key]}")
    return details


_WORDS = {
    semconv.QUANTIZATION: "quantized",
    semconv.FALLBACK_REASON: "fell back:",
    semconv.FALLBACK_MODEL: "to",
    semconv.OUTCOME: "ended",
    semconv.ERROR_TYPE: "error",
}


def _context(span: ReadableSpan) -> Any:
    return span.get_span_context()
