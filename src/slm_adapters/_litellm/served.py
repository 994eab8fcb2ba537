"""What the ``slm`` provider knows of a call and its recorder should say."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ..telemetry import semconv

__all__ = ["LOCAL_PROVIDER", "PROVIDER", "facts_of", "provider_of", "remember"]

#: The prefix of model names: ``slm/bundled``.
PROVIDER = "slm"
#: ``gen_ai.provider.name`` of models in this process.
LOCAL_PROVIDER = "slm_adapters"

_LIMIT = 1000
_facts: OrderedDict[str, dict[str, Any]] = OrderedDict()


def remember(call_id: str, facts: dict[str, Any]) -> None:
    """Keep span facts until the call's recorder asks for them."""
    _facts[call_id] = facts
    while len(_facts) > _LIMIT:
        _facts.popitem(last=False)


def facts_of(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a logged call; empty for other providers."""
    return _facts.get(str(kwargs.get("litellm_call_id")), {})


def provider_of(kwargs: Mapping[str, Any]) -> tuple[str | None, bool]:
    """A logged call's provider in the conventions' spelling, and whether it is in this process."""
    name = kwargs.get("custom_llm_provider")
    if name == PROVIDER:
        # A model on a server was remembered with the server's kind.
        remote = facts_of(kwargs).get(semconv.PROVIDER_NAME)
        return (LOCAL_PROVIDER, True) if remote is None else (str(remote), False)
    return semconv.provider_name(name if isinstance(name, str) else None), False
