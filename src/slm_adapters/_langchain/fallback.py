"""The LLM behind a ``ChatSLM``: accepted at construction, bound and asked when needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import Runnable

from ..errors import InvalidFallbackError
from .convert import tool_choice_from

__all__ = ["check_fallback", "fallback_for", "fallback_name"]


def check_fallback(fallback: Any) -> None:
    """Raise ``InvalidFallbackError`` unless LangChain can invoke it."""
    if fallback is None or isinstance(fallback, Runnable):
        return
    if not isinstance(fallback, str):
        raise InvalidFallbackError(
            f"fallback= is a {type(fallback).__name__}, which LangChain cannot invoke: pass a "
            'chat model such as ChatOpenAI(model="gpt-4.1-mini"), or its name as a string.'
        )
    if importlib.util.find_spec("langchain") is None:
        raise InvalidFallbackError(
            f"fallback={fallback!r} needs the langchain package to find that model: run "
            "`pip install langchain`, or pass a chat model object."
        )


def fallback_for(fallback: Any, kwargs: Mapping[str, Any]) -> Runnable[Any, Any]:
    """The fallback with the call's tools and response format bound to it."""
    if isinstance(fallback, str):
        from langchain.chat_models import init_chat_model

        fallback = init_chat_model(fallback)
    bound = fallback
    if kwargs.get("tools"):
        choice = tool_choice_from(kwargs.get("tool_choice"))
        options = {"tool_choice": _langchain_choice(choice)} if choice != "auto" else {}
        bound = bound.bind_tools(kwargs["tools"], **options)
    if kwargs.get("response_format"):
        bound = bound.bind(response_format=kwargs["response_format"])
    return bound  # type: ignore[no-any-return]


def fallback_name(fallback: Any) -> str:
    """What to call it on a span."""
    if isinstance(fallback, str):
        return fallback
    for name in ("model_name", "model", "model_id"):
        value = getattr(fallback, name, None)
        if isinstance(value, str) and value:
            return value
    return type(fallback).__name__


def _langchain_choice(choice: str) -> str:
    return "any" if choice == "required" else choice
