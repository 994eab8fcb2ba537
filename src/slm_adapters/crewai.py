"""CrewAI: record every call, put a role on a small local model.

from slm_adapters.crewai import CallRecorder, SLM
CallRecorder()
Agent(role="Researcher", ..., llm=SLM("Qwen/Qwen3-1.7B", fallback="gpt-4.1-mini"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import MissingExtraError

try:
    import crewai as _crewai  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "crewai":
        raise
    raise MissingExtraError("slm_adapters.crewai", "crewai", "crewai") from None

from ._crewai.recording import CallRecorder, instrument, traced, uninstrument

if TYPE_CHECKING:
    from ._crewai.model import SLM
    from ._crewai.swapping import swap

__all__ = ["SLM", "CallRecorder", "instrument", "swap", "traced", "uninstrument"]


def __getattr__(name: str) -> Any:
    # Who only records pays for no engine and no routing.
    if name not in ("SLM", "swap"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._crewai.model import SLM
    from ._crewai.swapping import swap

    globals().update(SLM=SLM, swap=swap)
    return globals()[name]
