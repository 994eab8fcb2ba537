"""What a LangChain call does less of when only its span is read says the same as the rest."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableLambda
from langchain_models import HostedChat

from slm_adapters._langchain import nesting
from slm_adapters._langchain.plans import Plans
from slm_adapters.calls import Call, run
from slm_adapters.langchain import CallRecorder
from slm_adapters.telemetry.harmless import failure_counts
from slm_adapters.telemetry.semconv import CAPTURE_CONTENT_VARIABLE

METADATA = {"ls_model_name": "m", "ls_provider": "openai"}


def plan_of(plans: Plans, **params: Any) -> Any:
    return plans.plan("chat", None, params, METADATA)


def test_equal_parameters_share_a_plan_and_others_do_not() -> None:
    """Equal values of other types, and other values, are other parameters."""
    plans = Plans()
    first = plan_of(plans, temperature=1.0, max_tokens=5)
    assert plan_of(plans, temperature=1.0, max_tokens=5) is first
    assert type(plan_of(plans, temperature=1, max_tokens=5).fields["params"]["temperature"]) is int
    assert "gen_ai.request.temperature" not in plan_of(plans, temperature=True).attributes
    assert plan_of(plans, temperature=0.5).attributes["gen_ai.request.temperature"] == 0.5
    assert plans.plan("text_completion", None, {}, METADATA).name == "text_completion m"
    named = {**METADATA, "ls_model_name": "other"}
    assert plans.plan("chat", None, {"temperature": 1.0}, named).fields["model"] == "other"


def test_what_may_change_is_looked_at_each_time() -> None:
    """Lists, dicts, unnamed models and values that cannot be compared get a new plan."""
    plans, stop = Plans(), ["a"]
    plan_of(plans, stop=stop)
    stop.append("b")
    assert plan_of(plans, stop=stop).fields["params"]["stop"] == ["a", "b"]

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None

    assert plan_of(plans, extra=Odd()) is not plan_of(plans, extra=Odd())
    for name in ("first", "second"):
        assert plans.plan("chat", {"name": name}, {}, {}).fields["model"] == name


def test_plans_are_bounded() -> None:
    """A program that names a model anew for each call does not fill the memory."""
    plans = Plans()
    for number in range(1000):
        plans.plan("chat", None, {}, {"ls_model_name": f"m{number}"})
    assert len(plans._known) <= 256


def test_the_metadata_of_a_model_may_be_anything(spans) -> None:
    """An odd name is no reason to lose the span."""
    before = failure_counts().get("LangChain's on_chat_model_start", 0)
    recorder = CallRecorder(tracer_provider=spans.provider)
    config = {"callbacks": [recorder], "metadata": {"ls_model_name": ["odd"]}}
    RunnableLambda(lambda _: HostedChat().invoke("q", config)).invoke("q")
    assert spans.one("chat")
    assert failure_counts().get("LangChain's on_chat_model_start", 0) == before


MESSAGES = [
    SystemMessage("be brief"),
    HumanMessage([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": "data:"}]),
    HumanMessage("", name="ann"),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c1"}]),
    ToolMessage([{"type": "text", "text": "1"}, "2"], tool_call_id="c1"),
]
DETAILS = {"input_token_details": {"cache_read": 2}, "output_token_details": {"reasoning": 1}}


class Choosy(BaseChatModel):
    """Two choices, one of them a tool call, with details of the usage."""

    @property
    def _llm_type(self) -> str:
        return "choosy"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        usage = {"input_tokens": 5, "output_tokens": 4, "total_tokens": 9, **DETAILS}
        call = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1}, "id": "c2"}])
        text = AIMessage("two", response_metadata={"stop_reason": "end_turn"})
        text.usage_metadata = usage  # type: ignore[assignment]
        return ChatResult(generations=[ChatGeneration(message=m) for m in (call, text)])


@pytest.mark.parametrize("content", ["SPAN_ONLY", "NO_CONTENT"])
def test_a_span_is_the_same_whether_its_record_is_kept_or_not(spans, monkeypatch, content) -> None:
    """With a hook, the messages, reasons and counts on the span pass through the record."""
    monkeypatch.setenv(CAPTURE_CONTENT_VARIABLE, content)
    kept: list[Call] = []
    for hooks in ([], [kept.append]):
        recorder = CallRecorder(tracer_provider=spans.provider, hooks=hooks)
        for model in (Choosy(), HostedChat()):
            model.invoke(MESSAGES, {"callbacks": [recorder]})
            list(HostedChat().stream(MESSAGES, {"callbacks": [recorder]}))
    ours = ("slm_adapters.", "gen_ai.response.time_to_first_chunk")
    found = [
        {k: v for k, v in (span.attributes or {}).items() if not k.startswith(ours)}
        for span in spans.named("chat")
    ]
    assert len(found) == 8
    assert found[:4] == found[4:]
    assert kept[0].usage is not None
    assert found[0]["gen_ai.usage.cache_read.input_tokens"] == kept[0].usage.cached_tokens == 2
    assert found[0]["gen_ai.response.finish_reasons"] == ("tool_call", "stop")
    if content == "SPAN_ONLY":
        said = json.loads(found[0]["gen_ai.input.messages"])
        assert [message["role"] for message in said] == [
            "system", "user", "user", "assistant", "tool",
        ]  # fmt: skip
        assert said[4]["parts"][0]["response"] == "12"
        assert [p["type"] for p in said[1]["parts"]] == ["text", "image_url"]


def test_a_redactor_sees_everything_that_goes_on_a_span(spans, monkeypatch) -> None:
    """The short way past the records is not taken when there is a redactor."""
    monkeypatch.setenv(CAPTURE_CONTENT_VARIABLE, "SPAN_ONLY")
    recorder = CallRecorder(tracer_provider=spans.provider, redact=lambda messages: [])
    HostedChat(replies=["secret"]).invoke("secret", {"callbacks": [recorder]})
    assert "secret" not in spans.one("chat").to_json()


def test_a_hook_that_comes_while_a_call_runs_hears_of_its_end(spans) -> None:
    """Whether anybody reads the record is asked again at the end."""
    kept: list[Call] = []
    recorder = CallRecorder(tracer_provider=spans.provider)

    class Adds(HostedChat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
            recorder.recorder.hooks.append(kept.append)
            return super()._generate(messages, stop, run_manager, **kwargs)

    Adds().invoke("q", {"callbacks": [recorder]})
    assert [call.replies[0].message.text for call in kept] == ["a hosted answer"]


def test_a_run_id_is_for_runs(spans) -> None:
    """A call of its own has none on its span; what belongs together shares one."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    using = {"callbacks": [recorder]}
    HostedChat().invoke("q", using)
    with run("ticket-17"):
        HostedChat().invoke("q", using)
    chain = RunnableLambda(lambda _, config: [HostedChat().invoke("q", config) for _ in range(2)])
    chain.invoke("q", using)
    ids = [span.attributes.get("slm_adapters.run.id") for span in spans.named("chat")]
    assert ids[:2] == [None, "ticket-17"]
    assert ids[2] is not None
    assert ids[2] == ids[3]


def test_no_context_outlives_its_run(spans) -> None:
    """The table by which steps find their span is empty when nothing runs."""
    recorders = [CallRecorder(tracer_provider=spans.provider) for _ in range(2)]
    using = {"callbacks": recorders}

    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(HostedChat(delay_s=5).ainvoke("q", using), 0.01)

    HostedChat().invoke("q", using)
    with pytest.raises(ZeroDivisionError):
        HostedChat(replies=[ZeroDivisionError()]).invoke("q", using)
    next(iter(HostedChat().stream("q", using)))
    asyncio.run(cancelled())
    for recorder in recorders:
        recorder.close()
    assert not nesting.contexts
    assert len(spans.named("chat")) == 4


@pytest.mark.parametrize("hooks", [[], [lambda call: None]])
def test_an_answer_that_cannot_be_read_is_an_end_too(spans, hooks) -> None:
    """Nothing at all, or counts of another shape: the span ends, our failure is counted."""
    recorder = CallRecorder(tracer_provider=spans.provider, hooks=hooks)
    odd = AIMessage("a")
    odd.usage_metadata = {"tokens": 1}  # type: ignore[typeddict-item]
    before = failure_counts().get("LangChain's on_llm_end", 0)
    for generations in ([], [[ChatGeneration(message=odd)]]):
        key = uuid4()
        recorder.on_chat_model_start({"name": "m"}, [[HumanMessage("q")]], run_id=key)
        recorder.on_llm_end(LLMResult(generations=generations), run_id=key)
    assert len(spans.named("chat m")) == 2
    assert all("gen_ai.usage.input_tokens" not in span.attributes for span in spans.all())
    assert failure_counts()["LangChain's on_llm_end"] == before + 1
