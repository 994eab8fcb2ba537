"""``CallRecorder`` on real LangGraph agents and graphs."""

from __future__ import annotations

import asyncio

import pytest
from conftest import until
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_models import HostedChat
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry.trace import SpanKind, StatusCode

from slm_adapters.langchain import CallRecorder


@pytest.fixture
def recorder(spans, calls) -> CallRecorder:
    return CallRecorder(tracer_provider=spans.provider, hooks=[calls.append])


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail(a: int) -> int:
    """Always fails."""
    raise LookupError(f"secret {a}")


def asks(*names: str) -> AIMessage:
    args = {"add": {"a": 1, "b": 2}, "fail": {"a": 1}}
    made = [{"name": n, "args": args.get(n, {}), "id": f"c{i}"} for i, n in enumerate(names)]
    return AIMessage("", tool_calls=made)


def using(recorder, **config) -> dict:
    return {"callbacks": [recorder], **config}


QUESTION = {"messages": [("user", "SECRET-4711")]}


def test_an_agent_is_one_tree(spans, recorder, calls) -> None:
    """Agent, model calls and tools nest as they ran; node chains make no spans."""
    agent = create_agent(HostedChat(replies=[asks("add"), "3"]), [add], name="adder")
    result = agent.invoke(QUESTION, using(recorder))
    assert result["messages"][-1].content == "3"
    assert spans.tree() == [
        ("chat hosted-1", "invoke_agent adder"),
        ("execute_tool add", "invoke_agent adder"),
        ("chat hosted-1", "invoke_agent adder"),
        ("invoke_agent adder", None),
    ]
    agent_span, tool_span = spans.one("invoke_agent"), spans.one("execute_tool")
    assert agent_span.kind is SpanKind.INTERNAL
    assert agent_span.attributes["gen_ai.agent.name"] == "adder"
    assert agent_span.start_time <= min(span.start_time for span in spans.all())
    assert tool_span.attributes["gen_ai.tool.call.id"] == "c0"
    assert tool_span.attributes["gen_ai.tool.name"] == "add"
    assert {call.role for call in calls} == {"adder"}
    assert len({call.run_id for call in calls}) == 1
    assert calls[0].replies[0].finish_reason == "tool_call"
    assert calls[0].tools[0].name == "add"
    assert calls[1].messages[-1].tool_call_id == "c0"
    assert recorder.open_runs == 0
    assert all("SECRET-4711" not in span.to_json() for span in spans.all())


async def test_an_agent_run_asynchronously_is_the_same_tree(spans, recorder) -> None:
    """``ainvoke`` makes the same spans, under the caller's."""
    agent = create_agent(HostedChat(replies=[asks("add", "add"), "3"]), [add], name="adder")
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await agent.ainvoke(QUESTION, using(recorder))
    tools = spans.named("execute_tool add")
    # The two tools run in parallel, so either may end first.
    assert {span.attributes["gen_ai.tool.call.id"] for span in tools} == {"c0", "c1"}
    assert {spans.parent_name(span) for span in tools} == {"invoke_agent adder"}
    assert spans.parent_name(spans.one("invoke_agent")) == "request"
    assert recorder.open_runs == 0


def test_an_agent_without_a_name_still_has_its_span(spans, recorder, calls) -> None:
    """An unnamed agent goes by its graph's name; no role is invented for it."""
    create_agent(HostedChat(), []).invoke(QUESTION, using(recorder))
    assert spans.one("invoke_agent").attributes["gen_ai.agent.name"] == "LangGraph"
    assert calls[0].role is None


def test_a_failing_tool_is_marked_and_raised(spans, recorder) -> None:
    """The tool's class of error is on its span and on the agent's; its text is not."""
    agent = create_agent(HostedChat(replies=[asks("fail"), "x"]), [fail], name="agent")
    with pytest.raises(LookupError):
        agent.invoke(QUESTION, using(recorder))
    for name in ("execute_tool fail", "invoke_agent agent"):
        assert spans.one(name).attributes["error.type"] == "LookupError"
        assert "secret" not in spans.one(name).to_json()
    assert recorder.open_runs == 0


def test_tool_content_only_when_switched_on(spans, monkeypatch) -> None:
    """Arguments and results follow the content switch and pass the redactor."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    recorder = CallRecorder(tracer_provider=spans.provider)
    agent = create_agent(HostedChat(replies=[asks("add"), "3"]), [add], name="adder")
    agent.invoke(QUESTION, using(recorder))
    span = spans.one("execute_tool")
    assert span.attributes["gen_ai.tool.call.arguments"] == '{"a": 1, "b": 2}'
    assert span.attributes["gen_ai.tool.call.result"] == "3"


def workflow(*nodes, name: str = "desk", **compiling):
    graph = StateGraph(MessagesState)
    for label, action in nodes:
        graph.add_node(label, action)
    names = [label for label, _ in nodes]
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph.compile(name=name, **compiling)


def answering(model):
    return lambda state: {"messages": [model.invoke(state["messages"])]}


def test_a_plain_graph_is_a_workflow(spans, recorder, calls) -> None:
    """A StateGraph is one ``invoke_workflow``; its nodes are the roles of the calls."""
    graph = workflow(("triage", answering(HostedChat())), ("reply", answering(HostedChat())))
    graph.invoke(QUESTION, using(recorder, configurable={"thread_id": "T1"}))
    assert spans.tree() == [
        ("chat hosted-1", "invoke_workflow desk"),
        ("chat hosted-1", "invoke_workflow desk"),
        ("invoke_workflow desk", None),
    ]
    span = spans.one("invoke_workflow")
    assert span.attributes["gen_ai.workflow.name"] == "desk"
    assert span.attributes["gen_ai.conversation.id"] == "T1"
    assert [call.role for call in calls] == ["triage", "reply"]
    assert all(s.attributes["gen_ai.conversation.id"] == "T1" for s in spans.named("chat"))


def test_agents_inside_a_graph(spans, recorder, calls) -> None:
    """Each agent is one span inside the workflow; an unnamed one is called by its node."""
    graph = workflow(
        ("triage", create_agent(HostedChat(), [])),
        ("reply", create_agent(HostedChat(), [], name="writer")),
    )
    graph.invoke(QUESTION, using(recorder))
    assert spans.tree() == [
        ("chat hosted-1", "invoke_agent LangGraph"),
        ("invoke_agent LangGraph", "invoke_workflow desk"),
        ("chat hosted-1", "invoke_agent writer"),
        ("invoke_agent writer", "invoke_workflow desk"),
        ("invoke_workflow desk", None),
    ]
    assert [call.role for call in calls] == ["triage", "writer"]


def test_an_agent_called_by_a_tool_nests_under_it(spans, recorder) -> None:
    """Sub-agents behind tools keep the chain agent > tool > agent > chat."""
    inner = create_agent(HostedChat(replies=["inner answer"]), [], name="expert")

    @tool
    def ask(question: str) -> str:
        """Ask the expert."""
        return inner.invoke({"messages": [("user", question)]})["messages"][-1].content

    call = AIMessage("", tool_calls=[{"name": "ask", "args": {"question": "?"}, "id": "c1"}])
    create_agent(HostedChat(replies=[call, "done"]), [ask], name="boss").invoke(
        QUESTION, using(recorder)
    )
    assert spans.parent_name(spans.one("invoke_agent expert")) == "execute_tool ask"
    assert spans.parent_name(spans.one("execute_tool ask")) == "invoke_agent boss"
    assert len(spans.named("invoke_agent")) == 2


def test_parallel_nodes_keep_their_parents(spans, recorder) -> None:
    """Nodes on pool threads are children of the one workflow span."""
    graph = StateGraph(MessagesState)
    for number in range(6):
        graph.add_node(f"n{number}", answering(HostedChat(delay_s=0.005)))
        graph.add_edge(START, f"n{number}")
    graph.compile(name="fan").invoke(QUESTION, using(recorder))
    assert {spans.parent_name(span) for span in spans.named("chat")} == {"invoke_workflow fan"}
    assert len(spans.named("chat")) == 6
    assert len(spans.named("invoke_workflow")) == 1


def test_t19_interrupts_are_no_errors(spans, recorder, caplog) -> None:
    """A paused graph and its resumption end without error status or warnings."""

    def ask_human(state):
        return {"messages": [("user", interrupt("really?"))]}

    graph = workflow(
        ("ask", ask_human), ("reply", answering(HostedChat())), checkpointer=InMemorySaver()
    )
    config = using(recorder, configurable={"thread_id": "T2"})
    assert "__interrupt__" in graph.invoke(QUESTION, config)
    graph.invoke(Command(resume="yes"), config)
    assert len(spans.named("invoke_workflow desk")) == 2
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())
    assert "Error in CallRecorder" not in caplog.text
    assert recorder.open_runs == 0


def test_t19_an_interrupt_inside_a_tool_is_no_error(spans, recorder) -> None:
    """A tool that waits for a human is interrupted, not failed."""

    @tool
    def confirm() -> str:
        """Ask the human."""
        return interrupt("sure?")

    agent = create_agent(
        HostedChat(replies=[asks("confirm"), "ok"]), [confirm], name="a",
        checkpointer=InMemorySaver(),
    )  # fmt: skip
    config = using(recorder, configurable={"thread_id": "T3"})
    agent.invoke(QUESTION, config)
    span = spans.one("execute_tool confirm")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["slm_adapters.outcome"] == "interrupted"


def test_t19_parent_commands_are_no_errors(spans, recorder) -> None:
    """Jumping out of a subgraph travels as an exception; it is none."""

    def leave(state):
        return Command(goto="reply", graph=Command.PARENT)

    inner = workflow(("leave", leave), name="inner")
    graph = StateGraph(MessagesState)
    graph.add_node("inner", inner)
    graph.add_node("reply", answering(HostedChat()))
    graph.add_edge(START, "inner")
    graph.compile(name="outer").invoke(QUESTION, using(recorder))
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())


def test_a_graph_that_fails_before_its_first_node_has_a_span(spans, recorder) -> None:
    """Bad input fails the graph itself; that is visible."""
    graph = workflow(("triage", answering(HostedChat())))
    with pytest.raises(Exception) as caught:
        graph.invoke(None, using(recorder))
    assert (
        spans.one("invoke_workflow desk")
        .attributes["error.type"]
        .endswith(type(caught.value).__name__)
    )


async def test_t20_a_cancelled_agent_leaves_nothing_open(spans, recorder) -> None:
    """Cancelling the run closes the agent and the model call inside it."""
    model = HostedChat(delay_s=60)
    agent = create_agent(model, [add], name="slow")
    task = asyncio.create_task(agent.ainvoke(QUESTION, using(recorder)))
    await until(lambda: model.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: recorder.open_runs == 0)
    for name in ("chat", "invoke_agent slow"):
        assert spans.one(name).attributes["error.type"].endswith("CancelledError")


async def test_streamed_agents(spans, recorder) -> None:
    """``stream`` and ``astream`` of a graph, also left early, close every span."""
    agent = create_agent(HostedChat(replies=[asks("add"), "3"]), [add], name="adder")
    for _ in agent.stream(QUESTION, using(recorder), stream_mode="messages"):
        pass
    assert len(spans.named("chat")) == 2
    assert spans.named("chat")[-1].attributes["gen_ai.request.stream"] is True
    stream = agent.astream(QUESTION, using(recorder))
    async for _ in stream:
        break
    await stream.aclose()
    await until(lambda: recorder.open_runs == 0)
    left = spans.named("invoke_agent")[-1]
    assert left.status.status_code is StatusCode.UNSET
