"""Crews, and LLM stand-ins for hosted models, that the CrewAI tests share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import BaseLLM, llm_call_context
from crewai.tools import BaseTool
from pydantic import BaseModel, PrivateAttr

from slm_adapters.calls import Tool, ToolCall
from slm_adapters.crewai import SLM

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
#: What a crew of one agent with one task leaves behind.
WHOLE = {
    ("invoke_workflow crew", None),
    ("execute_task find", "invoke_workflow crew"),
    ("invoke_agent Researcher", "execute_task find"),
    ("chat hosted", "invoke_agent Researcher"),
}
LOOK_UP = Tool(
    "look_up",
    "Look a word up.",
    {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
).to_openai()
CALL = ToolCall("c1", "look_up", '{"word": "cat"}')


class Animal(BaseModel):
    name: str
    legs: int


class TextSLM(SLM):
    """A model whose agents are not offered native tools: they work in text."""

    def supports_function_calling(self) -> bool:
        return False


class HostedLLM(BaseLLM):
    """A stand-in for a hosted model: emits the events CrewAI's own providers emit."""

    _answers: list[Any] = PrivateAttr(default_factory=list)
    _asked: list[Any] = PrivateAttr(default_factory=list)

    def __init__(self, *answers: Any, model: str = "hosted", **options: Any) -> None:
        super().__init__(model=model, provider="anthropic", **options)
        self._answers = list(answers) or ["hosted answer"]

    @property
    def asked(self) -> list[Any]:
        """The messages of every call so far."""
        return self._asked

    def supports_function_calling(self) -> bool:
        return True

    def get_context_window_size(self) -> int:
        return 100_000

    def get_input_tokens_count(self, messages: Any, *_: Any, **__: Any) -> int:
        return len(str(messages)) // 4

    def call(self, messages: Any, tools: Any = None, **arguments: Any) -> Any:
        who = {name: arguments.get(name) for name in ("from_task", "from_agent")}
        with llm_call_context():
            self._emit_call_started_event(messages, tools, **who)
            answer = self._answers[len(self._asked) % len(self._answers)]
            self._asked.append(messages)
            try:
                if callable(answer):
                    answer = answer()
                if isinstance(answer, BaseException):
                    raise answer
            except Exception as error:
                self._emit_call_failed_event(str(error), **who)
                raise
            kind = LLMCallType.TOOL_CALL if isinstance(answer, list) else LLMCallType.LLM_CALL
            self._track_token_usage_internal(USAGE)
            self._emit_call_completed_event(
                answer, kind, usage=USAGE, finish_reason="end_turn", response_id="r-1", **who
            )
            return answer

    async def acall(self, *arguments: Any, **keywords: Any) -> Any:
        return self.call(*arguments, **keywords)


def asks(word: str = "cat", call_id: str = "call-7") -> list[dict[str, Any]]:
    """A hosted model's answer that looks a word up."""
    return [ToolCall(call_id, "look_up", json.dumps({"word": word})).to_openai()]


class SilentLLM(BaseLLM):
    """What most users write: a ``call`` that answers and emits nothing."""

    answer: Any = "silent answer"

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Noted(BaseTool):
    """A tool that says what it was given; ``during`` runs inside it."""

    name: str = "look up"
    description: str = "Look a word up."
    during: Any = None

    def _run(self, word: str) -> str:
        if self.during is not None:
            self.during()
        return f"found {word}"


def untappable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this CrewAI let nobody replace its bus's ``emit``."""

    def refuse(self: Any, name: str, value: Any) -> None:
        if name == "emit":
            raise AttributeError("read-only")
        object.__setattr__(self, name, value)

    monkeypatch.setattr(type(crewai_event_bus), "__setattr__", refuse)


@contextmanager
def busy_bus() -> Iterator[None]:
    """Every thread of CrewAI's bus is taken meanwhile: its listeners run afterwards."""
    crewai_event_bus._ensure_executor_initialized()
    pool = crewai_event_bus._sync_executor
    release, taken = threading.Event(), threading.Barrier(pool._max_workers + 1)

    def block() -> None:
        taken.wait(20)
        release.wait(60)

    for _ in range(pool._max_workers):
        pool.submit(block)
    taken.wait(20)
    try:
        yield
    finally:
        # Whatever happens, the tests after this one need the bus.
        release.set()
    crewai_event_bus.flush()


def tool(during: Callable[[], Any] | None = None) -> Noted:
    return Noted(during=during)


def agent(llm: BaseLLM, role: str = "Researcher", tools: Sequence[Any] = (), **kw: Any) -> Agent:
    return Agent(role=role, goal="Answer.", backstory="Careful.", llm=llm, tools=list(tools), **kw)


def task(
    of: Agent | None, name: str | None = "find", description: str = "Find it.", **kw: Any
) -> Task:
    return Task(description=description, expected_output="A word.", agent=of, name=name, **kw)


def crew(*llms: BaseLLM, tools: Sequence[Any] = (), **kw: Any) -> Crew:
    """One agent with one task per LLM: roles Researcher, Writer, Editor."""
    roles = ("Researcher", "Writer", "Editor")
    agents = [
        agent(llm, role, () if number else tools)
        for number, (llm, role) in enumerate(zip(llms, roles, strict=False))
    ]
    names = ("find", "write", "edit")
    tasks = [task(of, name) for of, name in zip(agents, names, strict=False)]
    return Crew(agents=agents, tasks=tasks, **kw)
