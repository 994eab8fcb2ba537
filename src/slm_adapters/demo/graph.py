"""The support desk as a LangGraph graph: the same three roles, each an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..calls import Message
from ..calls import role as labelled
from ..errors import MissingExtraError
from .roles import LOOKUP, REPLY, ROLES, TOOL_DESCRIPTION, TOOL_NAME, TRIAGE, Role, lookup_order
from .standin import STAND_IN, estimated_usage, unusable_llm
from .tickets import OrderRecord, Ticket

try:
    from langchain.agents import create_agent
    from langchain.chat_models import init_chat_model
    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.messages.utils import convert_to_openai_messages
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.tools import tool
    from langchain_core.utils.function_calling import convert_to_openai_tool
    from langgraph.graph import END, START, StateGraph
except ImportError as error:  # pragma: no cover - tested in a separate process
    raise MissingExtraError("the demo's graph", "langchain and langgraph", "demo") from error

__all__ = ["StandInChat", "answer", "build_graph", "large_llm"]

#: LangGraph's own limit on steps: a model that keeps calling the tool is stopped here.
MAX_STEPS = 12


class Desk(TypedDict, total=False):
    """What the roles hand on: the ticket's text and each role's answer."""

    ticket: str
    triage: str
    order: str
    reply: str


def build_graph(models: Mapping[str, Any], orders: Mapping[str, OrderRecord]) -> Any:
    """The graph with one chat model per role name; the look-up reads ``orders``. Thread-safe."""

    @tool(TOOL_NAME, description=TOOL_DESCRIPTION)
    def lookup(order_id: str) -> str:
        return lookup_order(orders, order_id)

    agents = {
        role: create_agent(
            models[role.name],
            tools=[lookup] if role is LOOKUP else [],
            system_prompt=role.system_prompt,
            # It becomes the name of messages, and OpenAI takes no spaces there.
            name=role.name.lower().replace(" ", "-"),
        )
        for role in ROLES
    }

    def ask(role: Role, text: str, config: RunnableConfig) -> str:
        with labelled(role.name):
            said = {"messages": [{"role": "user", "content": text}]}
            return str(agents[role].invoke(said, config)["messages"][-1].text)

    def triage(state: Desk, config: RunnableConfig) -> Desk:
        return {"triage": ask(TRIAGE, state["ticket"], config)}

    def look_up(state: Desk, config: RunnableConfig) -> Desk:
        return {"order": ask(LOOKUP, state["ticket"], config)}

    def reply(state: Desk, config: RunnableConfig) -> Desk:
        known = f"Ticket:\n{state['ticket']}\n\nTriage: {state['triage']}\nOrder: {state['order']}"
        return {"reply": ask(REPLY, known, config)}

    graph = StateGraph(Desk)
    steps = ((TRIAGE, triage), (LOOKUP, look_up), (REPLY, reply))
    previous = START
    for role, step in steps:
        graph.add_node(role.name, step)
        graph.add_edge(previous, role.name)
        previous = role.name
    graph.add_edge(previous, END)
    return graph.compile(name="Support desk")


def large_llm(name: str) -> BaseChatModel:
    """A real LLM by CrewAI's or LangChain's name; raises ``RequestError`` without its package."""
    try:
        return init_chat_model(name.replace("/", ":", 1))
    except (ImportError, ValueError) as error:
        raise unusable_llm("LangChain", name, error) from error


def answer(graph: Any, ticket: Ticket, callbacks: list[Any]) -> str:
    """The reply to one ticket, with these callbacks on every model call."""
    config: RunnableConfig = {"callbacks": callbacks, "recursion_limit": MAX_STEPS}
    return str(graph.invoke({"ticket": ticket.text}, config)["reply"])


class StandInChat(BaseChatModel):
    """The scripted stand-in as a LangChain chat model: ``StandInChat(script=StandIn(tickets))``."""

    script: Any
    model: str = STAND_IN

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        shown = convert_to_openai_messages(messages)
        asked = [Message.from_openai(m) for m in shown]
        given = self.script.answer(asked)
        usage = estimated_usage(asked, given)
        message = AIMessage(
            given.text,
            tool_calls=[
                {"id": call.id, "name": call.name, "args": call.parsed()}
                for call in given.tool_calls
            ],
            usage_metadata={
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
            },
            response_metadata={
                "model_name": self.model,
                "finish_reason": "tool_calls" if given.tool_calls else "stop",
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])
