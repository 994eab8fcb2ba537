"""Move the narrow work of LangChain and CrewAI agents to small local models.

Record every call (``slm_adapters.crewai.CallRecorder``, ``slm_adapters.langchain.CallRecorder``,
``slm_adapters.litellm``), swap a role's model (``SLM``, ``ChatSLM``, ``swap``), look at the result.
Names below load on first use; importing this package costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .calls import Call, Label, Message, Reply, Tool, ToolCall, Usage, role, run
    from .crewai import swap
    from .errors import SLMAdaptersError
    from .store.database import CallStore
    from .telemetry.export import TraceExport, export_traces
    from .telemetry.recorder import Recorder

_HOME = {
    "Call": "calls",
    "CallStore": "store.database",
    "Label": "calls",
    "Message": "messages",
    "Recorder": "telemetry.recorder",
    "Reply": "messages",
    "SLMAdaptersError": "errors",
    "Tool": "messages",
    "ToolCall": "messages",
    "TraceExport": "telemetry.export",
    "Usage": "messages",
    "export_traces": "telemetry.export",
    "role": "scope",
    "run": "scope",
    "swap": "crewai",
}

__all__ = [
    "Call",
    "CallStore",
    "Label",
    "Message",
    "Recorder",
    "Reply",
    "SLMAdaptersError",
    "Tool",
    "ToolCall",
    "TraceExport",
    "Usage",
    "export_traces",
    "role",
    "run",
    "swap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
