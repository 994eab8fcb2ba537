"""LiteLLM's recorder under bad input: redactors, contents and exporters that fail."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import litellm
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from slm_adapters.litellm import CallRecorder
from slm_adapters.telemetry.content import REDACTED

SECRET = "SECRET-4711"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def ask(content: Any, answer: str = "fine") -> str:
    """A completion of LiteLLM's own mock: no key, no network, otherwise LiteLLM's own path."""
    messages = [{"role": "user", "content": content}]
    given = litellm.completion(
        model="openai/gpt-4o", messages=messages, mock_response=answer, api_key="none"
    )
    return str(given.choices[0].message.content)


def told(calls: list[Any], count: int) -> None:
    """LiteLLM reports from its own threads."""
    for _ in range(3_000):
        if len(calls) >= count:
            return
        time.sleep(0.01)


@pytest.mark.parametrize(
    "broken", [lambda m: 1 / 0, lambda m: None, lambda m: ["text"]], ids=["raises", "none", "text"]
)
def test_t26_a_redactor_that_fails_drops_the_content(spans, monkeypatch, broken) -> None:
    """The answer, the span and the counts are there; prompt and reply are nowhere."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    calls: list[Any] = []
    with CallRecorder(tracer_provider=spans.provider, hooks=[calls.append], redact=broken):
        assert ask(SECRET, SECRET) == SECRET
        told(calls, 1)
    assert calls[0].replies[0].message.text == calls[0].messages[0].text == REDACTED
    assert SECRET not in calls[0].to_json() + spans.one("chat").to_json()
    assert spans.one("chat").attributes["gen_ai.usage.output_tokens"] > 0


def test_t27_two_megabytes_bytes_nan_cycles_and_images(spans, monkeypatch) -> None:
    """Valid JSON within the limit; what LiteLLM itself refuses is its own error."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    cycle: dict[str, Any] = {"type": "text", "text": "round"}
    cycle["self"] = cycle
    odd = [{"type": "text", "text": "odd", "n": float("nan"), "b": b"\0"}, cycle]
    url = "data:image/png;base64," + "A" * 3_000_000
    image = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    calls: list[Any] = []
    with CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]):
        for number, content in enumerate(("word " * 400_000, odd, image), 1):
            assert ask(content) == "fine"
            told(calls, number)
    assert len(spans.named("chat")) == 3
    for span in spans.named("chat"):
        text = span.attributes["gen_ai.input.messages"]
        assert len(text) <= 64_000
        (message,) = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name}: no JSON"))
        assert message["parts"]
    long = spans.named("chat")[0].attributes["gen_ai.input.messages"]
    assert "characters cut]" in long


class Blocked(SpanExporter):
    def __init__(self) -> None:
        self.release = threading.Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.release.wait(60)
        self.release.set()
        return SpanExportResult.FAILURE


class Failing(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        raise ConnectionError("down")


def test_t31_an_exporter_that_blocks_or_raises_harms_nobody() -> None:
    """The answer comes while the exporter still blocks, and whatever it raises."""
    blocked, calls, provider = Blocked(), [], TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(blocked, schedule_delay_millis=1))
    provider.add_span_processor(SimpleSpanProcessor(Failing()))
    with CallRecorder(tracer_provider=provider, hooks=[calls.append]):
        assert [ask("q") for _ in range(3)] == ["fine"] * 3
        told(calls, 3)
    assert len(calls) == 3
    assert not blocked.release.is_set(), "the calls waited for the exporter"
    blocked.release.set()
    provider.shutdown()
