"""Content when it is wanted: capture modes, the event, and JSON that stays JSON."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from conftest import InMemoryLogRecordExporter
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

from slm_adapters import Message, Recorder, Reply, Tool, ToolCall, Usage
from slm_adapters.telemetry import content, semconv


@pytest.fixture
def events():
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    exporter.provider = provider
    return exporter


def one_call(spans, events) -> None:
    recorder = Recorder(tracer_provider=spans.provider, logger_provider=events.provider)
    call = recorder.open(
        framework="x", model="m", messages=[Message("user", "SECRET")], tools=[Tool("look")]
    )
    call.finish([Reply(Message("assistant", "SECRET too"), "stop")], Usage(2, 1))


@pytest.mark.parametrize(
    ("mode", "on_span", "on_event"),
    [
        ("NO_CONTENT", False, False),
        ("SPAN_ONLY", True, False),
        ("EVENT_ONLY", False, True),
        ("span_and_event", True, True),
        ("nonsense", False, False),
    ],
)
def test_each_mode_puts_content_where_it_says(
    spans, events, monkeypatch, mode, on_span, on_event
) -> None:
    """Structured messages on the event, JSON text on the span, or neither."""
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, mode)
    one_call(spans, events)
    span = spans.one("chat m")
    assert ("gen_ai.input.messages" in span.attributes) is on_span
    assert ("gen_ai.output.messages" in span.attributes) is on_span
    records = [item.log_record for item in events.get_finished_logs()]
    assert len(records) == on_event
    for record in records:
        assert record.event_name == "gen_ai.client.inference.operation.details"
        assert record.span_id == span.context.span_id
        asked = record.attributes["gen_ai.input.messages"]
        assert asked[0]["parts"][0]["content"] == "SECRET"
        assert record.attributes["gen_ai.tool.definitions"][0]["name"] == "look"
        assert record.attributes["gen_ai.usage.input_tokens"] == 2


@pytest.mark.parametrize("mode", ["NO_CONTENT", "SPAN_AND_EVENT"])
def test_t6_thoughts_are_content(spans, events, monkeypatch, mode) -> None:
    """A part of the answer's message, before its text, where content is captured at all."""
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, mode)
    recorder = Recorder(tracer_provider=spans.provider, logger_provider=events.provider)
    call = recorder.open(framework="x", model="m", messages=[Message("user", "q")])
    answer = Message("assistant", "Four.", reasoning="two and two")
    call.finish([Reply(answer, "stop")], Usage(2, 5, reasoning_tokens=3))
    span = spans.one("chat m")
    assert span.attributes["gen_ai.usage.reasoning.output_tokens"] == 3
    if mode == "NO_CONTENT":
        assert "two and two" not in str(span.attributes)
        assert not events.get_finished_logs()
        return
    parts = [
        {"type": "reasoning", "content": "two and two"},
        {"type": "text", "content": "Four."},
    ]
    assert json.loads(span.attributes["gen_ai.output.messages"])[0]["parts"] == parts
    (event,) = events.get_finished_logs()
    assert [dict(p) for p in event.log_record.attributes["gen_ai.output.messages"][0]["parts"]] == (
        parts
    )


def test_t6_a_redactor_of_contents_redacts_thoughts() -> None:
    """They pass through it as texts of their own; one that drops the answer drops its thought."""

    def scrub(messages):
        return [dataclasses.replace(m, content=m.text.replace("SECRET", "***")) for m in messages]

    answer = Reply(Message("assistant", "It is SECRET.", reasoning="Say SECRET?"), "stop")
    (kept,) = content.Redaction(scrub).apply_to_replies([answer])
    assert kept == Reply(Message("assistant", "It is ***.", reasoning="Say ***?"), "stop")
    (kept,) = content.Redaction(lambda messages: []).apply_to_replies([answer])
    assert kept.message == Message("assistant")
    (kept,) = content.Redaction(lambda messages: 1 / 0).apply_to_replies([answer])
    assert "SECRET" not in str(kept)
    history = [Message("assistant", "SECRET", reasoning="SECRET")]
    assert "SECRET" not in str(content.Redaction(scrub).apply(history))


def test_t27_a_prompt_of_two_megabytes_stays_valid_json(spans, monkeypatch) -> None:
    """Long texts are cut with a mark, within the limit; the JSON is whole."""
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, "span_only")
    recorder = Recorder(tracer_provider=spans.provider)
    history = [Message("system", "be brief"), Message("user", '"\\\n語' * 500_000)]
    recorder.open(framework="x", model="m", messages=history).finish()
    text = spans.one("chat m").attributes["gen_ai.input.messages"]
    assert len(text) <= content.LIMIT
    system, user = json.loads(text)
    assert system["parts"][0]["content"] == "be brief"
    assert "characters cut]" in user["parts"][0]["content"]


def test_t27_ten_thousand_messages_stay_valid_json() -> None:
    """When cutting texts is not enough, the first and the last message stay."""
    text = content.input_json([Message("user", f"number {n}") for n in range(10_000)])
    assert len(text) <= content.LIMIT
    first, note, last = json.loads(text)
    assert first["parts"][0]["content"] == "number 0"
    assert last["parts"][0]["content"] == "number 9999"
    assert note["parts"][0]["content"] == "[9998 messages cut]"


def test_t27_what_a_tool_was_given_and_returned_is_cut_like_a_prompt() -> None:
    """JSON stays JSON where its long texts can be cut; anything else says how much is gone."""
    redaction = content.Redaction(None)
    long = json.dumps({"word": "x" * 2_000_000, "n": 1})
    cut = redaction.apply_to_text(long)
    assert len(cut) <= content.LIMIT
    assert json.loads(cut)["n"] == 1
    for text in ("x" * 2_000_000, json.dumps([1] * 100_000), "[" * 100_000):
        cut = redaction.apply_to_text(text)
        assert len(cut) < content.LIMIT + 40
        assert cut.endswith("characters cut]")
    assert redaction.apply_to_text('{"n": 1}') == '{"n": 1}'


def test_t27_odd_values_become_json() -> None:
    """NaN, cycles, bytes and objects inside content parts and arguments are tamed."""
    cycle: dict = {}
    cycle["self"] = cycle
    odd = [{"type": "text", "text": value} for value in (float("nan"), b"\x00", cycle, object())]
    nan = ToolCall("1", "f", '{"x": NaN}')
    text = content.input_json([Message("user", odd), Message("assistant", None, (nan,))])
    parsed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(parsed[0]["parts"]) == 4


@pytest.mark.parametrize("fast", [True, False], ids=["orjson", "json"])
def test_t27_half_characters_do_not_cost_the_attribute(monkeypatch, fast) -> None:
    """Exporters write UTF-8 and leave out an attribute that is none: a lone surrogate is marked."""
    if not fast:
        monkeypatch.setitem(sys.modules, "orjson", None)
    content._encoder.cache_clear()
    try:
        text = content.input_json([Message("user", "half \ud83d 語")])
    finally:
        content._encoder.cache_clear()
    assert json.loads(text)[0]["parts"][0]["content"] == "half ? 語"
    assert content.Redaction(None).apply_to_text("half \ud83d") == "half ?"


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5), st.integers(200, 2_000))
def test_t27_any_text_fits_any_limit(texts: list[str], limit: int) -> None:
    """Property: always valid JSON, and within the limit unless even the frame is larger."""
    before, content.LIMIT = content.LIMIT, limit
    try:
        fitted = content.input_json([Message("user", text) for text in texts])
    finally:
        content.LIMIT = before
    json.loads(fitted)
    whole = content.input_json([Message("user", text) for text in texts])
    assert len(fitted) <= max(limit, 700)
    if len(whole) <= limit:
        assert fitted == whole
