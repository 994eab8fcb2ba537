"""What a model class knows about its own call and CrewAI's events do not carry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..messages import Reply, Usage

__all__ = ["CallFacts", "facts_for", "keep", "run_id", "sharing_facts"]


@dataclass
class CallFacts:
    """Shared by one model call and the recorders that see its events; filled in as it runs."""

    source: Any
    model: str
    provider: str
    in_process: bool
    response_format: dict[str, Any] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    reply: Reply | None = None
    usage: Usage | None = None
    response_model: str | None = None
    #: Set by a recorder that opened a call for it: the model then opens none itself.
    recorded: bool = False


_facts: ContextVar[CallFacts | None] = ContextVar("slm_adapters_crewai_facts", default=None)


#: By call id, for listeners, which run elsewhere and later.
_kept: OrderedDict[str, CallFacts] = OrderedDict()
_KEPT_LIMIT = 1_000


def facts_for(source: Any, call_id: str | None = None) -> CallFacts | None:
    """The facts of the call ``source`` is making here, if it is one of ours."""
    facts = _facts.get()
    if facts is not None and facts.source is source:
        return facts
    return _kept.get(call_id) if call_id and _kept else None


def keep(call_id: str, facts: CallFacts) -> None:
    """Let listeners find ``facts``; the listener makes the span."""
    facts.recorded = True
    _kept[call_id] = facts
    while len(_kept) > _KEPT_LIMIT:
        _kept.popitem(last=False)


def run_id() -> str | None:
    """CrewAI's id of the kickoff around this call, if there is one."""
    try:
        from crewai.execution import get_execution_uuid
    except ImportError:
        # Older CrewAI has none.
        return None
    found: str | None = get_execution_uuid()
    return found


@contextmanager
def sharing_facts(facts: CallFacts) -> Iterator[None]:
    """Let recorders see ``facts`` inside the block."""
    outer = _facts.get()
    _facts.set(facts)
    try:
        yield
    finally:
        _facts.set(outer)
