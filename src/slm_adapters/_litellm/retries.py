"""LiteLLM's own retries (``num_retries``): one call, that ends as the last attempt did.

LiteLLM tells the failure of an attempt as that of the call, and of an asynchronous call never the
answer that a retry had. No callback is around its retries, so the functions that make them are
wrapped: nothing is, and nothing costs, until a call has failed.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..telemetry.harmless import harmless
from . import together, wrapping

__all__ = ["install", "may_follow"]

_RETRIES = {
    "": (
        "completion_with_retries",
        "acompletion_with_retries",
        "responses_with_retries",
        "aresponses_with_retries",
    )
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
    yield from wrapping.wrap(_DECISION, _around_decision)


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


def _around_decision(decide: Callable[..., Any]) -> Callable[..., Any]:
    """A failure that no retry follows is the call's end."""

    @functools.wraps(decide)
    def decided(*args: Any, **kwargs: Any) -> Any:
        answer = decide(*args, **kwargs)
        _follow(answer)
        return answer

    return decided


@harmless("LiteLLM's retries")
def _follow(decision: tuple[int | None, Mapping[str, Any]]) -> None:
    count, request = decision
    # LiteLLM's Router makes its retries itself, each a call of its own.
    if not count or "model_group" in (request.get("metadata") or {}):
        together.failed_for_good(_id_of(request))


def _around_retries(retry: Callable[..., Any]) -> Callable[..., Any]:
    """What fails inside is not the call's end; how this ends is."""
    if inspect.iscoroutinefunction(retry):

        @functools.wraps(retry)
        async def aretried(*args: Any, **kwargs: Any) -> Any:
            call_id = _id_of(kwargs)
            together.retrying(call_id)
            try:
                answer = await retry(*args, **kwargs)
            except Exception:
                together.failed_for_good(call_id)  # LiteLLM raises the first failure
                raise
            except BaseException as error:
                together.failed_for_good(call_id, error)
                raise
            together.retried(call_id, answer)
            return answer

        return aretried

    @functools.wraps(retry)
    def retried(*args: Any, **kwargs: Any) -> Any:
        call_id = _id_of(kwargs)
        together.retrying(call_id)
        try:
            answer = retry(*args, **kwargs)
        except BaseException as error:
            together.failed_for_good(call_id, error)
            raise
        together.retried(call_id)
        return answer

    return retried


def _id_of(request: Mapping[str, Any]) -> str:
    return str(request.get("litellm_call_id"))
