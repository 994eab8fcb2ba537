"""The measure of cost that no busy machine changes: function calls, beside those of a bare span."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import TracerProvider


def function_calls(work: Callable[[], Any]) -> int:
    """How many functions, Python's and C's, ``work`` calls once it is warm."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()
    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count - 1  # setprofile itself


def bare_span() -> int:
    """The function calls of one span of OpenTelemetry's SDK with ten attributes."""
    tracer = TracerProvider().get_tracer("floor")

    def work() -> None:
        span = tracer.start_span("chat m")
        for number in range(10):
            span.set_attribute(f"attribute.{number}", number)
        span.end()

    return function_calls(work)
