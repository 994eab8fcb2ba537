"""Our errors as the ones LiteLLM's callers, routers and fallbacks know."""

from __future__ import annotations

from typing import Any

import litellm

from .. import errors
from .served import PROVIDER

__all__ = ["as_litellm_error"]

#: First match wins.
_KINDS: tuple[tuple[type[errors.SLMAdaptersError], str], ...] = (
    (errors.ContextOverflowError, "ContextWindowExceededError"),
    (errors.DeadlineExceededError, "Timeout"),
    (errors.ModelNotFoundError, "NotFoundError"),
    (errors.RequestError, "BadRequestError"),
    (errors.GenerationError, "InternalServerError"),
    (errors.SLMAdaptersError, "ServiceUnavailableError"),
)


def as_litellm_error(error: errors.SLMAdaptersError, model: str) -> Any:
    """LiteLLM's class for ``error``, with the same sentence; raise it ``from error``."""
    name = next(name for kind, name in _KINDS if isinstance(error, kind))
    kind: Any = getattr(litellm, name)
    return kind(message=str(error), model=model, llm_provider=PROVIDER)
