"""Two support desks with one face: a CrewAI crew and a LangGraph graph that can swap two roles."""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from ..errors import RequestError
from .report import SWAPPED
from .roles import ROLES
from .settings import Settings
from .standin import StandIn
from .summary import Flow
from .tickets import OrderRecord, Ticket

__all__ = ["Desk", "check_key", "open_desk"]

#: Variables with an API key, by the start of the model's name.
_KEYS: Final = {
    "gpt": "OPENAI_API_KEY",
    "o1": "OPENAI_API_KEY",
    "o3": "OPENAI_API_KEY",
    "o4": "OPENAI_API_KEY",
    "openai/": "OPENAI_API_KEY",
    "claude": "ANTHROPIC_API_KEY",
    "anthropic/": "ANTHROPIC_API_KEY",
    "gemini": "GOOGLE_API_KEY",
}


def check_key(settings: Settings) -> None:
    """Raise ``RequestError`` when the LLM's API key is known to be missing."""
    llm = settings.llm or ""
    for start, variable in _KEYS.items():
        if llm.startswith(start) and not os.environ.get(variable):
            raise RequestError(
                f"--llm {llm} needs an API key: set {variable}, or leave --llm out to use the "
                "scripted stand-in."
            )


class Desk(Protocol):
    """Answers tickets, from several threads at once, and records every call."""

    def answer(self, ticket: Ticket) -> str:
        """The reply to one ticket."""

    def swapped(self) -> contextlib.AbstractContextManager[None]:
        """Inside, two roles run on the SLM with the LLM as fallback."""

    def close(self) -> None:
        """Stop recording."""


def open_desk(
    flow: Flow,
    settings: Settings,
    tickets: Sequence[Ticket],
    orders: Mapping[str, OrderRecord],
    recording: Mapping[str, Any],
) -> Desk:
    """The desk of one framework; ``recording``: arguments of its ``CallRecorder``."""
    kind = _CrewDesk if flow == "crewai" else _GraphDesk
    return kind(settings, StandIn(tickets), orders, recording)


class _CrewDesk:
    """One crew per worker: a crew works on one ticket at a time."""

    def __init__(
        self,
        settings: Settings,
        script: StandIn,
        orders: Mapping[str, OrderRecord],
        recording: Mapping[str, Any],
    ) -> None:
        from ..crewai import CallRecorder
        from . import crew

        self._answer = crew.answer
        self._settings = settings
        self._llm = crew.large_llm(settings.llm) if settings.llm else crew.StandInLLM(script)
        self._crews = [crew.build_crew(self._llm, orders) for _ in range(settings.workers)]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for each in self._crews:
            self._idle.put(each)
        self._recorder = CallRecorder(**recording)

    def answer(self, ticket: Ticket) -> str:
        crew = self._idle.get()
        try:
            return self._answer(crew, ticket)
        finally:
            self._idle.put(crew)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        from ..crewai import SLM, swap

        how = self._settings.quantization
        slm = SLM(self._settings.slm, quantization=how, fallback=self._llm)
        with contextlib.ExitStack() as swaps:
            for crew in self._crews:
                swaps.enter_context(swap(crew, dict.fromkeys(SWAPPED, slm)))
            yield

    def close(self) -> None:
        self._recorder.close()


class _GraphDesk:
    """One graph for all workers, built again with other models for the swap."""

    def __init__(
        self,
        settings: Settings,
        script: StandIn,
        orders: Mapping[str, OrderRecord],
        recording: Mapping[str, Any],
    ) -> None:
        from ..langchain import CallRecorder
        from . import graph

        self._build, self._answer = graph.build_graph, graph.answer
        self._settings, self._orders = settings, orders
        self._llm = (
            graph.large_llm(settings.llm) if settings.llm else graph.StandInChat(script=script)
        )
        self._models = {role.name: self._llm for role in ROLES}
        self._graph = self._build(self._models, orders)
        self._recorder = CallRecorder(**recording)

    def answer(self, ticket: Ticket) -> str:
        return self._answer(self._graph, ticket, [self._recorder])

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        from ..langchain import ChatSLM

        slm = ChatSLM(
            self._settings.slm, quantization=self._settings.quantization, fallback=self._llm
        )
        before = self._graph
        self._graph = self._build({**self._models, **dict.fromkeys(SWAPPED, slm)}, self._orders)
        try:
            yield
        finally:
            self._graph = before

    def close(self) -> None:
        self._recorder.close()
