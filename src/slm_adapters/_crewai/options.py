"""What ``SLM(...)`` takes, and the fallback it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from crewai.llms.base_llm import BaseLLM

from ..errors import InvalidFallbackError
from ..routing.router import Router

__all__ = [
    "ask_async",
    "check_fallback",
    "check_options",
    "check_router",
    "check_server",
    "crewai_llm",
    "unretried",
]

T = TypeVar("T", bound=Callable[..., Any])

#: Fields of BaseLLM that a small model has no use for.
_UNSUPPORTED = ("n", "frequency_penalty", "presence_penalty")


def check_options(kind: type[BaseLLM], options: dict[str, Any]) -> None:
    unknown = options.keys() - kind.model_fields.keys() - {"stop_sequences"}
    unknown |= {name for name in _UNSUPPORTED if options.get(name) is not None}
    if unknown:
        raise TypeError(
            f"SLM() does not take {', '.join(sorted(unknown))}: it takes temperature, top_p, "
            "top_k, seed, max_tokens, stop, timeout, quantization, device, dtype, revision, "
            "context_window, adapter, keep_alive, base_url, api_key, tokenizer, fallback and "
            "router."
        )


def check_server(base_url: str | None, **of_a_server: Any) -> None:
    given = sorted(name for name, value in of_a_server.items() if value is not None)
    if base_url is None and given:
        raise TypeError(f"SLM() takes {', '.join(given)} only with base_url=: a server's address.")


def check_fallback(fallback: Any) -> None:
    usable = isinstance(fallback, str) and fallback.strip()
    if fallback is None or usable or isinstance(fallback, BaseLLM):
        return
    raise InvalidFallbackError(
        f"fallback={fallback!r:.80} is no CrewAI LLM: pass crewai.LLM(...), another SLM, or a "
        'model name such as "gpt-4.1-mini".'
    )


def check_router(router: Any) -> None:
    if router is not None and not isinstance(router, Router):
        raise TypeError(
            f"router={router!r:.60} is no Router: pass slm_adapters.routing.Router(*checks)."
        )


def unretried(method: T) -> T:
    """Keep CrewAI's retry of throttled calls off ``method``.

    It repeats the whole call, and the tools that ran in it; a tool's own error may well speak of a
    rate limit. The fallback is an LLM with that retry of its own, as it would have without us.
    """
    method._crewai_rate_limit_wrapped = True  # type: ignore[attr-defined]
    return method


def crewai_llm(fallback: Any) -> BaseLLM:
    if isinstance(fallback, BaseLLM):
        return fallback
    from crewai import LLM

    made: BaseLLM = LLM(model=fallback)
    return made


async def ask_async(llm: BaseLLM, arguments: dict[str, Any]) -> Any:
    if type(llm).acall is BaseLLM.acall:
        # A class without an acall of its own would raise NotImplementedError.
        return await asyncio.to_thread(llm.call, **arguments)
    return await llm.acall(**arguments)
