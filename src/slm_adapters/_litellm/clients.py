"""What LiteLLM asks of its clients happens inside the call's span, and nothing else does.

LiteLLM's callbacks cannot be around a client's call, so the methods that make one are wrapped. It
asks OpenAI and Azure through OpenAI's client: an instrumented one keeps quiet inside, also where
our span comes later. Its own client often is not told for which call it asks: then it is for the
last one that began in this context, as long as that has no answer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context

from ..telemetry import suppression
from ..telemetry.current import get_context, set_context, switched_to
from ..telemetry.harmless import harmless
from . import together, wrapping

__all__ = ["install"]

#: Whoever calls OpenAI's client. The ``completion``s and alike fire the pre-call hook themselves.
_PLACES = {
    "llms.openai.openai:OpenAIChatCompletion": (
        "make_openai_chat_completion_request",
        "make_sync_openai_chat_completion_request",
        "make_openai_embedding_request",
        "make_sync_openai_embedding_request",
    ),
    "llms.openai.completion.handler:OpenAITextCompletion": (
        "completion", "acompletion", "streaming", "async_streaming",
    ),
    "llms.azure.azure:AzureChatCompletion": (
        "make_azure_openai_chat_completion_request",
        "completion",
        "streaming",
        "embedding",
        "aembedding",
    ),
    "llms.azure.completion.handler:AzureTextCompletion": (
        "completion", "acompletion", "streaming", "async_streaming",
    ),
}  # fmt: skip
#: LiteLLM's own HTTP client, of most other providers; some of them ask again for the answer.
_HTTP_PLACES = {
    "llms.custom_httpx.http_handler:HTTPHandler": ("post", "get"),
    "llms.custom_httpx.http_handler:AsyncHTTPHandler": ("post", "get"),
}
#: What every entry point begins with.
_SETUP = {"utils": ("function_setup",)}
_PRE_CALL = {"litellm_core_utils.litellm_logging:Logging": ("pre_call",)}
#: LiteLLM's id of the last call that began in this context.
_latest: ContextVar[str] = ContextVar("slm_adapters_litellm_call", default="")
_END: Any = object()
#: From a call's keywords and the current context to the one to be in.
_Within = Callable[[Mapping[str, Any], Context], Context]
_Being = Callable[[Mapping[str, Any]], AbstractContextManager[None]]


def install() -> Iterator[str]:
    """Wrap the places where LiteLLM asks a client; yields those that this version has not."""
    yield from wrapping.wrap(_PLACES, functools.partial(_around, _hushed))
    yield from wrapping.wrap(_HTTP_PLACES, functools.partial(_around, _nested))
    yield from wrapping.wrap(_SETUP, wrapping.then(_note))
    yield from wrapping.wrap(_PRE_CALL, _before_client)


# Where to be


def _inside(logged: Any) -> Context | None:
    """The context inside the call of LiteLLM's ``logging_obj``, if a recorder of ours has it."""
    return together.inside(str(getattr(logged, "litellm_call_id", None)))


def _hushed(given: Mapping[str, Any], outer: Context) -> Context:
    inside = _inside(given.get("logging_obj"))
    return suppression.hushed(outer if inside is None else inside)


def _nested(given: Mapping[str, Any], outer: Context) -> Context:
    logged = given.get("logging_obj")
    # Other loggers ask without one too, but when the call has its answer.
    untold = logged is None
    inside = together.inside(_latest.get(), asking=True) if untold else _inside(logged)
    return outer if inside is None else inside


@harmless("LiteLLM's set-up of a call")
def _note(answer: tuple[Any, Any]) -> None:
    """A call began: what asks a client in this context from now on is inside it."""
    _latest.set(str(answer[0].litellm_call_id))


def _before_client(pre_call: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that ran within a wrapped method: the client is asked next, by the same method."""

    @functools.wraps(pre_call)
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = pre_call(self, *args, **kwargs)
        if suppression.is_hushed(get_context()):
            inside = _inside(self)
            if inside is not None:
                set_context(suppression.hushed(inside))  # until that method ends
        return answer

    return told


def _around(within: _Within, function: Callable[..., Any]) -> Callable[..., Any]:
    def being(given: Mapping[str, Any]) -> AbstractContextManager[None]:
        return switched_to(within(given, get_context()))

    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return _around_stream(being, function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answered(*args: Any, **kwargs: Any) -> Any:
            with being(kwargs):
                return await function(*args, **kwargs)

        return answered

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with being(kwargs):
            return function(*args, **kwargs)

    return called


def _around_stream(being: _Being, function: Callable[..., Any]) -> Callable[..., Any]:
    """The client is asked before the first chunk."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def astreamed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with aclosing(function(*args, **kwargs)) as chunks:
                with being(kwargs):
                    chunk = await anext(chunks, _END)
                while chunk is not _END:
                    yield chunk
                    chunk = await anext(chunks, _END)

        return astreamed

    @functools.wraps(function)
    def streamed(*args: Any, **kwargs: Any) -> Iterator[Any]:
        chunks = function(*args, **kwargs)
        with being(kwargs):
            chunk = next(chunks, _END)
        if chunk is not _END:
            yield chunk
            yield from chunks

    return streamed
