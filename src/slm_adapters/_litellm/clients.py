"""LiteLLM asks OpenAI and Azure through OpenAI's client: an instrumented one keeps quiet inside.

Our span is made when the outcome is known, so it cannot be around the client; what inner
instrumentations look for is set for the client's call alone.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from ..telemetry import suppression
from ..telemetry.current import get_context, set_context
from ..telemetry.harmless import warn_once

__all__ = ["hush", "unhush"]

_PLACES = {
    "openai.openai:OpenAIChatCompletion": (
        "make_openai_chat_completion_request",
        "make_sync_openai_chat_completion_request",
        "make_openai_embedding_request",
        "make_sync_openai_embedding_request",
    ),
    "openai.completion.handler:OpenAITextCompletion": (
        "completion", "acompletion", "streaming", "async_streaming",
    ),
    "azure.azure:AzureChatCompletion": (
        "make_azure_openai_chat_completion_request",
        "make_sync_azure_openai_chat_completion_request",
        "embedding",
        "aembedding",
    ),
    "azure.completion.handler:AzureTextCompletion": (
        "completion", "acompletion", "streaming", "async_streaming",
    ),
}  # fmt: skip
_END: Any = object()

_lock = threading.RLock()
_users = 0
_put: list[tuple[Any, str, Any, Any]] = []


def hush() -> None:
    """Wrap the places where LiteLLM calls such a client; each ``unhush()`` undoes one of these."""
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _install()


def unhush() -> None:
    """The last one puts LiteLLM's own methods back."""
    global _users
    with _lock:
        _users -= 1
        if _users:
            return
        for owner, name, original, wrapped in _put:
            # Somebody else's wrapper over ours stays.
            if vars(owner).get(name) is wrapped:
                setattr(owner, name, original)
        _put.clear()


def _install() -> None:
    missing = []
    for place, names in _PLACES.items():
        module, _, kind = place.partition(":")
        try:
            owner = getattr(importlib.import_module(f"litellm.llms.{module}"), kind)
        except (ImportError, AttributeError):
            missing.append(place)
            continue
        for name in names:
            original = vars(owner).get(name)
            if original is None:
                missing.append(f"{place}.{name}")
                continue
            wrapped = _quiet(original)
            setattr(owner, name, wrapped)
            _put.append((owner, name, original, wrapped))
    if missing:
        warn_once(
            "this litellm version",
            f"slm-adapters: this litellm version is unknown: it has no {', '.join(missing)}. "
            "Calls are recorded; an instrumented client may add a second span to them.",
        )


@contextmanager
def _hushed() -> Iterator[None]:
    outer = get_context()
    set_context(suppression.hushed(outer))
    try:
        yield
    finally:
        set_context(outer)


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def astreamed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with aclosing(function(*args, **kwargs)) as chunks:
                with _hushed():  # the client is asked before the first chunk
                    chunk = await anext(chunks, _END)
                while chunk is not _END:
                    yield chunk
                    chunk = await anext(chunks, _END)

        return astreamed
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def streamed(*args: Any, **kwargs: Any) -> Iterator[Any]:
            chunks = function(*args, **kwargs)
            with _hushed():
                chunk = next(chunks, _END)
            if chunk is not _END:
                yield chunk
                yield from chunks

        return streamed
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answered(*args: Any, **kwargs: Any) -> Any:
            with _hushed():
                return await function(*args, **kwargs)

        return answered

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with _hushed():
            return function(*args, **kwargs)

    return called
