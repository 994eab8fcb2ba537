"""The support desk as a CrewAI crew: triage, order look-up, reply writing, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..calls import Message
from ..errors import MissingExtraError
from .roles import LOOKUP, ROLES, TOOL_DESCRIPTION, TOOL_NAME, Role, lookup_order
from .standin import STAND_IN, StandIn, estimated_usage, unusable_llm
from .tickets import OrderRecord, Ticket

try:
    from crewai import LLM, Agent, BaseLLM, Crew, Process, Task
    from crewai.events.types.llm_events import LLMCallType
    from crewai.llms.base_llm import llm_call_context
    from crewai.tools import BaseTool, tool
except ImportError as error:  # pragma: no cover - tested in a separate process
    raise MissingExtraError("the demo's crew", "crewai", "demo") from error

__all__ = ["StandInLLM", "answer", "build_crew", "large_llm"]

#: A model that keeps calling the tool is stopped here and counted as wrong.
MAX_STEPS = 4


def build_crew(llm: Any, orders: Mapping[str, OrderRecord]) -> Crew:
    """The crew with every role on ``llm``; the look-up reads ``orders``. One thread at a time."""

    def lookup(order_id: str) -> str:
        return lookup_order(orders, order_id)

    lookup.__doc__ = TOOL_DESCRIPTION  # CrewAI reads a tool's description there
    tools = [tool(TOOL_NAME)(lookup)]
    tasks = [_task(role, llm, tools if role is LOOKUP else []) for role in ROLES]
    tasks[2].context = tasks[:2]
    return Crew(
        name="Support desk",
        agents=[task.agent for task in tasks],
        tasks=tasks,
        process=Process.sequential,
        verbose=False,
        tracing=False,
    )


def large_llm(name: str) -> BaseLLM:
    """A real LLM by its CrewAI name; raises ``RequestError`` when CrewAI cannot make one."""
    try:
        return LLM(model=name)
    except (ImportError, ValueError) as error:
        raise unusable_llm("CrewAI", name, error) from error


def answer(crew: Crew, ticket: Ticket) -> str:
    """The reply to one ticket."""
    return str(crew.kickoff(inputs={"ticket": ticket.text}))


def _task(role: Role, llm: Any, tools: list[BaseTool]) -> Task:
    agent = Agent(
        role=role.name,
        goal=role.goal,
        backstory=role.backstory,
        llm=llm,
        tools=tools,
        max_iter=MAX_STEPS,
        verbose=False,
    )
    return Task(
        name=role.name,
        description=role.description,
        expected_output=role.expected_output,
        agent=agent,
    )


class StandInLLM(BaseLLM):  # type: ignore[misc]
    """The scripted stand-in as a CrewAI LLM: ``StandInLLM(StandIn(tickets))``."""

    script: StandIn

    model_config: ClassVar[Any] = {"arbitrary_types_allowed": True}

    def __init__(self, script: StandIn, **fields: Any) -> None:
        super().__init__(**{"model": STAND_IN, "provider": "scripted", **fields}, script=script)

    def supports_function_calling(self) -> bool:
        return True

    def get_input_tokens_count(self, messages: Any, tools: Any = None, **_: Any) -> int:
        """The estimate that its usage reports, too."""
        asked = [Message.from_openai(m) for m in self._format_messages(messages)]
        return estimated_usage(asked, Message("assistant")).input_tokens

    def call(
        self,
        messages: str | list[Any],
        tools: list[Any] | None = None,
        callbacks: list[Any] | None = None,
        available_functions: dict[str, Any] | None = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: Any = None,
    ) -> Any:
        """What the script answers: text, or a list of OpenAI tool calls for the agent to run."""
        asked = [Message.from_openai(m) for m in self._format_messages(messages)]
        with llm_call_context():
            self._emit_call_started_event(
                messages, tools, callbacks, available_functions, from_task, from_agent
            )
            reply = self.script.answer(asked)
            usage = estimated_usage(asked, reply)
            counts = {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
            }
            self._track_token_usage_internal(counts)
            response = [call.to_openai() for call in reply.tool_calls] or reply.text
            kind = LLMCallType.TOOL_CALL if reply.tool_calls else LLMCallType.LLM_CALL
            self._emit_call_completed_event(
                response, kind, from_task, from_agent, messages, counts,
                "tool_calls" if reply.tool_calls else "stop",
            )  # fmt: skip
        return response
