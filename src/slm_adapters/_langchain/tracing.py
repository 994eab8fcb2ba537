"""``traced``: one model that records its calls, without a callback anywhere else."""

from __future__ import annotations

from typing import Any, TypeVar

from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable

from .handler import CallRecorder

__all__ = ["traced"]

LLM = TypeVar("LLM", bound=Runnable[Any, Any])


def traced(llm: LLM, *, recorder: CallRecorder | None = None, **options: Any) -> LLM:
    """A copy of ``llm`` of the same type that records its calls; nothing else is touched.

    ``options`` are ``CallRecorder``'s. A model that already has a recorder is copied as it is; a
    bound one (``llm.bind_tools(...)``) keeps what is bound::

        llm = traced(ChatOpenAI(model="gpt-4.1-mini"), store="calls.db")
    """
    if not isinstance(llm, BaseLanguageModel):
        listening = recorder or CallRecorder(**options)
        return llm.with_config(callbacks=[listening])  # type: ignore[return-value]
    callbacks: Any = llm.callbacks
    is_manager = isinstance(callbacks, BaseCallbackManager)
    handlers: list[Any] = list(callbacks.handlers if is_manager else callbacks or ())
    if any(isinstance(handler, CallRecorder) for handler in handlers):
        return llm.model_copy()
    listening = recorder or CallRecorder(**options)
    if not is_manager:
        return llm.model_copy(update={"callbacks": [*handlers, listening]})
    manager = callbacks.copy()
    manager.add_handler(listening)
    return llm.model_copy(update={"callbacks": manager})
