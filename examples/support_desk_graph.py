"""A support desk as a LangGraph graph: recorded, with two of its three roles on a small model.

    python examples/support_desk_graph.py                       # a script stands in for the LLM
    python examples/support_desk_graph.py openai:gpt-4.1-mini   # a real one; needs its API key

The whole story in one file; `slm-adapters demo` runs it over many tickets and measures it.
"""

from __future__ import annotations

import sys
from typing import TypedDict

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

from slm_adapters import CallStore, run
from slm_adapters.demo.graph import StandInChat
from slm_adapters.demo.roles import LOOKUP, REPLY, TOOL_DESCRIPTION, TRIAGE, lookup_order
from slm_adapters.demo.standin import StandIn
from slm_adapters.demo.tickets import generate, order_database
from slm_adapters.langchain import CallRecorder, ChatSLM

tickets = generate(3)
orders = order_database(tickets)
llm = init_chat_model(sys.argv[1]) if len(sys.argv) > 1 else StandInChat(script=StandIn(tickets))

# Swap two roles: the small model answers, the LLM stays behind it as the fallback.
slm = ChatSLM("bundled", quantization="nf4", fallback=llm)


@tool("lookup_order", description=TOOL_DESCRIPTION)
def look_up(order_id: str) -> str:
    return lookup_order(orders, order_id)


triage_agent = create_agent(slm, [], system_prompt=TRIAGE.system_prompt)
lookup_agent = create_agent(slm, [look_up], system_prompt=LOOKUP.system_prompt)
reply_agent = create_agent(llm, [], system_prompt=REPLY.system_prompt)


class Desk(TypedDict, total=False):
    ticket: str
    triage: str
    order: str
    reply: str


def ask(agent, text: str) -> str:
    return agent.invoke({"messages": [{"role": "user", "content": text}]})["messages"][-1].text


def reply(state: Desk) -> Desk:
    known = f"Ticket:\n{state['ticket']}\n\nTriage: {state['triage']}\nOrder: {state['order']}"
    return {"reply": ask(reply_agent, known)}


graph = StateGraph(Desk)
graph.add_node("Triage", lambda state: {"triage": ask(triage_agent, state["ticket"])})
graph.add_node("Order look-up", lambda state: {"order": ask(lookup_agent, state["ticket"])})
graph.add_node("Reply writer", reply)
graph.add_edge(START, "Triage")
graph.add_edge("Triage", "Order look-up")
graph.add_edge("Order look-up", "Reply writer")
graph.add_edge("Reply writer", END)
desk = graph.compile(name="Support desk")

with CallStore("support-desk.db") as store:
    # Add one callback: every call becomes a span and a record.
    recorder = CallRecorder(store=store)
    for ticket in tickets:
        with run(ticket.id):
            state = desk.invoke({"ticket": ticket.text}, config={"callbacks": [recorder]})
            print(f"\n{ticket.text}\n--> {state['reply']}")

    print()
    for call in store.calls():
        print(f"{call.run_id}  {call.role:15}{call.model:15}{call.duration_s:6.2f} s")
