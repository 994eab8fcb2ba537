"""One lifecycle: a call opens once, ends once, and becomes one span and one record."""

from __future__ import annotations

import json
import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from slm_adapters.calls import Call, Message, Reply, Tool, ToolCall, Usage, role, run
from slm_adapters.telemetry import semconv
from slm_adapters.telemetry.content import REDACTED
from slm_adapters.telemetry.harmless import failure_counts
from slm_adapters.telemetry.recorder import Recorder, as_current_call, current_call

SECRET = "4111-1111-1111-1111"
ASK = [Message("system", "be brief"), Message("user", SECRET)]
ANSWER = [Reply(Message("assistant", f"got {SECRET}"), "stop")]


def everything(spans) -> str:
    return json.dumps([json.loads(span.to_json()) for span in spans.all()])


def test_a_finished_call_is_one_span_with_the_conventions_names(spans) -> None:
    """Names, kind, request parameters, usage and finish reasons as the GenAI conventions say."""
    recorder = Recorder(tracer_provider=spans.provider)
    call = recorder.open(
        framework="crewai",
        provider="openai",
        model="gpt-4.1",
        params={"temperature": 0.2, "stop": "END", "max_tokens": 9, "n": 2, "odd": object()},
        messages=ASK,
    )
    call.finish(ANSWER, Usage(12, 3, cached_tokens=4), response_model="gpt-4.1-x", response_id="r")
    span = spans.one("chat gpt-4.1")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.model": "gpt-4.1-x",
        "gen_ai.response.id": "r",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }


def test_a_call_ends_once(spans) -> None:
    """The first end counts; later ones change nothing."""
    kept: list[Call] = []
    call = Recorder(tracer_provider=spans.provider, hooks=[kept.append]).open(framework="x")
    call.abandon()
    call.finish(ANSWER)
    call.fail(ValueError("late"))
    assert [c.outcome for c in kept] == ["abandoned"]
    assert spans.one("chat").status.status_code is StatusCode.UNSET


def test_t24_a_failure_names_its_class_and_quotes_nothing(spans) -> None:
    """error.type is the exception's class; its text, which may hold a prompt, is nowhere."""
    call = Recorder(tracer_provider=spans.provider).open(framework="x", messages=ASK)
    call.fail(json.JSONDecodeError(SECRET, SECRET, 0))
    span = spans.one("chat")
    assert span.attributes["error.type"] == "json.decoder.JSONDecodeError"
    assert span.status.status_code is StatusCode.ERROR
    assert SECRET not in everything(spans)


def test_t25_content_is_off_unless_the_switch_says_so(spans, monkeypatch) -> None:
    """By default no prompt or reply reaches a span; SPAN_ONLY puts structured messages there."""
    kept: list[Call] = []

    def one_call() -> None:
        recorder = Recorder(tracer_provider=spans.provider, hooks=[kept.append])
        recorder.open(framework="x", messages=ASK, tools=[Tool("f")]).finish(ANSWER)

    one_call()
    assert SECRET not in everything(spans)
    assert kept[0].messages[1].text == SECRET, "the store is a separate, explicit choice"
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, "span_only")
    one_call()
    attributes = spans.all()[-1].attributes
    asked = json.loads(attributes["gen_ai.input.messages"])
    assert asked[1] == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    answered = json.loads(attributes["gen_ai.output.messages"])
    assert answered[0]["parts"] == [{"type": "text", "content": f"got {SECRET}"}]
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, "event_only")
    one_call()
    assert "gen_ai.input.messages" not in spans.all()[-1].attributes


def test_redaction_covers_every_way_out(spans, monkeypatch) -> None:
    """One redactor, applied before the span and before the record."""
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, "SPAN_AND_EVENT")
    kept: list[Call] = []

    def redact(messages):
        return [Message(m.role, m.text.replace(SECRET, "<card>")) for m in messages]

    recorder = Recorder(tracer_provider=spans.provider, hooks=[kept.append], redact=redact)
    recorder.open(framework="x", messages=ASK).finish(ANSWER)
    assert SECRET not in everything(spans) + kept[0].to_json()
    assert kept[0].replies[0].message.text == "got <card>"


@pytest.mark.parametrize("broken", [lambda m: 1 / 0, lambda m: "text", lambda m: [None]])
def test_t26_a_broken_redactor_drops_content_and_harms_nothing(spans, broken, caplog) -> None:
    """If the redactor raises or returns garbage, the content goes, the call stays."""
    kept: list[Call] = []
    recorder = Recorder(tracer_provider=spans.provider, hooks=[kept.append], redact=broken)
    with caplog.at_level(logging.DEBUG):
        recorder.open(framework="x", messages=ASK).finish(ANSWER, Usage(1, 1))
    assert SECRET not in kept[0].to_json() + caplog.text
    assert kept[0].messages[1].text == REDACTED
    assert kept[0].usage == Usage(1, 1)
    assert failure_counts()["redaction"] >= 1


def test_t34_a_hook_that_raises_harms_nothing(spans) -> None:
    """Other hooks and the caller go on; the failure is counted."""
    kept: list[Call] = []
    before = failure_counts().get("a completion hook", 0)
    hooks = [lambda call: 1 / 0, kept.append]
    Recorder(tracer_provider=spans.provider, hooks=hooks).open(framework="x").finish()
    assert len(kept) == 1
    assert failure_counts()["a completion hook"] == before + 1


def test_hooks_are_called_whatever_the_sampling_decision() -> None:
    """A dropped span still gives a record."""
    kept: list[Call] = []
    provider = TracerProvider(sampler=ALWAYS_OFF)
    Recorder(tracer_provider=provider, hooks=[kept.append]).open(framework="x").finish(ANSWER)
    assert kept[0].replies == tuple(ANSWER)


def test_t21_absent_usage_stays_absent(spans) -> None:
    """No zeros are invented for a provider that reports nothing."""
    Recorder(tracer_provider=spans.provider).open(framework="x").finish(ANSWER)
    assert not [key for key in spans.one("chat").attributes if "usage" in key]


def test_t22_time_to_first_chunk_is_for_streams(spans) -> None:
    """Only a stream has a first chunk, and only its first chunk counts."""
    recorder = Recorder(tracer_provider=spans.provider)
    plain = recorder.open(framework="x", model="plain")
    plain.chunk()
    plain.finish()
    stream = recorder.open(framework="x", model="stream", streamed=True)
    stream.chunk()
    first = stream.first_chunk_ns
    stream.chunk()
    stream.finish()
    assert stream.first_chunk_ns == first
    name = "gen_ai.response.time_to_first_chunk"
    assert name not in spans.one("chat plain").attributes
    assert spans.one("chat stream").attributes[name] >= 0
    assert spans.one("chat stream").attributes["gen_ai.request.stream"] is True


def test_t18_an_abandoned_stream_keeps_what_was_said(spans) -> None:
    """Closing early is an end, not an error; partial text goes to the record."""
    kept: list[Call] = []
    recorder = Recorder(tracer_provider=spans.provider, hooks=[kept.append])
    call = recorder.open(framework="x", streamed=True)
    call.chunk("half an ")
    call.chunk("answer")
    call.abandon(Usage(3, 2))
    assert spans.one("chat").status.status_code is StatusCode.UNSET
    assert kept[0].replies[0].message.text == "half an answer"
    assert kept[0].outcome == "abandoned"
    assert kept[0].usage == Usage(3, 2)


def test_labels_are_those_of_the_caller_at_the_start(spans) -> None:
    """role and run are read when the call opens, and win over the framework's names."""
    kept: list[Call] = []
    recorder = Recorder(tracer_provider=spans.provider, hooks=[kept.append], app="desk")
    with run("run-1", tier="gold"), role("triage"):
        call = recorder.open(framework="x", role="node", run_id="framework-run")
    with run("run-2"):
        call.finish()
    assert (kept[0].role, kept[0].run_id, kept[0].app) == ("triage", "run-1", "desk")
    assert kept[0].attributes == {"tier": "gold"}


def test_a_span_joins_the_callers_trace_and_carries_what_is_inside(spans) -> None:
    """The current span is the parent; a client span inside nests under the call."""
    tracer = spans.provider.get_tracer("app")
    recorder = Recorder(tracer_provider=spans.provider)
    with tracer.start_as_current_span("request"):
        call = recorder.open(framework="x", model="m")
        with as_current_call(call):
            assert current_call() is call
            tracer.start_span("POST /v1/chat").end()
        call.finish()
    assert current_call() is None
    assert spans.parent_name(spans.one("POST")) == "chat m"
    assert spans.parent_name(spans.one("chat m")) == "request"
    assert len({span.context.trace_id for span in spans.all()}) == 1


def test_span_kinds() -> None:
    """A local model's call is INTERNAL; agents, tools and workflows are too."""
    assert semconv.span_kind("chat") is SpanKind.CLIENT
    assert semconv.span_kind("chat", in_process=True) is SpanKind.INTERNAL
    for operation in (semconv.INVOKE_AGENT, semconv.EXECUTE_TOOL, semconv.INVOKE_WORKFLOW):
        assert semconv.span_kind(operation) is SpanKind.INTERNAL


def test_t30_without_a_provider_nothing_happens(capsys) -> None:
    """With no SDK configured calls are harmless and silent, and no provider is set."""
    before = trace.get_tracer_provider()
    Recorder().open(framework="x", messages=ASK).finish(ANSWER)
    assert trace.get_tracer_provider() is before
    assert capsys.readouterr() == ("", "")


def test_tool_calls_and_results_have_their_parts(spans, monkeypatch) -> None:
    """Tool calls, tool results and images take the shapes of the conventions."""
    monkeypatch.setenv(semconv.CAPTURE_CONTENT_VARIABLE, "true")
    history = [
        Message("user", [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]),
        Message("assistant", None, (ToolCall("c1", "look", '{"id": 7}'), ToolCall("c2", "x", "{"))),
        Message("tool", "found", tool_call_id="c1"),
    ]
    Recorder(tracer_provider=spans.provider).open(framework="x", messages=history).finish()
    asked = json.loads(spans.one("chat").attributes["gen_ai.input.messages"])
    assert asked[0]["parts"] == [{"type": "text", "content": "see"}, {"type": "image_url"}]
    assert asked[1]["parts"][0]["arguments"] == {"id": 7}
    assert asked[1]["parts"][1]["arguments"] == "{"
    assert asked[2]["parts"] == [{"type": "tool_call_response", "id": "c1", "response": "found"}]
