"""What LiteLLM's dict of a call says beyond messages and parameters."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import litellm

from ..calls import Usage
from ..telemetry import semconv
from ..telemetry.recorder import OpenCall
from . import convert, responses, served

__all__ = ["enrich", "finish", "json_format", "owner_of", "price_of", "server_of"]


def owner_of(kwargs: dict[str, Any]) -> object | None:
    """LiteLLM's object behind ``kwargs``, which lives exactly as long as the call.

    No hook hands it out, and nothing reports a stream that was dropped or a task that was
    cancelled; so it is looked up among the callers of the hook, and only ever watched.
    """
    frame = sys._getframe(1)
    for _ in range(4):
        if frame.f_back is None:
            return None
        frame = frame.f_back
        if frame.f_code.co_varnames[:1] != ("self",):
            continue  # a frame's locals are slow to ask for
        owner = frame.f_locals.get("self")
        if getattr(owner, "model_call_details", None) is kwargs:
            return owner
    return None


def enrich(outer: OpenCall, kwargs: Mapping[str, Any], response: Any, *, heard: bool) -> None:
    """Tell the call around this one what LiteLLM knows; ``heard``: of the answer it was told."""
    if outer.ended:
        return
    outer.note(**server_of(kwargs))
    usage = None if heard else _usage_of(kwargs, response)
    outer.hear(usage, getattr(response, "model", None), getattr(response, "id", None))


def finish(call: OpenCall, kwargs: Mapping[str, Any], response: Any, end: Any) -> None:
    """End ``call`` with what LiteLLM tells of its success."""
    if kwargs.get("stream"):
        call.first_chunk_ns = convert.nanoseconds(kwargs.get("completion_start_time"))
    usage, cost = _usage_of(kwargs, response), _cost_of(kwargs)
    if cost is not None and (usage is None or usage.source != "estimated"):
        call.fields.update(cost=cost, cost_source="litellm")
    call.attributes.update(served.facts_of(kwargs))
    call.finish(
        (responses if _is_response(kwargs, response) else convert).replies_from(response),
        usage,
        response_model=getattr(response, "model", None),
        response_id=getattr(response, "id", None),
        end_ns=convert.nanoseconds(end),
    )


def _usage_of(kwargs: Mapping[str, Any], response: Any) -> Usage | None:
    if kwargs.get("cache_hit"):
        return Usage(0, 0)  # LiteLLM's own cache: the counts are those of an earlier call
    if _is_response(kwargs, response):
        return responses.usage_from(response)
    asked = (kwargs.get("stream_options") or {}).get("include_usage")
    local = kwargs.get("custom_llm_provider") == served.PROVIDER
    # Without being asked for, a stream's counts may be LiteLLM's own.
    exact = local or not kwargs.get("stream") or bool(asked)
    return convert.usage_from(response, exact=exact)


def _is_response(kwargs: Mapping[str, Any], response: Any) -> bool:
    return kwargs.get("call_type") in responses.CALL_TYPES and hasattr(response, "output")


def _cost_of(kwargs: Mapping[str, Any]) -> float | None:
    """US dollars by LiteLLM's prices; it says 0 of a model that it knows without a price."""
    cost: float | None = kwargs.get("response_cost")
    return None if cost == 0 and not _has_price(kwargs) else cost


def price_of(response: Any, kwargs: Mapping[str, Any]) -> float | None:
    """US dollars of a response whose price LiteLLM has not reckoned."""
    with contextlib.suppress(Exception):  # it raises a bare one where it knows no price
        cost: float = litellm.completion_cost(
            response,
            model=kwargs.get("model"),
            custom_llm_provider=kwargs.get("custom_llm_provider"),
        )
        return cost
    return None


def _has_price(kwargs: Mapping[str, Any]) -> bool:
    name, params = kwargs.get("model"), kwargs.get("litellm_params") or {}
    deployment = (params.get("metadata") or {}).get("model_info")
    places = (
        litellm.model_cost.get(name),
        litellm.model_cost.get(f"{kwargs.get('custom_llm_provider')}/{name}"),
        params,
        deployment,
    )
    return any(
        "_cost" in key and value is not None
        for place in places
        for key, value in (place or {}).items()
    )


def server_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    base = (kwargs.get("litellm_params") or {}).get("api_base")
    if not isinstance(base, str) or not base:
        return {}
    with contextlib.suppress(ValueError):
        address = urlsplit(base if "//" in base else f"//{base}")
        if address.hostname:
            port = address.port or (443 if address.scheme == "https" else None)
            return {semconv.SERVER_ADDRESS: address.hostname, semconv.SERVER_PORT: port}
    return {}


def json_format(wanted: Any) -> dict[str, Any] | None:
    return wanted if isinstance(wanted, dict) and wanted.get("type") != "text" else None
