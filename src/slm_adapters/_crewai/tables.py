"""Which events open a scope and which close it: CrewAI's own table, or ours of CrewAI 1.15."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CHUNK", "ENDS", "FAILED", "HUMAN", "RELEVANT", "STARTS", "THOUGHT"]

_PAIRS_OF_1_15 = {
    f"{name}_{end}": f"{name}_started"
    for name, ends in {
        "flow": ("finished", "failed", "paused"),
        "crew_kickoff": ("completed", "failed"),
        "agent_execution": ("completed", "error"),
        "lite_agent_execution": ("completed", "error"),
        "task": ("completed", "failed"),
        "llm_call": ("completed", "failed"),
        "llm_guardrail": ("completed", "failed"),
        "tool_usage": ("finished", "error"),
        "mcp_tool_execution": ("completed", "failed"),
        "memory_query": ("completed", "failed"),
        "memory_save": ("completed", "failed"),
        "knowledge_query": ("completed", "failed"),
        "knowledge_search_query": ("completed", "failed"),
        "agent_reasoning": ("completed", "failed"),
    }.items()
    for end in ends
}


def _pairs() -> Mapping[str, str]:
    try:
        from crewai.events import event_context
    except ImportError:
        return _PAIRS_OF_1_15
    known: Any = getattr(event_context, "VALID_EVENT_PAIRS", None)
    return known if isinstance(known, Mapping) and known else _PAIRS_OF_1_15


#: End event -> its start event.
ENDS: Mapping[str, str] = dict(_pairs())
STARTS = frozenset(ENDS.values())
FAILED = frozenset(kind for kind in ENDS if kind.endswith(("_failed", "_error")))
CHUNK, THOUGHT = "llm_stream_chunk", "llm_thinking_chunk"
#: Moments without an extent: a person is asked, and answers.
HUMAN = {"human_feedback_requested": "requested", "human_feedback_received": "received"}
#: All others are passed by without any work.
RELEVANT = STARTS | ENDS.keys() | HUMAN.keys() | {CHUNK, THOUGHT}
