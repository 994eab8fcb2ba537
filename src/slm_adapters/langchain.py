"""LangChain and LangGraph: record every model call, and answer with a small local model.

    from slm_adapters.langchain import CallRecorder, ChatSLM, instrument, traced

    chain.invoke(x, config={"callbacks": [CallRecorder()]})         # spans
    instrument()                                                    # spans of everything
    agent = create_agent(ChatSLM("bundled", fallback=llm), tools)   # the swapped role
    llm = traced(ChatOpenAI(model="gpt-4.1-mini"), store="calls.db")

Raises ``MissingExtraError`` on import when LangChain is not installed.
"""

from __future__ import annotations

from .errors import MissingExtraError

try:
    import langchain_core as _langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise MissingExtraError("slm_adapters.langchain", "langchain-core", "langchain") from None

from ._langchain.everywhere import instrument, uninstrument
from ._langchain.handler import CallRecorder
from ._langchain.model import ChatSLM
from ._langchain.tracing import traced

__all__ = ["CallRecorder", "ChatSLM", "instrument", "traced", "uninstrument"]
