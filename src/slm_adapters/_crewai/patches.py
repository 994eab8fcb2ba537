"""The places of CrewAI that must know our class; other LLMs pass through unchanged.

``InternalInstructor`` would send the text to convert to a hosted model named after ours,
``Crew.calculate_usage_metrics`` counts an LLM once per agent that holds it, and an agent with a
time limit tells nobody when its time began.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from crewai import Agent, Crew
from crewai.types.usage_metrics import UsageMetrics
from crewai.utilities.internal_instructor import InternalInstructor

from ..telemetry.harmless import shielded
from .limits import limited, limited_async

if TYPE_CHECKING:
    from .model import SLM

__all__ = ["install"]

_PATCHED = "_slm_adapters_original"


def install(kind: type[SLM]) -> None:
    """Teach these places about ``kind``; doing it twice changes nothing."""
    _replace(InternalInstructor, "_create_instructor_client", _for(kind, _client))
    _replace(Crew, "calculate_usage_metrics", _for(kind, _usage))
    _replace(Agent, "_execute_with_timeout", limited)
    _replace(Agent, "_aexecute_with_timeout", limited_async)


def _replace(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    if hasattr(original, _PATCHED):
        return
    wrapped = wrap(original)
    setattr(wrapped, _PATCHED, original)
    setattr(owner, name, wrapped)


def _for(kind: type[SLM], replacement: Callable[..., Any]) -> Callable[[Any], Any]:
    """Make ``replacement(kind, original, self)`` a method in place of ``original``."""

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def wrapped(self: Any) -> Any:
            return replacement(kind, original, self)

        return wrapped

    return wrap


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
