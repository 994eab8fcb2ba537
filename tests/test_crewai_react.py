"""Agents that work in text: the format of their steps holds whatever the model writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from call_families import script
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool
from crewai_cases import TextSLM
from tiny_models import tiny_model

from slm_adapters._crewai.convert import react_tools_of
from slm_adapters.calls import Message

ASKED: list[Any] = []


class Lookup(BaseTool):
    name: str = "look_up"
    description: str = "Look up an order."

    def _run(self, order_id: str) -> str:
        ASKED.append(order_id)
        return "it is on its way"


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSLM:
    """A random model that wants to say these things, as far as its grammar lets it."""
    model = TextSLM(tiny_model(tmp_path / "m", window=8192), device="cpu", max_tokens=300)
    model.warm_up()
    script(
        model.engine,
        monkeypatch,
        # The observation is made up.
        ' look it up\nAction: look_up\nAction Input: {"order_id": "A-1"}\nObservation: lost',
        " I know\nFinal Answer: it is on its way",
    )
    return model


def test_a_step_in_text_names_a_real_tool(llm: TextSLM) -> None:
    """The tool runs with JSON input, and no observation is invented."""
    agent = Agent(role="Desk", goal="help", backstory="b", llm=llm, tools=[Lookup()], max_iter=4)
    task = Task(description="Where is A-1?", expected_output="a sentence", agent=agent)
    result = Crew(agents=[agent], tasks=[task]).kickoff()
    assert ASKED == ["A-1"]
    assert result.raw == "it is on its way"


def test_the_tools_are_those_of_the_prompt() -> None:
    """Both of CrewAI's wordings; native tools and answers without tools are left alone."""
    stop = ("\nObservation:",)
    one = "Action: the action to take, only one name of [look up, add], just the name."
    two = "Use:\nThought: [reasoning]\nAction: [name from look up, add]\nAction Input: [JSON]"
    for text in (one, two):
        assert react_tools_of([Message("system", text)], stop) == ("look up", "add")
    assert react_tools_of([Message("system", one)], ()) == ()
    assert react_tools_of([Message("user", "What is an Action: [x]?")], stop) == ()
