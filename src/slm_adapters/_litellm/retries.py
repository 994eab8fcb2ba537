"""LiteLLM's own retries (``num_retries``, ``fallbacks``): one call, ends as the last attempt did.

LiteLLM tells the failure of an attempt as that of the call, and the answer of a later attempt never
where a retry of an asynchronous call or a fallback of a synchronous one had it. No callback is
around its attempts, so the functions that make them are wrapped: nothing that others pass through.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import litellm

from ..telemetry.harmless import harmless
from . import together, wrapping

__all__ = ["install", "may_follow"]

_FALLBACKS = {
    "main": ("async_completion_with_fallbacks",),
    # The same function, of synchronous calls.
    "litellm_core_utils.fallback_utils": ("async_completion_with_fallbacks",),
}
_RETRIES = {
    "": (
        "completion_with_retries",
        "acompletion_with_retries",
        "responses_with_retries",
        "aresponses_with_retries",
    ),
}
#: What an asynchronous entry point asks right after it told a failure.
_DECISION = {"utils": ("_get_wrapper_num_retries",)}
_RETRIED = ("acompletion", "aresponses")
_ENTRY_POINT = "wrapper_async"
#: Our hooks, LiteLLM's handler and what it wraps that in are in between.
_DEPTH = 12


def install() -> Iterator[str]:
    """Wrap the places where LiteLLM retries; yields those that this version has not."""
    yield from wrapping.wrap(_RETRIES, _around_retries)
    yield from wrapping.wrap(
        _FALLBACKS, functools.partial(_around_retries, may_begin_again=_may_retry)
    )
    yield from wrapping.wrap(_DECISION, wrapping.then(_follow))


def may_follow(kwargs: Mapping[str, Any]) -> bool:
    """Whether an asynchronous entry point is telling this failure, and decides next what to do.

    A stream that broke is told by nobody who could ask again.
    """
    if kwargs.get("call_type") not in _RETRIED:
        return False
    frame = sys._getframe(1)
    for _ in range(_DEPTH):
        if frame.f_back is None:
            return False
        frame = frame.f_back
        if frame.f_code.co_name == _ENTRY_POINT:
            return True
    return False


@harmless("LiteLLM's retries")
def _follow(decision: tuple[int | None, Mapping[str, Any]]) -> None:
    """A failure that no retry follows is the call's end."""
    count, request = decision
    # LiteLLM's Router makes its retries itself, each a call of its own.
    if not count or "model_group" in (request.get("metadata") or {}):
        together.decided(_details_of(request))


def _never(_: Mapping[str, Any]) -> bool:
    return False


def _around_retries(
    attempt: Callable[..., Any], may_begin_again: Callable[[Mapping[str, Any]], bool] = _never
) -> Callable[..., Any]:
    """What fails inside is not the call's end; how this ends is, unless LiteLLM begins again."""
    if inspect.iscoroutinefunction(attempt):

        @functools.wraps(attempt)
        async def aretried(*args: Any, **kwargs: Any) -> Any:
            details = _details_of(kwargs)
            together.retrying(details)
            try:
                answer = await attempt(*args, **kwargs)
            except Exception:
                if may_begin_again(kwargs):
                    together.retries_failed(details)
                else:
                    together.failed_for_good(details)  # the first failure is the one to know
                raise
            except BaseException as error:
                together.failed_for_good(details, error)
                raise
            together.retried(details, answer)
            return answer

        return aretried

    @functools.wraps(attempt)
    def retried(*args: Any, **kwargs: Any) -> Any:
        details = _details_of(kwargs)
        together.retrying(details)
        try:
            answer = attempt(*args, **kwargs)
        except BaseException as error:
            together.failed_for_good(details, error)
            raise
        together.retried(details)
        return answer

    return retried


def _may_retry(request: Mapping[str, Any]) -> bool:
    """Whether the entry point that asked for fallbacks was asked for retries too."""
    asked = {**request, **(request.get("kwargs") or {})}
    return bool(asked.get("num_retries") or asked.get("retry_policy") or litellm.num_retries)


def _details_of(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """LiteLLM's dict of the call that ``request`` is an attempt of; without one, an empty one."""
    asked = request.get("kwargs") or request  # fallbacks have what is not a parameter apart
    details = getattr(asked.get("litellm_logging_obj"), "model_call_details", None)
    return details if isinstance(details, Mapping) else {}
