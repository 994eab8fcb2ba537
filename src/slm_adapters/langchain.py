"""LangChain and LangGraph: record every model call, and answer with a small local model.

    from slm_adapters.langchain import CallRecorder, ChatSLM, instrument, traced

    chain.invoke(x, config={"callbacks": [CallRecorder()]})         # spans
    instrument()                                                    # spans of everything
    agent = create_agent(ChatSLM("bundled", fallback=llm), tools)   # the swapped role
    llm = traced(ChatOpenAI(model="gpt-4.1-mini"), store="calls.db")

Raises ``MissingExtraError`` on import when LangChain is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import MissingExtraError

try:
    import langchain_core as _langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise MissingExtraError("slm_adapters.langchain", "langchain-core", "langchain") from None

from ._langchain.everywhere import instrument, uninstrument
from ._langchain.handler import CallRecorder
from ._langchain.tracing import traced

if TYPE_CHECKING:
    from ._langchain.model import ChatSLM

__all__ = ["CallRecorder", "ChatSLM", "instrument", "traced", "uninstrument"]


def __getattr__(name: str) -> Any:
    # Who only records pays for no engine and no routing.
    if name != "ChatSLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._langchain.model import ChatSLM

    globals()[name] = ChatSLM
    return ChatSLM
