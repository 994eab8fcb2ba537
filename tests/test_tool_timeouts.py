"""Tools that take too long: their span ends, with the error's class, whoever stopped them."""

from __future__ import annotations

import asyncio
import time

import pytest
from crewai_cases import HostedLLM, agent, asks, crew, task, tool
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool as langchain_tool
from langchain_models import HostedChat

import slm_adapters.crewai
import slm_adapters.langchain

CANCELLED = "asyncio.exceptions.CancelledError"
ASKING = AIMessage("", tool_calls=[{"name": "look_up", "args": {"word": "x"}, "id": "1"}])


#: The limit that runs out when the tool has begun, however long it took to get there.
LIMITS: list[asyncio.Timeout] = []


async def for_ever() -> None:
    for limit in LIMITS:
        limit.reschedule(asyncio.get_running_loop().time())
    await asyncio.sleep(60)


@langchain_tool
async def look_up(word: str) -> str:
    """Look a word up, for ever."""
    await for_ever()
    return word


class Shelf(BaseRetriever):
    """Searches for ever."""

    def _get_relevant_documents(self, query, *, run_manager):
        return []

    async def _aget_relevant_documents(self, query, *, run_manager):
        await for_ever()
        return []


def desk():
    return create_agent(HostedChat(replies=[ASKING, "done"]), [look_up], name="desk")


async def limited(work) -> None:
    async with asyncio.timeout(None) as limit:
        LIMITS[:] = [limit]
        try:
            await work
        finally:
            LIMITS.clear()


async def alone(using) -> None:
    await limited(look_up.ainvoke({"word": "x"}, using))


async def retrieval(using) -> None:
    await limited(Shelf().ainvoke("x", using))


async def in_an_agent(using) -> None:
    await limited(desk().ainvoke({"messages": [("user", "q")]}, using))


async def by_the_graph(using) -> None:
    graph = desk()
    graph.step_timeout = 1
    await graph.ainvoke({"messages": [("user", "q")]}, using)


@pytest.mark.parametrize("way", [alone, retrieval, in_an_agent, by_the_graph])
async def test_t6_a_langchain_tool_that_times_out_ends_with_its_error(spans, way) -> None:
    """LangChain calls no handler for a cancelled tool: peers leave its span open."""
    recorder = slm_adapters.langchain.CallRecorder(tracer_provider=spans.provider)
    with pytest.raises(TimeoutError):
        await way({"callbacks": [recorder]})
    (stopped,) = (s for s in spans.all() if s.name.startswith(("execute_tool", "retrieval")))
    assert stopped.attributes["error.type"] == CANCELLED
    assert not stopped.status.is_ok
    assert not recorder._runs.live
    if way is by_the_graph:
        assert spans.one("invoke_agent").attributes["error.type"] == "TimeoutError"


def test_t6_a_crewai_tool_that_times_out_is_an_error_of_the_tool(spans) -> None:
    """The client inside it gave up; the agent reads that and goes on."""

    def during() -> None:
        raise TimeoutError("no answer in 5 s")

    with slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider) as recorder:
        crew(HostedLLM(asks(), "sorry"), tools=[tool(during)]).kickoff()
        assert len(recorder._events.scopes) == 0
    used = spans.one("execute_tool")
    assert used.attributes["error.type"] == "TimeoutError"
    assert not used.status.is_ok
    assert spans.parent_name(used) == "invoke_agent Researcher"
    assert spans.one("invoke_agent").status.is_ok


def test_t6_a_crewai_agent_out_of_time_in_a_tool(spans) -> None:
    """``max_execution_time`` ends the agent; the tool's thread runs on, its span with it."""
    from crewai import Crew

    slow = agent(
        HostedLLM(asks(), "late"), tools=[tool(lambda: time.sleep(1.2))], max_execution_time=1,
        max_retry_limit=0,
    )  # fmt: skip
    with slm_adapters.crewai.CallRecorder(tracer_provider=spans.provider) as recorder:
        with pytest.raises(TimeoutError):
            Crew(agents=[slow], tasks=[task(slow)]).kickoff()
        assert len(recorder._events.scopes) == 0
    for name in ("invoke_agent", "execute_task", "invoke_workflow"):
        assert spans.one(name).attributes["error.type"] == "TimeoutError"
    used = spans.one("execute_tool")
    assert used.end_time - used.start_time > 1.1e9
    assert spans.parent_name(used) == "invoke_agent Researcher"
    assert len({span.context.trace_id for span in spans.all()}) == 1
