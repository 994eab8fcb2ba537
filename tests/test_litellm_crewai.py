"""CrewAI's LiteLLM path, our LiteLLM recorder and our CrewAI recorder: one span per call."""

from __future__ import annotations

import time

import crewai
import litellm
import pytest
from conftest import Spans
from crewai_cases import agent, task, tool
from fake_openai import fake_openai
from litellm.integrations.custom_logger import CustomLogger
from opentelemetry.trace import SpanKind

import slm_adapters.crewai
import slm_adapters.litellm as slm
from slm_adapters.calls import ToolCall
from slm_adapters.testing import ScriptedModel


@pytest.fixture
def llm():
    slm.register({"one": ScriptedModel(["Final Answer: done"])})
    before = litellm.callbacks
    yield crewai.LLM(model="slm/one", is_litellm=True)
    litellm.callbacks = before
    slm.unregister()


def kickoff(llm) -> str:
    agent = crewai.Agent(role="Writer", goal="g", backstory="b", llm=llm)
    task = crewai.Task(description="say done", expected_output="done", agent=agent)
    return str(crewai.Crew(agents=[agent], tasks=[task]).kickoff())


def chats(spans: Spans, count: int) -> list:
    deadline = time.monotonic() + 5
    while len(spans.named("chat")) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    return spans.named("chat")


def test_t12_crewai_does_not_silence_the_recorder(spans, llm) -> None:
    """CrewAI replaces ``litellm.callbacks`` on every call; the recorder and the user's logger,
    placed in the success list, both get theirs."""
    seen = []

    class Mine(CustomLogger):
        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            seen.append(kwargs["model"])

    mine = Mine()
    litellm.success_callback.append(mine)
    try:
        with slm.CallRecorder(tracer_provider=spans.provider):
            assert kickoff(llm) == "done"
            (span,) = chats(spans, 1)
    finally:
        litellm.success_callback.remove(mine)
    assert seen == ["one"]
    assert span.attributes["gen_ai.provider.name"] == "slm_adapters"


def test_t12_two_recorders_one_span(spans, llm) -> None:
    """With CrewAI's recorder open around the call, LiteLLM's adds no second span."""
    with (
        slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider),
        slm.CallRecorder(tracer_provider=spans.provider) as recorder,
    ):
        assert kickoff(llm) == "done"
        (span,) = chats(spans, 1)
        assert recorder.open_calls == 0
    assert span.attributes["slm_adapters.role"] == "Writer"
    assert spans.parent_name(span) == "invoke_agent Writer"
    # As under LiteLLM's own recorder.
    assert span.kind is SpanKind.INTERNAL
    assert span.attributes["gen_ai.provider.name"] == "slm_adapters"


@pytest.mark.parametrize("place", ["base_url", "api_base"])
def test_a_server_s_model_is_the_server_s_also_in_crewai(spans, place) -> None:
    """``slm/...`` with an address: a CLIENT span with the server's kind and address."""
    slm.register()
    before = litellm.callbacks
    try:
        with (
            fake_openai() as fake,
            slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider),
        ):
            llm = crewai.LLM(model="slm/far", is_litellm=True, **{place: fake.base_url})
            assert llm.call("q").strip() == "It is done."
    finally:
        litellm.callbacks = before
        slm.unregister()
    span = spans.one("chat")
    assert span.kind is SpanKind.CLIENT
    assert span.attributes["gen_ai.provider.name"] == "openai_compatible"
    assert span.attributes["server.address"] == "127.0.0.1"


def test_t24_an_overlay_puts_a_role_on_an_slm_without_touching_the_crew(monkeypatch) -> None:
    """The zero-code swap: stop words are sent, tools are native, the window is the model's own
    and the declared temperature is carried; other roles keep their LLM."""
    from crewai.llm_overlay import llm_overlay

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    call = ToolCall("c1", "look_up", '{"word": "cat"}')
    engine = ScriptedModel([call, "cat found"], name="overlaid", context_window=8000)
    slm.register({"overlaid": engine})
    before = litellm.callbacks

    def build() -> crewai.Crew:
        declared = crewai.LLM(model="gpt-4.1-mini", temperature=0.3, stop=["END"])
        made = agent(declared, tools=[tool()])
        return crewai.Crew(agents=[made], tasks=[task(made)])

    try:
        with llm_overlay({"Researcher": "slm/overlaid"}):
            swapped = build()
            assert str(swapped.kickoff()) == "cat found"
        llm = swapped.agents[0].llm
        assert llm.get_context_window_size() == int(8000 * 0.85)
        assert build().agents[0].llm.model == "gpt-4.1-mini"
    finally:
        litellm.callbacks = before
        slm.unregister()
    for request in engine.requests:
        assert request.temperature == 0.3
        assert "END" in request.stop
        assert [offered.name for offered in request.tools] == ["look_up"]
    assert len(engine.requests) == 2


@pytest.mark.parametrize("through", [True, False], ids=["litellm", "native"])
def test_a_model_has_one_name_however_it_is_reached(spans, through) -> None:
    """As under LiteLLM's own recorder: without the provider, which has an attribute."""
    with fake_openai("Final Answer: done") as fake:
        name = "gpt-4o-mini" if not through else "openai/gpt-4o-mini"
        address = {"base_url": fake.base_url, "api_key": "none"}
        hosted = crewai.LLM(model=name, is_litellm=through, **address)
        with slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider):
            assert kickoff(hosted) == "done"
            (span,) = chats(spans, 1)
    assert span.name == "chat gpt-4o-mini"
    assert span.attributes["gen_ai.request.model"] == "gpt-4o-mini"
    assert span.attributes["gen_ai.provider.name"] == "openai"
