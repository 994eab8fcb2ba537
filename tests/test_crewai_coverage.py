"""What a CrewAI run does beside asking models: each has its span, its parent and its verdict."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from crewai import Crew
from crewai.flow.flow import Flow, start
from crewai.flow.human_feedback import human_feedback
from crewai_cases import USAGE, HostedLLM, SilentLLM, agent, crew, task, tool
from opentelemetry.trace import StatusCode

from slm_adapters.calls import ToolCall
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.telemetry.harmless import failure_counts
from slm_adapters.testing import ScriptedModel

SECRET = "swordfish-4711"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
def recorder(recorder):
    """No failure of ours either."""
    before = failure_counts()
    yield recorder
    assert failure_counts().get("recording a CrewAI event") == before.get(
        "recording a CrewAI event"
    )


def tokens(span) -> tuple[int, int]:
    prefix = "gen_ai" if span.name.startswith("invoke_agent") else "slm_adapters"
    return tuple(span.attributes.get(f"{prefix}.usage.{way}_tokens") for way in ("input", "output"))


# Memory and knowledge


def memory(folder, llm):
    """CrewAI's own memory on a real LanceDB; only the embeddings are made up."""
    from crewai.memory.unified_memory import Memory

    return Memory(llm=llm, storage=str(folder), embedder=lambda texts: [[0.1, 0.2] for _ in texts])


def test_memory_is_saved_and_searched_in_spans_of_the_conventions(spans, recorder, tmp_path):
    """Saving may merge records, so it is an upsert; the search says how much it found."""
    kept = memory(tmp_path / "m", HostedLLM(model="librarian"))
    kept.remember(f"The {SECRET} is in the drawer.", scope="/", categories=["a"], importance=0.5)
    assert kept.recall("where", depth="shallow")
    saved, searched = spans.one("upsert_memory"), spans.one("search_memory")
    assert saved.name == "upsert_memory"
    assert saved.attributes["gen_ai.operation.name"] == "upsert_memory"
    assert searched.attributes["gen_ai.memory.record.count"] == 1
    assert SECRET not in "".join(span.to_json() for span in spans.all())


def test_a_crew_with_memory_searches_and_saves_inside_itself(spans, recorder, tmp_path):
    """The search is the agent's, the save the crew's, and the analysing calls are inside them."""
    kept = memory(tmp_path / "m", HostedLLM("[]", model="librarian"))
    crew(HostedLLM(), memory=kept).kickoff()
    kept.drain_writes()
    tree = spans.tree()
    assert {parent for name, parent in tree if name == "search_memory"} <= {
        "invoke_agent Researcher",
        "execute_task find",
    }
    assert not [name for name, parent in tree if parent is None and "workflow" not in name]


def test_a_memory_search_that_fails_is_an_error_of_its_own(spans, recorder, tmp_path):
    """The span names the class of the exception."""
    kept = memory(tmp_path / "m", HostedLLM())
    kept._embedder_instance = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        kept.recall("where", depth="shallow")
    assert spans.one("search_memory").attributes["error.type"] == "ZeroDivisionError"


def _knowing(llm, found: str = "The drawer is blue."):
    from crewai.knowledge.knowledge import Knowledge
    from crewai.knowledge.storage.base_knowledge_storage import BaseKnowledgeStorage

    class Shelf(BaseKnowledgeStorage):
        collection_name: str = "handbook"

        def search(self, *_: Any, **__: Any) -> Any:
            return [{"id": "1", "content": found, "metadata": {}, "score": 0.9}]

        async def asearch(self, *_: Any, **__: Any) -> Any:
            return self.search()

        def save(self, documents: Any) -> None: ...
        async def asave(self, documents: Any) -> None: ...
        def reset(self) -> None: ...
        async def areset(self) -> None: ...

    made = agent(llm)
    made.knowledge = Knowledge(collection_name="handbook", sources=[], storage=Shelf())
    return made


def test_knowledge_is_a_retrieval_and_the_rewriting_call_is_inside(spans, recorder):
    """CrewAI asks the model for a query first; that call belongs to the retrieval."""
    llm = HostedLLM(SECRET, "it is blue")
    made = _knowing(llm)
    Crew(agents=[made], tasks=[task(made)]).kickoff()
    retrieval = spans.one("retrieval")
    assert retrieval.name == "retrieval handbook"
    assert retrieval.attributes["gen_ai.data_source.id"] == "handbook"
    chats = spans.named("chat")
    assert [spans.parent_name(chat) for chat in chats] == [
        "retrieval handbook",
        "invoke_agent Researcher",
    ]
    assert SECRET not in retrieval.to_json()


def test_knowledge_without_a_query_leaves_no_retrieval_around_the_agent(spans, recorder):
    """CrewAI never says that this search is over; the agent's call is not inside it."""
    answers = iter([RuntimeError("no query"), None])

    def rewrite() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "it is blue"

    made = _knowing(HostedLLM(rewrite))
    Crew(agents=[made], tasks=[task(made)]).kickoff()
    last = max(spans.named("chat"), key=lambda span: span.start_time)
    assert last.status.status_code is StatusCode.UNSET
    assert spans.parent_name(last) != "retrieval handbook"


def test_queries_are_content(spans, monkeypatch):
    """With the switch on, what was searched for is on the spans."""
    monkeypatch.setenv(CONTENT, "SPAN_ONLY")
    with CallRecorder(tracer_provider=spans.provider):
        made = _knowing(HostedLLM("drawer colour", "it is blue"))
        Crew(agents=[made], tasks=[task(made)]).kickoff()
    assert spans.one("retrieval").attributes["gen_ai.retrieval.query.text"] == "drawer colour"


# Plans


def test_planning_a_crew_is_a_plan_and_its_call_is_inside(spans, recorder):
    """Crew(planning=True) plans before the first task."""
    plan = {"list_of_plans_per_task": [{"task_number": 1, "task": "find", "plan": SECRET}]}
    planner = HostedLLM(json.dumps(plan), model="planner")
    crew(HostedLLM(), planning=True, planning_llm=planner).kickoff()
    tree = spans.tree()
    assert ("plan Task Execution Planner", "invoke_workflow crew") in tree
    assert ("invoke_agent Task Execution Planner", "plan Task Execution Planner") in tree
    assert ("chat planner", "invoke_agent Task Execution Planner") in tree
    assert ("execute_task find", "invoke_workflow crew") in tree


def test_an_agent_that_plans_first_has_a_plan_inside(spans, recorder):
    """The call that makes the plan is a child of the plan, the work is beside it."""
    from crewai.agent.planning_config import PlanningConfig

    plan = json.dumps({"plan": "Look, then say.", "steps": [], "ready": True})
    made = agent(HostedLLM(plan, "done"), planning_config=PlanningConfig(max_attempts=1))
    Crew(agents=[made], tasks=[task(made)]).kickoff()
    tree = spans.tree()
    planned = [parent for name, parent in tree if name == "plan Researcher"]
    assert planned == ["invoke_agent Researcher"]
    assert ("chat hosted", "plan Researcher") in tree
    assert ("chat hosted", "invoke_agent Researcher") in tree


# Guardrails


def not_empty(output):
    return ("good" in output.raw, output.raw if "good" in output.raw else f"say good, {SECRET}")


def test_a_guardrail_says_its_verdict_and_its_attempt(spans, recorder):
    """A rejection is no error; the second attempt passes."""
    made = agent(HostedLLM("bad", "good"))
    Crew(agents=[made], tasks=[task(made, guardrail=not_empty)]).kickoff()
    first, second = spans.named("execute_guardrail")
    assert {first.name, second.name} == {"execute_guardrail not_empty"}
    assert first.attributes["slm_adapters.guardrail.passed"] is False
    assert second.attributes["slm_adapters.guardrail.passed"] is True
    assert second.attributes["slm_adapters.guardrail.attempt"] == 2
    assert first.status.status_code is StatusCode.UNSET
    assert spans.parent_name(first) == "execute_task find"
    assert SECRET not in "".join(span.to_json() for span in spans.all())


def test_a_guardrail_that_raises_is_an_error(spans, recorder):
    """The class of its exception is on its span."""

    def broken(output):
        raise LookupError(SECRET)

    made = agent(HostedLLM())
    with pytest.raises(LookupError):
        Crew(agents=[made], tasks=[task(made, guardrail=broken)]).kickoff()
    assert spans.one("execute_guardrail").attributes["error.type"] == "LookupError"


def test_an_llm_guardrail_is_named_by_its_kind_and_holds_its_call(spans, recorder):
    """Its instruction is content and stays off."""
    verdict = json.dumps({"valid": True, "feedback": None})
    made = agent(HostedLLM("fine", verdict))
    Crew(agents=[made], tasks=[task(made, guardrail=f"No {SECRET}.")]).kickoff()
    guardrail = spans.one("execute_guardrail")
    assert guardrail.name == "execute_guardrail llm"
    inside = [name for name, parent in spans.tree() if parent == guardrail.name]
    assert inside == ["invoke_agent Guardrail Agent"]
    assert SECRET not in "".join(span.to_json() for span in spans.all())


# Delegation, MCP, people


def test_t6_delegated_work_is_inside_the_tool_that_delegated_it(spans, recorder):
    """The coworker's agent and its call hang under the delegation."""
    arguments = {"task": "find", "context": "none", "coworker": "Writer"}
    asked = ToolCall("d1", "delegate_work_to_coworker", json.dumps(arguments)).to_openai()
    boss = agent(HostedLLM([asked], "thanks", model="boss"), allow_delegation=True)
    writer = agent(HostedLLM(model="writer"), "Writer")
    Crew(agents=[boss, writer], tasks=[task(boss)]).kickoff()
    tree = spans.tree()
    assert ("execute_tool delegate_work_to_coworker", "invoke_agent Researcher") in tree
    assert ("invoke_agent Writer", "execute_tool delegate_work_to_coworker") in tree
    assert ("chat writer", "invoke_agent Writer") in tree


@pytest.fixture
def mcp(monkeypatch):
    from crewai.mcp import client

    monkeypatch.setattr(client.MCPClient, "connected", True)

    def make(answer: Any):
        made = client.MCPClient.__new__(client.MCPClient)
        made.__dict__.update(max_retries=1, execution_timeout=5)
        monkeypatch.setattr(
            made, "_get_server_info", lambda: ("t", "https://tools.example:8443/mcp", "http")
        )

        async def answers(*_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        made._call_tool_impl = answers
        return made

    return make


def _mcp_result(text: str, failed: bool = False) -> Any:
    from crewai.mcp.client import _MCPToolResult

    return _MCPToolResult(content=text, is_error=failed)


async def test_an_mcp_call_on_its_own_is_a_tool_span(spans, recorder, mcp):
    """With the server it went to."""
    await mcp(_mcp_result("found")).call_tool("search", {"q": SECRET})
    used = spans.one("execute_tool search")
    assert used.attributes["mcp.method.name"] == "tools/call"
    assert used.attributes["server.address"] == "tools.example"
    assert used.attributes["server.port"] == 8443
    assert SECRET not in used.to_json()


@pytest.mark.parametrize("failed", [False, True])
def test_an_mcp_call_inside_a_tool_adds_to_the_tool_s_span(spans, recorder, mcp, failed):
    """One span, not two; what the server calls an error is one."""
    import asyncio

    client = mcp(_mcp_result("found", failed))
    asked = ToolCall("1", "look_up", '{"word": "cat"}').to_openai()

    def during() -> None:
        asyncio.run(client.call_tool("search", {"q": "cat"}))

    crew(HostedLLM([asked], "ok"), tools=[tool(during)]).kickoff()
    used = spans.one("execute_tool")
    assert used.name == "execute_tool look_up"
    assert used.attributes["server.address"] == "tools.example"
    assert used.attributes.get("error.type") == ("tool_error" if failed else None)


def test_human_input_is_two_moments_on_the_agent_s_span(spans, recorder, monkeypatch):
    """When a person was asked and when the answer came; what was said stays off."""
    answers = iter([f"more {SECRET}", ""])
    monkeypatch.setattr("builtins.input", lambda *_: next(answers))
    made = agent(HostedLLM("draft", "better"))
    Crew(agents=[made], tasks=[task(made, human_input=True)]).kickoff()
    names = [event.name for event in spans.one("invoke_agent").events]
    asked, received = "slm_adapters.human_input.requested", "slm_adapters.human_input.received"
    assert names == [asked, received] * 2
    assert SECRET not in "".join(span.to_json() for span in spans.all())


def test_human_feedback_in_a_flow_is_two_moments_on_the_workflow(spans, recorder, monkeypatch):
    """The flow's decorator asks; the workflow's span says when."""
    monkeypatch.setattr("builtins.input", lambda *_: "")

    class Reviewed(Flow):
        @start()
        @human_feedback(message="Good?")
        def draft(self) -> str:
            return "text"

    Reviewed().kickoff()
    names = [event.name for event in spans.one("invoke_workflow").events]
    assert names == ["slm_adapters.human_input.requested", "slm_adapters.human_input.received"]


# The same tree, whatever the entry


def _everything(**options: Any):
    """Two agents, a tool, a guardrail: what most crews are made of."""
    asked = ToolCall("1", "look_up", '{"word": "cat"}').to_openai()
    first = agent(HostedLLM([asked], "cat"), tools=[tool()])
    last = agent(HostedLLM("good"), "Writer")
    tasks = [task(first), task(last, "write", guardrail=not_empty)]
    return Crew(agents=[first, last], tasks=tasks, **options)


async def test_t4_every_entry_makes_the_same_tree_and_the_same_total(spans, recorder):
    """kickoff, kickoff_async, akickoff: equal names, parents and token counts."""
    import asyncio

    trees, totals = [], []
    for entry in ("kickoff", "kickoff_async", "akickoff"):
        made = _everything()
        if entry == "kickoff":
            await asyncio.to_thread(made.kickoff)
        else:
            await getattr(made, entry)()
        trees.append(sorted(spans.tree(), key=str))
        totals.append(tokens(spans.one("invoke_workflow")))
        spans.exporter.clear()
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) == 1 + 2 + 2 + 3 + 1 + 1
    assert totals == [(33, 9)] * 3


async def test_t4_kickoff_for_each_async_and_its_native_form(spans, recorder):
    """Copies at the same time: a trace each, the same tree each."""
    await crew(HostedLLM()).kickoff_for_each_async([{"n": "a"}, {"n": "b"}])
    await crew(HostedLLM()).akickoff_for_each([{"n": "a"}, {"n": "b"}])
    assert len({span.context.trace_id for span in spans.all()}) == 4
    assert len(spans.named("chat")) == 4
    assert [tokens(span) for span in spans.named("invoke_workflow")] == [(11, 3)] * 4


# Usage of a run


def test_t39_agents_and_workflows_carry_this_run_s_tokens_alone(spans, recorder):
    """One LLM object in two agents and two runs: CrewAI's own counter only grows."""
    llm = HostedLLM()
    made = crew(llm, llm)
    for _ in range(2):
        made.kickoff()
    assert [tokens(span) for span in spans.named("invoke_agent")] == [(11, 3)] * 4
    assert [tokens(span) for span in spans.named("invoke_workflow")] == [(22, 6)] * 2
    # The old way, which the peers take, is wrong by the second agent already.
    assert llm.get_token_usage_summary().prompt_tokens == 44


def test_t39_the_sum_of_the_calls_is_the_workflow_s(spans, recorder):
    """Tools, guardrails, delegation and planning included."""
    _everything().kickoff()
    spent = sum(span.attributes["gen_ai.usage.input_tokens"] for span in spans.named("chat"))
    assert tokens(spans.one("invoke_workflow"))[0] == spent == 33


def test_t39_a_flow_sums_its_crews_and_an_agent_alone_its_calls(spans, recorder):
    """One workflow span per level, each with its own sum."""

    class Outer(Flow):
        @start()
        def first(self) -> str:
            HostedLLM().call("x")
            return crew(HostedLLM(), HostedLLM()).kickoff().raw

    Outer().kickoff()
    sums = {span.name: tokens(span) for span in spans.named("invoke_workflow")}
    assert sums == {"invoke_workflow Outer": (33, 9), "invoke_workflow crew": (22, 6)}
    spans.exporter.clear()
    agent(HostedLLM()).kickoff("x")
    assert tokens(spans.one("invoke_agent")) == (11, 3)


def test_t39_no_total_where_a_call_had_no_count(spans, recorder):
    """Half a sum would be an invented number."""
    crew(HostedLLM(), SilentLLM(model="mine")).kickoff()
    assert tokens(spans.one("invoke_workflow")) == (None, None)
    agents = {span.name: tokens(span) for span in spans.named("invoke_agent")}
    assert agents == {"invoke_agent Researcher": (11, 3), "invoke_agent Writer": (None, None)}


def test_t39_parallel_tasks_add_up(spans, recorder):
    """Threads lose no count."""
    made = [agent(HostedLLM(), f"Agent {letter}") for letter in "abcd"]
    last = agent(HostedLLM(), "Last")
    tasks = [task(of, None, async_execution=True) for of in made]
    Crew(agents=[*made, last], tasks=[*tasks, task(last)]).kickoff()
    assert tokens(spans.one("invoke_workflow")) == (55, 15)


def test_t39_a_swapped_role_and_its_fallback_are_counted_once(spans, recorder):
    """The local model computed nothing before the fallback was asked."""
    llm = SLM(ScriptedModel([""]), fallback=HostedLLM(model="big"))
    crew(llm).kickoff()
    spent = sum(span.attributes.get("gen_ai.usage.input_tokens", 0) for span in spans.named("chat"))
    assert tokens(spans.one("invoke_workflow"))[0] == spent


def test_cached_and_reasoning_tokens_are_on_the_call(spans, recorder):
    """As CrewAI's usage dictionary has them; absent ones stay absent."""
    llm = HostedLLM()
    details = {"cached_prompt_tokens": 7, "reasoning_tokens": 2, "cache_creation_tokens": 1}
    emit = llm._emit_call_completed_event

    def completed(*arguments: Any, **keywords: Any) -> None:
        emit(*arguments, **keywords | {"usage": USAGE | details})

    object.__setattr__(llm, "_emit_call_completed_event", completed)
    llm.call("x")
    chat = spans.one("chat")
    assert chat.attributes["gen_ai.usage.cache_read.input_tokens"] == 7
    assert chat.attributes["gen_ai.usage.cache_creation.input_tokens"] == 1
    assert chat.attributes["gen_ai.usage.reasoning.output_tokens"] == 2
    HostedLLM(model="plain").call("x")
    assert "gen_ai.usage.reasoning.output_tokens" not in spans.one("chat plain").attributes


def test_agents_count_their_own_calls_in_the_newer_generation(spans, monkeypatch):
    """Model and tool calls per invocation; the default generation has no such metric."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    def counted(generation: str) -> dict[str, dict[str, int]]:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", generation)
        reader = InMemoryMetricReader()
        options = {"meter_provider": MeterProvider([reader]), "tracer_provider": spans.provider}
        with CallRecorder(**options):
            _everything().kickoff()
        scope = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
        return {
            metric.name.removeprefix("gen_ai.invoke_agent."): {
                point.attributes["gen_ai.agent.name"]: point.sum
                for point in metric.data.data_points
            }
            for metric in scope.metrics
            if metric.name.startswith("gen_ai.invoke_agent.")
        }

    latest = counted("gen_ai_latest_experimental")
    assert latest["inference_calls"] == {"Researcher": 2, "Writer": 1}
    assert latest["tool_calls"] == {"Researcher": 1, "Writer": 0}
    assert set(latest["duration"]) == {"Researcher", "Writer"}
    assert set(counted("")) == {"duration"}


def test_t5_a_hundred_crews_at_once(spans, recorder):
    """All of them inside their model call at the same moment: a hundred traces, no orphan."""
    errors: list[BaseException] = []
    together = threading.Barrier(100)

    def answer() -> str:
        together.wait(60)
        return "done"

    def work() -> None:
        try:
            crew(HostedLLM(answer)).kickoff()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert_a_hundred_traces(spans)


async def test_t5_a_hundred_crews_on_one_loop(spans, recorder):
    """The same natively asynchronous: tasks of one loop do not mix either."""
    slow = [crew(HostedLLM(lambda: time.sleep(0.01) or "done")) for _ in range(100)]
    await asyncio.gather(*(made.akickoff() for made in slow))
    assert_a_hundred_traces(spans)


def assert_a_hundred_traces(spans) -> None:
    finished = spans.all()
    assert len(finished) == 400
    assert len({span.context.trace_id for span in finished}) == 100
    assert len([span for span in finished if span.parent is None]) == 100
    assert {tokens(span) for span in spans.named("invoke_workflow")} == {(11, 3)}
    for span in spans.named("chat"):
        assert spans.parent_name(span) == "invoke_agent Researcher"
