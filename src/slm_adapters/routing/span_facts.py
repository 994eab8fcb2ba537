"""What a completion says about itself, as span attributes."""

from __future__ import annotations

from typing import Any

from ..engine.engine import Completion
from ..telemetry import semconv

__all__ = ["span_facts"]


def span_facts(completion: Completion) -> dict[str, Any]:
    """The engine's own facts (device, quantization, ...), decode rate and time in the queue."""
    facts: dict[str, Any] = dict(completion.attributes)
    timings = completion.timings
    if timings.decode_s > 0:
        facts[semconv.DECODE_RATE] = completion.usage.output_tokens / timings.decode_s
    if timings.queue_s > 0:
        facts[semconv.QUEUE_TIME] = timings.queue_s
    return facts
