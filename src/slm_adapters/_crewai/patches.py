"""Two places of CrewAI that must know our class; other LLMs pass through unchanged.

``InternalInstructor`` would send the text to convert to a hosted model named after ours, and
``Crew.calculate_usage_metrics`` counts an LLM once per agent that holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from crewai import Crew
from crewai.types.usage_metrics import UsageMetrics
from crewai.utilities.internal_instructor import InternalInstructor

from ..telemetry.harmless import shielded

if TYPE_CHECKING:
    from .model import SLM

__all__ = ["install"]

_PATCHED = "_slm_adapters_original"


def install(kind: type[SLM]) -> None:
    """Teach both places about ``kind``; doing it twice changes nothing."""
    _wrap(InternalInstructor, "_create_instructor_client", functools.partial(_client, kind))
    _wrap(Crew, "calculate_usage_metrics", functools.partial(_usage, kind))


def _wrap(owner: Any, name: str, replacement: Any) -> None:
    original = getattr(owner, name)
    if hasattr(original, _PATCHED):
        return

    @functools.wraps(original)
    def wrapped(self: Any) -> Any:
        return replacement(original, self)

    setattr(wrapped, _PATCHED, original)
    setattr(owner, name, wrapped)


def _client(kind: type[SLM], original: Any, instructor: Any) -> Any:
    """For our class, a client that asks the model itself; nothing leaves the process."""
    llm = instructor.llm
    if not isinstance(llm, kind):
        return original(instructor)

    def create(*, messages: Any, response_model: Any, **_: Any) -> Any:
        from crewai.hooks.llm_hooks import model_call_hooks_dispatched

        with model_call_hooks_dispatched():
            return llm.call(messages, response_model=response_model)

    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def _usage(kind: type[SLM], original: Any, crew: Any) -> Any:
    total = original(crew)
    with shielded("counting a crew's tokens once"):
        for extra in _counted_twice(kind, _llms_of(crew)):
            for name, value in extra.model_dump().items():
                setattr(total, name, getattr(total, name) - value)
    return total


def _llms_of(crew: Any) -> list[Any]:
    agents = [*crew.agents, *([crew.manager_agent] if crew.manager_agent else [])]
    return [agent.llm for agent in agents]


def _counted_twice(kind: type[SLM], llms: list[Any]) -> Iterator[UsageMetrics]:
    seen: set[int] = set()
    everybody = {id(llm) for llm in llms}
    for llm in llms:
        if not isinstance(llm, kind):
            continue
        if id(llm) in seen:
            yield llm.get_token_usage_summary()
        elif id(llm.fallback) in everybody:
            # The fallback is an agent's LLM too and has counted these itself.
            yield UsageMetrics(**llm._fallback_usage)
        seen.add(id(llm))
