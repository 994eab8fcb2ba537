"""CrewAI's traps of content: a listener exports or loses it, ours passes on the same calls."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewai import Crew
from crewai.events.event_bus import crewai_event_bus
from crewai_cases import HostedLLM, agent, asks, crew, task, tool
from old_crewai import PlainListener

from slm_adapters.calls import ToolCall
from slm_adapters.crewai import CallRecorder
from slm_adapters.telemetry.content import REDACTED

SECRET = "swordfish-4711"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def test_t25_prompts_and_error_texts_are_exported(old, spans, recorder):
    """The started event has the prompt, the failed one the exception's text."""
    PlainListener(old.provider)

    def failing() -> str:
        crewai_event_bus.flush()
        raise ValueError(SECRET)

    with pytest.raises(ValueError):
        HostedLLM(failing).call("q")
    HostedLLM(lambda: crewai_event_bus.flush() and "fine").call(SECRET)
    crewai_event_bus.flush()
    assert len(old.all()) == len(spans.all()) == 2
    assert all(SECRET in span.to_json() for span in old.all())
    assert not any(SECRET in span.to_json() for span in spans.all())


def test_t26_a_redactor_that_fails_loses_the_call(old, spans, monkeypatch):
    """Raising or returning garbage: ours keeps the call and drops the content."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    PlainListener(old.provider, redact=lambda messages: 1 / 0)
    calls: list[Any] = []
    options = {"tracer_provider": spans.provider, "hooks": [calls.append]}
    asked = ToolCall("1", "look_up", json.dumps({"word": SECRET})).to_openai()
    for broken in (lambda messages: 1 / 0, lambda messages: object(), lambda messages: [None]):
        with CallRecorder(redact=broken, **options):
            made = agent(HostedLLM([asked], SECRET), tools=[tool()])
            done = Crew(agents=[made], tasks=[task(made, None, f"Find {SECRET}.")]).kickoff()
            assert done.raw == SECRET
    crewai_event_bus.flush()
    assert old.named("chat") == []
    chats = spans.named("chat")
    assert [chat.attributes["gen_ai.usage.input_tokens"] for chat in chats] == [11] * 6
    assert [call.replies[0].message.text for call in calls[1::2]] == [REDACTED] * 3
    assert len(spans.named("execute_tool")) == 3
    kept = "".join(item.to_json() for item in (*spans.all(), *calls))
    assert SECRET not in kept


def test_t27_two_megabytes_bytes_nan_cycles_and_images(spans, monkeypatch):
    """Whatever a crew is asked is valid JSON within the limit, or a mark that it was cut."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    cycle: dict[str, Any] = {"type": "odd"}
    cycle["self"] = cycle
    odd = [
        {"type": "odd", "n": float("nan"), "b": b"\0"},
        cycle,
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}},
    ]
    with CallRecorder(tracer_provider=spans.provider):
        for prompt in ("x" * 2_000_000, odd):
            assert HostedLLM("fine").call([{"role": "user", "content": prompt}]) == "fine"
        crew(HostedLLM(asks("x" * 2_000_000), "fine"), tools=[tool()]).kickoff()
    used = spans.one("execute_tool").attributes
    assert json.loads(used["gen_ai.tool.call.arguments"])["word"].endswith("characters cut]")
    assert 64_000 < len(used["gen_ai.tool.call.result"]) < 64_100
    long, strange = (span.attributes["gen_ai.input.messages"] for span in spans.named("chat")[:2])
    for text in (long, strange):
        assert len(text) <= 64_000
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "characters cut]" in long
    assert len(json.loads(strange)[0]["parts"]) == 3


def test_t27_odd_arguments_cost_no_span(spans, monkeypatch):
    """Bytes and cycles in a history's tool calls, as a custom LLM may pass them on."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    with CallRecorder(tracer_provider=spans.provider):
        for odd in ({"x": b"\xff"}, cycle):
            asked = {"id": "1", "function": {"name": "look_up", "arguments": odd}}
            history = [{"role": "assistant", "content": None, "tool_calls": [asked]}]
            assert HostedLLM("fine").call(history) == "fine"
    for span in spans.named("chat"):
        json.loads(span.attributes["gen_ai.input.messages"])
    assert len(spans.named("chat")) == 2
