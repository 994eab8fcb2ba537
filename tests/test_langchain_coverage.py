"""LangChain's entry points one by one: every way to ask a model is one span with exact tokens."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import until
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_models import HostedChat, PlainLLM

from slm_adapters.langchain import CallRecorder

ASKED = ["a", "b"]


async def abatch(model: Any, using: Any) -> None:
    await model.abatch(ASKED, using)


async def batch_as_completed(model: Any, using: Any) -> None:
    list(model.batch_as_completed(ASKED, using))


async def abatch_as_completed(model: Any, using: Any) -> None:
    async for _ in model.abatch_as_completed(ASKED, using):
        pass


async def generate(model: Any, using: Any) -> None:
    ask = model.generate if isinstance(model, PlainLLM) else model.generate_prompt
    prompts = ASKED if isinstance(model, PlainLLM) else [model._convert_input(q) for q in ASKED]
    ask(prompts, callbacks=using["callbacks"])


async def streams(model: Any, using: Any) -> None:
    list(model.stream("a", using))
    async for _ in model.astream("b", using):
        pass


async def v2_events(model: Any, using: Any) -> None:
    for question in ASKED:
        async for _ in model.astream_events(question, using, version="v2"):
            pass


WAYS = [abatch, batch_as_completed, abatch_as_completed, generate, streams, v2_events]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [HostedChat, PlainLLM], ids=["chat", "plain"])
async def test_two_questions_are_two_spans_in_the_caller_s_trace(spans, kind, way) -> None:
    """Whatever the entry; the plain LLM counts where LangChain passes its counts on."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await way(kind(), {"callbacks": [recorder]})
    await until(lambda: recorder.open_runs == 0)
    name = "chat hosted-1" if kind is HostedChat else "text_completion plain-1"
    assert [span.name for span in spans.all()] == [name, name, "request"]
    for span in spans.named(name):
        assert spans.parent_name(span) == "request"
        if kind is HostedChat:
            assert span.attributes["gen_ai.usage.input_tokens"] == 11


SECRET = "SECRET-4711"


class Shelf(BaseRetriever):
    """Finds what it was asked for."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(query)]


def look_up(word: str) -> str:
    """Look a word up."""
    return f"found {word}"


@pytest.mark.parametrize(
    "broken", [lambda m: 1 / 0, lambda m: None, lambda m: ["text"]], ids=["raises", "none", "text"]
)
def test_t26_a_redactor_that_fails_leaks_from_no_tool_and_no_retriever(
    spans, monkeypatch, broken
) -> None:
    """Arguments, results and queries are content like messages, and go with them."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    calls: list[Any] = []
    options = {"tracer_provider": spans.provider, "hooks": [calls.append], "redact": broken}
    using = {"callbacks": [CallRecorder(**options)]}
    asking = AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": SECRET}, "id": "1"}])
    desk = create_agent(HostedChat(replies=[asking, SECRET]), [look_up], name="desk")
    assert desk.invoke({"messages": [("user", SECRET)]}, using)["messages"][-1].text == SECRET
    assert Shelf().invoke(SECRET, using)[0].page_content == SECRET
    assert len(spans.all()) == 5
    assert len(calls) == 2
    assert SECRET not in "".join(item.to_json() for item in (*spans.all(), *calls))
