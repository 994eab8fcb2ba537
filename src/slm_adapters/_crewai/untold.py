"""LLMs that emit no events: those events, made for our recorders alone.

A ``call`` that only answers is what CrewAI's guide to custom LLMs shows. Its span is there before
it asks a client, so that what the client does nests under it and nobody makes a second one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from types import CodeType
from typing import Any

from ..telemetry.open_call import new_call_id

try:
    from crewai.events.event_context import get_current_parent_id
except ImportError:  # a version without: the context says what is around

    def get_current_parent_id() -> str | None:
        return None


__all__ = ["Answered", "Asked", "emits_nothing"]

#: How a class emits the event, by whichever of CrewAI's ways.
_EMITTERS = {"_emit_call_started_event", "LLMCallStartedEvent"}


class Asked:
    """Stands for the started event; the LLM itself has the parameters."""

    type = "llm_call_started"
    #: Whether it streams to somebody is not known.
    stream = False

    def __init__(self, llm: Any, arguments: Mapping[str, Any]) -> None:
        self.llm = llm
        self.event_id = self.call_id = new_call_id()
        self.parent_event_id = get_current_parent_id()
        self.messages, self.tools = arguments.get("messages"), arguments.get("tools")
        self.agent_role = getattr(arguments.get("from_agent"), "role", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llm, name, None)


class Answered:
    """Stands for the completed event."""

    type = "llm_call_completed"
    call_type = usage = finish_reason = response_id = None

    def __init__(self, asked: Asked, response: Any) -> None:
        self.started_event_id, self.call_id = asked.event_id, asked.call_id
        self.response = response


@functools.lru_cache(maxsize=64)
def emits_nothing(kind: Any) -> bool:
    """Whether nothing in this class of LLM emits a call's events, as far as one can see."""
    for owner in kind.__mro__:
        if owner.__name__ in ("BaseLLM", "BaseModel", "object"):
            continue
        if owner.__module__.partition(".")[0] in ("crewai", "slm_adapters"):
            return False
        if any(_emits(member) for member in vars(owner).values()):
            return False
    return True


def _emits(member: Any) -> bool:
    function = inspect.unwrap(getattr(member, "__func__", member))
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and _names(code)


def _names(code: CodeType) -> bool:
    """Whether this code, or a function defined in it, names one of the emitters."""
    if not _EMITTERS.isdisjoint(code.co_names):
        return True
    return any(_names(const) for const in code.co_consts if isinstance(const, CodeType))
