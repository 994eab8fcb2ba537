"""Histograms and counters of calls, agents, tools and workflows, as the conventions name them.

Values equal the spans' durations; labels never hold content or ids. Without a configured meter
provider nothing is computed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import Histogram, MeterProvider, _internal

from ..messages import Usage
from . import semconv

__all__ = ["Metrics"]

#: A meter provider named in the environment is loaded when somebody asks.
_CONFIGURED = "OTEL_PYTHON_METER_PROVIDER" in os.environ

#: The labels a call's metrics may carry.
_CALL_LABELS = (
    semconv.OPERATION_NAME,
    semconv.PROVIDER_NAME,
    semconv.REQUEST_MODEL,
    semconv.RESPONSE_MODEL,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
    semconv.ERROR_TYPE,
)
_FALLBACK_LABELS = (semconv.REQUEST_MODEL, semconv.FALLBACK_MODEL, semconv.FALLBACK_REASON)
_SPAN_LABELS = {
    semconv.INVOKE_AGENT: semconv.AGENT_NAME,
    semconv.EXECUTE_TOOL: semconv.TOOL_NAME,
    semconv.INVOKE_WORKFLOW: semconv.WORKFLOW_NAME,
}


class Metrics:
    """The instruments of one meter provider (default: the global one, also if set later)."""

    def __init__(self, meter_provider: MeterProvider | None, profile: semconv.Profile) -> None:
        self._provider = meter_provider
        self._names, self._counts = profile.metrics, profile.counts_agent_calls
        self._instruments: dict[str, Any] = {}
        self._meter: metrics.Meter | None = None

    def collects(self) -> bool:
        """Whether anybody collects metrics."""
        provider = self._provider
        if provider is None:
            # Asking the API reads the environment, which costs as much as a tenth of a span.
            if getattr(_internal, "_METER_PROVIDER", ...) is None and not _CONFIGURED:
                return False
            provider = metrics.get_meter_provider()
        return type(provider).__name__ not in ("_ProxyMeterProvider", "NoOpMeterProvider")

    def call_ended(
        self,
        labels: Mapping[str, Any],
        usage: Usage | None,
        duration_s: float,
        first_chunk_s: float | None,
    ) -> None:
        """Duration, tokens and, for a stream, time to the first chunk (seconds)."""
        kept = _kept(labels, _CALL_LABELS)
        role = labels.get(semconv.ROLE)
        if semconv.may_be_a_label(role):
            kept[semconv.ROLE] = role
        self._histogram(semconv.METRIC_DURATION).record(duration_s, kept)
        if semconv.FALLBACK_REASON in labels:
            fallback = _kept(labels, (*_FALLBACK_LABELS, semconv.ROLE))
            if semconv.ROLE not in kept:
                fallback.pop(semconv.ROLE, None)
            self._counter(semconv.METRIC_FALLBACKS, "{call}").add(1, fallback)
        if first_chunk_s is not None:
            self._histogram(semconv.METRIC_FIRST_CHUNK).record(first_chunk_s, kept)
        if usage is not None:
            self._tokens(usage, kept)

    def chunk(self, labels: Mapping[str, Any], waited_s: float) -> None:
        """Seconds between two chunks of a stream."""
        self._histogram(semconv.METRIC_PER_CHUNK).record(waited_s, _kept(labels, _CALL_LABELS))

    def span_ended(self, operation: str, labels: Mapping[str, Any], duration_s: float) -> None:
        """Duration of an agent, tool or workflow; other operations have no metric."""
        name = semconv.METRIC_OF_SPAN.get(operation)
        if name is not None:
            kept = _kept(labels, (semconv.OPERATION_NAME, _SPAN_LABELS[operation]))
            error = labels.get(semconv.ERROR_TYPE)
            if error is not None:
                kept[semconv.ERROR_TYPE] = error
            self._histogram(name).record(duration_s, kept)

    @property
    def counts_agent_calls(self) -> bool:
        """Whether somebody collects ``agent_ended``: the newer generation of names has it."""
        return self._counts and self.collects()

    def agent_ended(self, name: str | None, model_calls: int, tool_calls: int) -> None:
        """How many calls one invocation of an agent made itself."""
        labels = {semconv.OPERATION_NAME: semconv.INVOKE_AGENT}
        if name is not None:
            labels[semconv.AGENT_NAME] = name
        self._histogram(semconv.METRIC_AGENT_CALLS).record(model_calls, labels)
        self._histogram(semconv.METRIC_AGENT_TOOLS).record(tool_calls, labels)

    def _tokens(self, usage: Usage, labels: dict[str, Any]) -> None:
        counts = {"input": usage.input_tokens, "output": usage.output_tokens}
        if labels.get(semconv.OPERATION_NAME) == semconv.EMBEDDINGS:
            del counts["output"]  # it writes nothing
        if semconv.METRIC_TOKENS in self._names:
            for kind, count in counts.items():
                histogram = self._histogram(semconv.METRIC_TOKENS)
                histogram.record(count, labels | {semconv.TOKEN_TYPE: kind})
            return
        details = {
            "cache_read.input": usage.cached_tokens,
            "cache_write.input": usage.cache_write_tokens,
            "reasoning.output": usage.reasoning_tokens,
        }
        for kind, count in counts.items():
            self._histogram(f"{semconv.METRIC_CALL_TOKENS}.{kind}_tokens").record(count, labels)
        # The counters are summed over modalities; text-only frameworks do not split them.
        for kind, total in (counts | details).items():
            if total is not None:
                counter = self._counter(f"{semconv.METRIC_USAGE}.{kind}_tokens")
                counter.add(total, labels | {semconv.TOKEN_MODALITY: "unknown"})

    def _histogram(self, key: str) -> Histogram:
        instrument = self._instruments.get(key)
        if instrument is None:
            spec = semconv.metric(self._names.get(key, key))
            instrument = self._open_meter().create_histogram(
                spec.name,
                unit=spec.unit,
                description=spec.description,
                explicit_bucket_boundaries_advisory=spec.buckets,
            )
            self._instruments[key] = instrument
        return instrument

    def _counter(self, name: str, unit: str = "{token}") -> metrics.Counter:
        instrument = self._instruments.get(name)
        if instrument is None:
            instrument = self._open_meter().create_counter(name, unit=unit)
            self._instruments[name] = instrument
        return instrument

    def _open_meter(self) -> metrics.Meter:
        if self._meter is None:
            self._meter = metrics.get_meter("slm_adapters", meter_provider=self._provider)
        return self._meter


def _kept(labels: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: labels[name] for name in names if labels.get(name) is not None}
