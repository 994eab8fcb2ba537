"""One LLM span a call, whatever is stacked: our recorders, a model of ours, an instrumented client.

Real clients over a fake server on a loopback port; each test runs under the official
instrumentation of OpenAI's client and under OpenLLMetry's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time

import crewai
import litellm
import openai
import pytest
from crewai_cases import crew
from fake_openai import fake_openai
from langchain_openai import ChatOpenAI
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

import slm_adapters.crewai
import slm_adapters.langchain
import slm_adapters.litellm
from slm_adapters.testing import ScriptedModel

INSTRUMENTATIONS = {
    "official": "opentelemetry.instrumentation.genai.openai",
    "openllmetry": "opentelemetry.instrumentation.openai",
}


@pytest.fixture(params=INSTRUMENTATIONS)
def server(request, spans, monkeypatch):
    """A fake of OpenAI behind an instrumented client and an instrumented httpx."""
    instrumentor = importlib.import_module(INSTRUMENTATIONS[request.param]).OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    HTTPXClientInstrumentor().instrument(tracer_provider=spans.provider)
    with fake_openai("Final Answer: done") as fake:
        monkeypatch.setenv("OPENAI_API_KEY", "x")
        monkeypatch.setenv("OPENAI_BASE_URL", fake.base_url)
        yield fake
    HTTPXClientInstrumentor().uninstrument()
    instrumentor.uninstrument()


def llm_spans(spans, count: int) -> list:
    """LLM spans by anybody; LiteLLM reports late, so there is some time for ``count`` of them."""
    deadline = time.monotonic() + 5
    while len(found(spans)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    return found(spans)


def found(spans) -> list:
    return [s for s in spans.all() if is_llm(s)]


def is_llm(span) -> bool:
    """By the conventions' mark, or OpenLLMetry's own for plain completions."""
    kinds = ("chat", "text_completion", "embeddings", "completion")
    name = span.attributes.get("gen_ai.operation.name")
    return name in kinds or "llm.request.type" in span.attributes


def assert_one_ours(spans, model: str = "gpt-4o-mini") -> None:
    (span,) = llm_spans(spans, 1)
    assert span.instrumentation_scope.name == "slm_adapters"
    assert span.attributes["gen_ai.request.model"] == model
    assert span.attributes["gen_ai.usage.input_tokens"] == 11


def chat_openai(server) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=server.base_url, api_key="x")


@pytest.mark.parametrize("layers", ["callback", "instrument", "traced", "all"])
def test_t16_langchain(spans, server, layers) -> None:
    """Callback, ``instrument()``, ``traced`` and all three, over a real client."""
    provider = {"tracer_provider": spans.provider}
    recorder = slm_adapters.langchain.CallRecorder(**provider)
    using = {"callbacks": [recorder]} if layers in ("callback", "all") else {}
    model = chat_openai(server)
    if layers in ("instrument", "all"):
        slm_adapters.langchain.instrument(**provider)
    if layers in ("traced", "all"):
        model = slm_adapters.langchain.traced(model, **provider)
    try:
        model.invoke("q", using)
        assert_one_ours(spans)
        (http,) = spans.named("POST")
        assert spans.parent_name(http) == "chat gpt-4o-mini"
    finally:
        slm_adapters.langchain.uninstrument()


async def test_t16_a_local_model_with_a_fallback(spans, server) -> None:
    """Two models were asked, so two spans: ours for the local one, ours for the fallback."""
    broken = ScriptedModel([slm_adapters.errors.GenerationError("no answer")])
    model = slm_adapters.langchain.ChatSLM(broken, fallback=chat_openai(server))
    recorder = slm_adapters.langchain.CallRecorder(tracer_provider=spans.provider)
    await model.ainvoke("q", {"callbacks": [recorder]})
    assert sorted(span.instrumentation_scope.name for span in llm_spans(spans, 2)) == [
        "slm_adapters", "slm_adapters",
    ]  # fmt: skip


@pytest.mark.parametrize("layers", ["recorder", "instrument", "both"])
@pytest.mark.parametrize("is_litellm", [False, True], ids=["native", "litellm"])
def test_t16_crewai(spans, server, layers, is_litellm) -> None:
    """CrewAI's own client and its LiteLLM path, with LiteLLM's recorder listening as well."""
    provider = {"tracer_provider": spans.provider}
    before = litellm.callbacks
    with contextlib.ExitStack() as stack:
        if layers in ("recorder", "both"):
            stack.enter_context(slm_adapters.crewai.CallRecorder(**provider))
        if layers in ("instrument", "both"):
            slm_adapters.crewai.instrument(**provider)
            stack.callback(slm_adapters.crewai.uninstrument)
        stack.enter_context(slm_adapters.litellm.CallRecorder(**provider))
        llm = crewai.LLM(
            model="openai/gpt-4o-mini", base_url=server.base_url, api_key="x",
            is_litellm=is_litellm,
        )  # fmt: skip
        assert "done" in str(crew(llm).kickoff())
        assert_one_ours(spans)
        assert spans.parent_name(spans.one("chat")) == "invoke_agent Researcher"
    litellm.callbacks = before


def by_openai(server) -> str:
    client = openai.OpenAI(base_url=server.base_url, api_key="x")
    messages = [{"role": "user", "content": "q"}]
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    return str(answer.choices[0].message.content)


def by_litellm(server) -> str:
    messages = [{"role": "user", "content": "q"}]
    options = {"api_base": server.base_url, "api_key": "x"}
    answer = litellm.completion(model="openai/gpt-4o-mini", messages=messages, **options)
    return str(answer.choices[0].message.content)


def by_langchain(server) -> str:
    return str(chat_openai(server).invoke("q").content)


@pytest.mark.parametrize("ask", [by_openai, by_litellm, by_langchain])
@pytest.mark.parametrize("entry", ["kickoff", "akickoff"])
def test_t16_a_custom_llm_of_crewai_s_that_emits_no_events(spans, server, ask, entry) -> None:
    """What CrewAI's guide shows, on whichever client, with every recorder on: one span, in which
    the HTTP span is; what LangChain or LiteLLM was answered is on it."""

    class Mine(crewai.BaseLLM):
        def call(self, messages, *_, **__):
            return ask(server)

        async def acall(self, messages, *_, **__):
            return ask(server)

    provider, calls = {"tracer_provider": spans.provider}, []
    before = litellm.callbacks
    try:
        slm_adapters.crewai.instrument(**provider, hooks=[calls.append])
        slm_adapters.langchain.instrument(**provider, hooks=[calls.append])
        slm_adapters.litellm.instrument(**provider, hooks=[calls.append])
        one = crew(Mine(model="mine"))
        one.kickoff() if entry == "kickoff" else asyncio.run(one.akickoff())
        (span,) = llm_spans(spans, 1)
    finally:
        slm_adapters.litellm.uninstrument()
        slm_adapters.langchain.uninstrument()
        slm_adapters.crewai.uninstrument()
        litellm.callbacks = before
    assert span.name == "chat mine"
    assert spans.parent_name(span) == "invoke_agent Researcher"
    assert spans.parent_name(spans.one("POST")) == "chat mine"
    assert [call.model for call in calls] == ["mine"]
    if ask is not by_openai:
        assert span.attributes["gen_ai.usage.input_tokens"] == calls[0].usage.input_tokens == 11
        agent = spans.one("invoke_agent")
        assert agent.attributes["gen_ai.usage.input_tokens"] == 11


async def ask_litellm(kind: str, server) -> None:
    """One call of each of LiteLLM's ways to OpenAI's client, streams read to the end."""
    options = {"model": "openai/gpt-4o-mini", "api_base": server.base_url, "api_key": "x"}
    options |= {"stream": True} if kind.endswith("stream") else {}
    messages = [{"role": "user", "content": "q"}]
    if kind.startswith("embedding"):
        litellm.embedding(input=["q"], encoding_format="float", **options)
    elif kind.startswith("chat"):
        answer = litellm.completion(messages=messages, **options)
    elif kind.startswith("achat"):
        answer = await litellm.acompletion(messages=messages, **options)
    else:
        options["model"] = "text-completion-openai/babbage-002"
        way = litellm.text_completion if kind.startswith("text") else litellm.atext_completion
        answer = way(prompt="q", **options)
        answer = answer if kind.startswith("text") else await answer
    if kind.startswith("a") and kind.endswith("stream"):
        async for _ in answer:
            pass
    elif kind.endswith("stream"):
        list(answer)


WAYS = [
    "chat", "chat stream", "achat", "achat stream", "text", "text stream", "atext", "atext stream",
    "embedding",
]  # fmt: skip


@pytest.mark.parametrize("kind", WAYS)
async def test_t16_litellm(spans, server, kind) -> None:
    """LiteLLM asks OpenAI through OpenAI's client: its span would be the second one."""
    with slm_adapters.litellm.CallRecorder(tracer_provider=spans.provider):
        await ask_litellm(kind, server)
        (span,) = await asyncio.to_thread(llm_spans, spans, 1)
    assert span.instrumentation_scope.name == "slm_adapters"
    assert span.status.is_unset
    if "stream" not in kind:
        assert span.attributes["gen_ai.usage.input_tokens"] == 11


def test_t16_litellm_is_as_before_when_nobody_records(spans, server) -> None:
    """The client's own span comes back; that it was away above is no accident."""
    slm_adapters.litellm.CallRecorder(tracer_provider=spans.provider).close()
    litellm.completion(
        model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "q"}],
        api_base=server.base_url, api_key="x",
    )  # fmt: skip
    (span,) = llm_spans(spans, 1)
    assert span.instrumentation_scope.name != "slm_adapters"


def test_t16_every_layer_at_once(spans, server) -> None:
    """LangChain's call and CrewAI's call and LiteLLM's, all recorders on: one span each."""
    provider = {"tracer_provider": spans.provider}
    before = litellm.callbacks
    slm_adapters.langchain.instrument(**provider)
    slm_adapters.crewai.instrument(**provider)
    slm_adapters.litellm.instrument(**provider)
    try:
        chat_openai(server).invoke("q")
        options = {"base_url": server.base_url, "api_key": "x"}
        crewai.LLM(model="openai/gpt-4o-mini", **options).call("q")
        crewai.LLM(model="openai/gpt-4o-mini", is_litellm=True, **options).call("q")
        litellm.completion(
            model="openai/gpt-4o-mini", messages=[{"role": "user", "content": "q"}],
            api_base=server.base_url, api_key="x",
        )  # fmt: skip
        scopes = [span.instrumentation_scope.name for span in llm_spans(spans, 4)]
        assert scopes == ["slm_adapters"] * 4
    finally:
        slm_adapters.langchain.uninstrument()
        slm_adapters.crewai.uninstrument()
        slm_adapters.litellm.uninstrument()
        litellm.callbacks = before
