"""What an ``SLM`` counts, and what its copies share: the weights, never the counters."""

from __future__ import annotations

import copy
import threading
from typing import Any, Self

from crewai.llms.base_llm import BaseLLM
from crewai.types.usage_metrics import UsageMetrics
from pydantic import PrivateAttr

from ..engine.engine import ChatEngine
from ..messages import Usage
from ..routing.fallback import Fallbacks
from . import convert

__all__ = ["CountingLLM"]


class CountingLLM(BaseLLM):  # type: ignore[misc]  # crewai ships no usable types
    """A CrewAI LLM with exact counters that is safe to copy, dump and pickle."""

    _source: Any = PrivateAttr(default=None)
    #: In no dump and no pickle, unlike CrewAI's own field for it.
    _api_key: str | None = PrivateAttr(default=None)
    _fallbacks: Fallbacks = PrivateAttr(default_factory=Fallbacks)
    _fallback_usage: dict[str, int] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def fallback_count(self) -> int:
        """How often the fallback answered for this object."""
        return self._fallbacks.count

    @property
    def fallback_reasons(self) -> dict[str, int]:
        """The same by reason: ``{"overflow": 2, "invalid_reply": 1}``."""
        return self._fallbacks.reasons

    def count_usage(self, usage: Usage) -> None:
        """Add one call's tokens to this object's counters."""
        with self._lock:
            self._track_token_usage_internal(convert.usage_dict(usage))

    def count_fallback_usage(self, usage: dict[str, Any] | None) -> None:
        """Add what the fallback used on behalf of this object."""
        metrics = UsageMetrics.from_provider_dict(usage)
        if metrics is None:
            return
        with self._lock:
            for name, value in metrics.model_dump().items():
                self._fallback_usage[name] = self._fallback_usage.get(name, 0) + value

    def get_token_usage_summary(self) -> UsageMetrics:
        """Tokens used by this object and, on its behalf, by the fallback."""
        with self._lock:
            summary = UsageMetrics(**self._token_usage)
            summary.add_usage_metrics(UsageMetrics(**self._fallback_usage))
        return summary

    def __copy__(self) -> Self:
        copied: Self = super().__copy__()
        copied._start_counting()
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copied = self.__copy__()
        copied.stop = list(self.stop)
        copied.additional_params = copy.deepcopy(self.additional_params, memo)
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        source = None if isinstance(self._source, ChatEngine) else self._source
        state: dict[Any, Any] = super().__getstate__()
        return state | {"__pydantic_private__": {"_source": source}}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        for name in self.__private_attributes__:
            if name != "_source":
                self._reset(name)

    def _start_counting(self) -> None:
        for name in ("_token_usage", "_fallbacks", "_fallback_usage", "_lock"):
            self._reset(name)

    def _reset(self, name: str) -> None:
        assert self.__pydantic_private__ is not None
        self.__pydantic_private__[name] = self.__private_attributes__[name].get_default()
