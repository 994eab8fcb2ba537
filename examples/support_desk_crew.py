"""A support desk as a CrewAI crew: recorded, and with two of its three roles on a small model.

    python examples/support_desk_crew.py                 # a script stands in for the large LLM
    python examples/support_desk_crew.py gpt-4.1-mini    # a real one; needs OPENAI_API_KEY

The whole story in one file; `slm-adapters demo` runs it over many tickets and measures it.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from slm_adapters import CallStore, run, swap
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.demo.crew import StandInLLM
from slm_adapters.demo.roles import ROLES, TOOL_DESCRIPTION, lookup_order
from slm_adapters.demo.standin import StandIn
from slm_adapters.demo.tickets import generate, order_database

tickets = generate(3)
orders = order_database(tickets)
llm = LLM(sys.argv[1]) if len(sys.argv) > 1 else StandInLLM(StandIn(tickets))


def look_up(order_id: str) -> str:
    return lookup_order(orders, order_id)


look_up.__doc__ = TOOL_DESCRIPTION
lookup_tool = tool("lookup_order")(look_up)

# An ordinary crew: nothing in here knows slm-adapters.
triage, lookup, reply = (
    Agent(role=role.name, goal=role.goal, backstory=role.backstory, llm=llm) for role in ROLES
)
lookup.tools = [lookup_tool]
tasks = [
    Task(description=role.description, expected_output=role.expected_output, agent=agent)
    for role, agent in zip(ROLES, (triage, lookup, reply), strict=True)
]
crew = Crew(agents=[triage, lookup, reply], tasks=tasks)

with CallStore("support-desk.db") as store:
    # 1. Add one callback: every call becomes a span and a record.
    recorder = CallRecorder(store=store)

    # 2. Swap two roles: the small model answers, the LLM stays behind it as the fallback.
    slm = SLM("bundled", quantization="nf4", fallback=llm)
    with swap(crew, {"Triage": slm, "Order look-up": slm}):
        for ticket in tickets:
            with run(ticket.id):
                print(f"\n{ticket.text}\n--> {crew.kickoff(inputs={'ticket': ticket.text})}")

    # 3. Look at the result.
    recorder.close()
    print()
    for call in store.calls():
        print(f"{call.run_id}  {call.role:15}{call.model:15}{call.duration_s:6.2f} s")
