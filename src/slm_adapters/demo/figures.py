"""How figures are written, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .summary import CallStats, Share

__all__ = ["FLOW_NAMES", "fallbacks", "interval", "latency", "models", "percent"]

FLOW_NAMES: Final = {"crewai": "CrewAI", "langgraph": "LangGraph"}


def latency(seconds: float | None) -> str:
    """``0.4 ms``, ``87 ms``, ``2.13 s``; a dash for nothing."""
    if seconds is None:
        return "–"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def percent(share: float) -> str:
    """``97.2 %``."""
    return f"{share * 100:.1f} %"


def interval(share: Share) -> str:
    """``94.4–98.6``, in percent."""
    return f"{share.low * 100:.1f}–{share.high * 100:.1f}"


def models(stats: CallStats) -> str:
    """The answering models, ``none`` when there was no call."""
    return ", ".join(stats.models) or "none"


def fallbacks(reasons: Sequence[tuple[str, int]]) -> str:
    """``2 (overflow 1, deadline 1)``, or ``0``."""
    total = sum(count for _, count in reasons)
    if not total:
        return "0"
    return f"{total} ({', '.join(f'{reason} {count}' for reason, count in reasons)})"
