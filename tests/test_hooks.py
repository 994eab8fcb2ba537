"""Completion hooks with OpenTelemetry's contract."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json

import pytest
from conftest import InMemoryLogRecordExporter, until
from langchain_models import HostedChat
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from slm_adapters.calls import Message, Reply, Tool, ToolCall
from slm_adapters.langchain import CallRecorder
from slm_adapters.telemetry import hooks
from slm_adapters.telemetry.harmless import failure_counts
from slm_adapters.telemetry.recorder import Recorder
from slm_adapters.telemetry.semconv import CAPTURE_CONTENT_VARIABLE


class Keeping:
    """A hook that keeps what it is given."""

    def __init__(self) -> None:
        self.told: list[dict] = []

    def on_completion(self, **given) -> None:
        self.told.append(given)


def call_once(recorder: Recorder) -> None:
    """One call with a tool definition, a tool call and its result."""
    asked = ToolCall("c1", "look_up", '{"q": "x"}')
    messages = [
        Message("user", "card 4111"),
        Message("assistant", None, tool_calls=(asked,)),
        Message("tool", "found", tool_call_id="c1"),
    ]
    tools = [Tool("look_up", "Look something up.", {"type": "object"})]
    call = recorder.open(framework="test", model="m", messages=messages, tools=tools)
    call.finish([Reply(Message("assistant", "done"), "stop")])


@pytest.mark.parametrize("sampled", [True, False])
def test_a_hook_gets_structured_messages_whatever_is_sampled_and_captured(spans, sampled) -> None:
    """No content flag, sampled or not: inputs, outputs, tools and the span are there."""
    provider = spans.provider if sampled else TracerProvider(sampler=ALWAYS_OFF)
    hook = Keeping()
    call_once(Recorder(tracer_provider=provider, hooks=[hook]))
    (told,) = hook.told
    assert set(told) == {
        "inputs", "outputs", "system_instruction", "tool_definitions", "span", "log_record",
    }  # fmt: skip
    assert [dataclasses.asdict(message) for message in told["inputs"]] == [
        {"role": "user", "parts": [{"type": "text", "content": "card 4111"}], "name": None},
        {
            "role": "assistant",
            "parts": [
                {"type": "tool_call", "id": "c1", "name": "look_up", "arguments": {"q": "x"}}
            ],
            "name": None,
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "found"}],
            "name": None,
        },
    ]
    assert told["outputs"][0].finish_reason == "stop"
    assert told["tool_definitions"][0].parameters == {"type": "object"}
    assert told["span"].get_span_context().is_valid
    assert told["log_record"] is None
    assert "4111" not in "".join(span.to_json() for span in spans.all())


def test_redaction_comes_first_and_changes_of_a_hook_are_written(spans, monkeypatch) -> None:
    """A hook sees redacted messages; what it changes is what the span says."""
    monkeypatch.setenv(CAPTURE_CONTENT_VARIABLE, "SPAN_AND_EVENT")
    logs = InMemoryLogRecordExporter()
    loggers = LoggerProvider()
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))

    class Storing:
        """Puts the text elsewhere and leaves a reference, as uploaders do."""

        def on_completion(self, *, inputs, outputs, span, log_record, **_) -> None:
            assert inputs[0].parts[0].content == "card <gone>"
            inputs[0].parts[0].content = "s3://kept/1"
            del inputs[1:]
            span.set_attribute("gen_ai.input.messages_ref", "s3://kept/1")
            log_record.attributes["gen_ai.input.messages_ref"] = "s3://kept/1"

    def redact(messages):
        return [dataclasses.replace(m, content=m.text.replace("4111", "<gone>")) for m in messages]

    call_once(
        Recorder(
            tracer_provider=spans.provider,
            logger_provider=loggers,
            hooks=[Storing()],
            redact=redact,
        )
    )
    span = spans.one("chat m")
    (message,) = json.loads(span.attributes["gen_ai.input.messages"])
    assert message == {"role": "user", "parts": [{"content": "s3://kept/1", "type": "text"}]}
    assert span.attributes["gen_ai.input.messages_ref"] == "s3://kept/1"
    (event,) = logs.get_finished_logs()
    assert event.log_record.attributes["gen_ai.input.messages_ref"] == "s3://kept/1"


def test_both_kinds_of_hook_and_a_store_side_by_side(spans) -> None:
    """Plain functions get the ``Call``; a hook that raises is counted and harms nobody."""

    class Failing:
        def on_completion(self, **_) -> None:
            raise RuntimeError("no")

    calls, hook = [], Keeping()
    before = failure_counts().get("a completion hook", 0)
    recorder = CallRecorder(tracer_provider=spans.provider, hooks=[calls.append, Failing(), hook])
    assert HostedChat().invoke("q", {"callbacks": [recorder]}).content == "a hosted answer"
    assert len(calls) == len(hook.told) == 1
    assert failure_counts()["a completion hook"] == before + 1
    assert len(spans.named("chat")) == 1


def test_the_hook_the_environment_names_is_loaded(spans, monkeypatch, caplog) -> None:
    """By its entry point, as the official packages do; an unknown name costs one warning."""
    made = []

    class Named(Keeping):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    class Entry:
        name = "kept"

        def load(self):
            return Named

    def entry_points(*, group, name):
        assert group == "opentelemetry_genai_completion_hook"
        return [Entry()] if name == "kept" else []

    monkeypatch.setattr(hooks, "entry_points", entry_points)
    assert importlib.metadata.entry_points(group=hooks.GROUP) is not None
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK", "kept")
    call_once(Recorder(tracer_provider=spans.provider))
    assert len(made[0].told) == 1
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK", "nobody")
    call_once(Recorder(tracer_provider=spans.provider))
    assert "names no completion hook" in caplog.text


async def test_opentelemetry_s_own_upload_hook_works(spans, monkeypatch, tmp_path) -> None:
    """The real one, by its entry point: messages are in files, and the span refers to them."""
    pytest.importorskip("opentelemetry.util.genai._upload")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK", "upload")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_UPLOAD_BASE_PATH", tmp_path.as_uri())
    call_once(Recorder(tracer_provider=spans.provider))
    attributes = spans.one("chat m").attributes
    said = tmp_path / attributes["gen_ai.input.messages_ref"].rsplit("/", 1)[-1]
    await until(lambda: said.exists() and said.read_text(encoding="utf-8").endswith("]\n"))
    parts = [message["parts"][0] for message in json.loads(said.read_text(encoding="utf-8"))]
    assert [part["type"] for part in parts] == ["text", "tool_call", "tool_call_response"]
    assert parts[0]["content"] == "card 4111"
    assert "gen_ai.output.messages_ref" in attributes
    assert "gen_ai.input.messages" not in attributes
