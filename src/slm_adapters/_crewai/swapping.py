"""``swap``: put roles of a finished crew on other models, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, TypeAlias

from crewai import Agent, Crew
from crewai.llms.base_llm import BaseLLM

from ..engine.engine import ChatEngine
from .model import SLM

__all__ = ["Swap", "swap"]

Model: TypeAlias = BaseLLM | ChatEngine | PathLike[str] | str


def swap(target: Any, models: Mapping[str, Model]) -> Swap:
    """Put the named roles on other models, at once and until ``undo()`` or the ``with`` ends.

    ``target``: a crew or an agent. A model is an LLM of CrewAI (``SLM`` included) or what
    ``SLM(...)`` takes: a string is always a local model's name. A hierarchical crew's manager
    goes by its role, "Crew Manager" unless ``manager_agent`` has another. Raises ``LookupError``
    for a role the crew does not have, ``TypeError`` for another target.

        with swap(crew, {"Triage": "bundled"}): crew.kickoff()
    """
    if isinstance(target, Agent):
        places = _places_of_agents([target])
    elif isinstance(target, Crew):
        places = _places_of_crew(target)
    else:
        raise TypeError(
            f"swap() takes a crewai Crew or Agent, not {type(target).__name__}: pass the crew "
            "that holds the role."
        )
    wanted = {role.strip(): model for role, model in models.items()}
    known = {role for role, _ in places}
    unknown = sorted(wanted.keys() - known)
    if unknown:
        raise LookupError(
            f"no role {', '.join(map(repr, unknown))} here: the roles are "
            f"{', '.join(map(repr, sorted(known)))}."
        )
    llms = {role: _llm_of(model) for role, model in wanted.items()}
    return Swap([place(llms[role]) for role, place in places if role in llms])


class Swap:
    """What was swapped; ``undo()`` restores the very objects that were there before."""

    def __init__(self, undoings: list[Callable[[], None]]) -> None:
        self._undoings = undoings

    def undo(self) -> None:
        """Restore the original LLMs; a second time changes nothing."""
        while self._undoings:
            self._undoings.pop()()

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()


#: Puts an LLM in a place and returns how to undo it.
_Place = Callable[[BaseLLM], Callable[[], None]]


def _llm_of(model: Any) -> BaseLLM:
    if isinstance(model, BaseLLM):
        return model
    if isinstance(model, str | PathLike | ChatEngine):
        return SLM(model)
    raise TypeError(
        f"cannot put a role on {type(model).__name__}: pass SLM(...), crewai.LLM(...) or the "
        "name of a local model."
    )


def _places_of_crew(crew: Crew) -> list[tuple[str, _Place]]:
    agents = list(crew.agents)
    agents += [task.agent for task in crew.tasks if task.agent is not None]
    if crew.manager_agent is not None:
        agents.append(crew.manager_agent)
    places = _places_of_agents(agents)
    if crew.manager_agent is None and crew.manager_llm is not None:
        places.append((_manager_role(), functools.partial(_put_manager, crew)))
    return places


def _places_of_agents(agents: Iterable[Any]) -> list[tuple[str, _Place]]:
    distinct = {id(agent): agent for agent in agents}
    return [
        (role.strip(), functools.partial(_put, agent))
        for agent in distinct.values()
        # A template ("Researcher for {topic}") keeps its own text beside the filled one.
        for role in dict.fromkeys([agent.role, agent._original_role or agent.role])
    ]


def _put(agent: Any, llm: BaseLLM) -> Callable[[], None]:
    original, executor = agent.llm, getattr(agent, "agent_executor", None)
    bound = getattr(executor, "llm", None)
    agent.llm = llm
    if executor is not None:
        # An executor of an earlier kickoff still holds the llm it was made with.
        executor.llm = llm

    def undo() -> None:
        agent.llm = original
        now = getattr(agent, "agent_executor", None)
        if now is not None:
            now.llm = bound if now is executor else original

    return undo


def _put_manager(crew: Crew, llm: BaseLLM) -> Callable[[], None]:
    original = crew.manager_llm
    crew.manager_llm = llm

    def undo() -> None:
        crew.manager_llm = original
        # Made by a kickoff meanwhile, on the swapped model.
        crew.manager_agent = None

    return undo


def _manager_role() -> str:
    from crewai.utilities.i18n import I18N_DEFAULT

    return str(I18N_DEFAULT.retrieve("hierarchical_manager_agent", "role")).strip()
