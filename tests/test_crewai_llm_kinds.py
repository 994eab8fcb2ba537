"""Every kind of CrewAI LLM, every way to ask it, and the asynchronous entries around it.

CrewAI's own OpenAI class and its LiteLLM path run over real HTTP against a fake on a loopback port.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from crewai import LLM
from crewai.flow.flow import Flow, start
from crewai_cases import HostedLLM, SilentLLM, agent, crew
from fake_openai import fake_openai

from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.testing import ScriptedModel


@pytest.fixture
def server():
    with fake_openai() as fake:
        yield {"base_url": fake.base_url, "api_key": "none"}


@pytest.fixture
def recorder(spans):
    with CallRecorder(tracer_provider=spans.provider) as made:
        yield made
        assert len(made._events.scopes) == 0


def native(server: Any, **options: Any) -> Any:
    return LLM(model="openai/gpt-4.1-mini", **server, **options)


def through_litellm(server: Any, **options: Any) -> Any:
    if options.get("stream"):
        options["stream_options"] = {"include_usage": True}
    return LLM(model="openai/gpt-4.1-mini", is_litellm=True, **server, **options)


def custom(server: Any, **options: Any) -> Any:
    return HostedLLM("It is done.", **options)


def silent(server: Any, **options: Any) -> Any:
    return SilentLLM(model="mine", answer="It is done.", **options)


def ours(server: Any, **options: Any) -> Any:
    return SLM(ScriptedModel(["It is done."]), **options)


def call(llm: Any) -> Any:
    return llm.call("q")


def acall(llm: Any) -> Any:
    return asyncio.run(llm.acall("q"))


#: Kind -> the exact tokens of its answer; None: it says nothing of them.
KINDS = {native: (11, 3), through_litellm: (11, 3), custom: (11, 3), silent: None, ours: (1, 3)}
#: A class without ``acall`` has no asynchronous way.
PAIRS = [(kind, ask) for kind in KINDS for ask in (call, acall) if (kind, ask) != (silent, acall)]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("kind", "ask"), PAIRS)
def test_a_call_is_one_span_with_its_tokens(spans, recorder, server, kind, ask, streamed) -> None:
    """In the caller's trace, with the time to the first chunk where chunks were told."""
    llm = kind(server, **({"stream": True} if streamed else {}))
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        assert str(ask(llm)).strip() == "It is done."
    (chat,) = spans.named("chat")
    assert spans.parent_name(chat) == "request"
    tokens = tuple(chat.attributes.get(f"gen_ai.usage.{way}_tokens") for way in ("input", "output"))
    assert tokens == (KINDS[kind] or (None, None))
    first = "gen_ai.response.time_to_first_chunk" in chat.attributes
    assert first is (streamed and kind not in (custom, silent))


async def _agent(llm: Any) -> None:
    await agent(llm).kickoff_async("x")


async def _native_agent(llm: Any) -> None:
    await agent(llm).akickoff("x")


@pytest.mark.parametrize("entry", [_agent, _native_agent])
async def test_t4_an_agent_alone_asynchronously(spans, recorder, entry) -> None:
    """The same two spans as ``Agent.kickoff``, in the caller's trace."""
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await entry(HostedLLM())
    assert set(spans.tree()) == {
        ("chat hosted", "invoke_agent Researcher"),
        ("invoke_agent Researcher", "request"),
        ("request", None),
    }


class Outer(Flow):
    """A flow that runs a crew asynchronously."""

    @start()
    async def first(self) -> str:
        return (await crew(HostedLLM()).akickoff()).raw


async def test_t4_a_flow_asynchronously(spans, recorder) -> None:
    """The crew is inside the flow, the flow inside the request."""
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        assert await Outer().kickoff_async() == "hosted answer"
    tree = spans.tree()
    assert ("invoke_workflow Outer", "request") in tree
    assert ("invoke_workflow crew", "invoke_workflow Outer") in tree
    assert ("chat hosted", "invoke_agent Researcher") in tree
    assert len({span.context.trace_id for span in spans.all()}) == 1
