"""``CallRecorder`` for LiteLLM: its callback, in all the lists of those that LiteLLM has."""

from __future__ import annotations

import weakref
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

from ..recording import CallRecorderBase
from ..telemetry.harmless import harmless
from . import clients, hearing, retries, together, untold, wrapping
from .ledger import Ledger
from .pending import OPERATIONS

__all__ = ["CallRecorder"]


class CallRecorder(CallRecorderBase, CustomLogger):  # type: ignore[misc]
    """One span per LiteLLM call from now on, and one record if you ask; ``close()`` ends it.

    ``store``: a path, a database URL or a ``CallStore``. Providers: default the global ones.
    Other callbacks, and frameworks that replace ``litellm.callbacks``, do not get in the way::

        CallRecorder(store="calls.db")
    """

    def _begin(self) -> None:
        self.calls = Ledger(self.recorder, self._leave)
        self._is_seen = False
        wrapping.put(clients.install, retries.install, hearing.install)
        self._take_back = weakref.finalize(self, wrapping.take_back)
        self._take_back.atexit = False
        together.join(self.calls)
        self._enlist()

    @property
    def open_calls(self) -> int:
        """How many calls have no outcome yet."""
        return self.calls.open_calls()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self.calls.closed

    def close(self) -> None:
        """Stop listening and end what is still open.

        Calls that were answered and that LiteLLM has not reported yet are ended when it does.
        """
        self._take_back()
        self.calls.close()

    def _leave(self) -> None:
        """A closed recorder stays in LiteLLM's lists until nothing is untold."""
        together.leave(self.calls)
        for listeners in (*_lists(), getattr(litellm.utils, "callback_list", None) or []):
            while self in listeners:
                listeners.remove(self)

    def _enlist(self) -> None:
        for listeners in _lists():
            if self not in listeners:
                listeners.append(self)

    # LiteLLM calls these by keyword, with exactly these names

    @harmless("LiteLLM's log_pre_api_call")
    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        if self.calls.closed or kwargs.get("call_type") not in OPERATIONS:
            return
        self._enlist()  # whoever replaced a list since
        if not self._is_seen:
            # Not before the first call: the program's exporters come to be meanwhile.
            self._is_seen = True
            untold.tell_before_exit()
        self.calls.asking(kwargs)

    @harmless("LiteLLM's log_post_api_call")
    def log_post_api_call(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        if not isinstance(kwargs.get("original_response"), str | None):
            self.calls.forget_stream(kwargs)

    @harmless("LiteLLM's log_success_event")
    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.calls.succeeded(kwargs, response_obj, start_time, end_time)

    @harmless("LiteLLM's log_failure_event")
    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.calls.failed(kwargs, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)


def _lists() -> tuple[list[Any], ...]:
    # Not litellm.callbacks: CrewAI replaces that list at will.
    return (
        litellm.input_callback,
        litellm.success_callback,
        litellm.failure_callback,
        litellm._async_success_callback,
        litellm._async_failure_callback,
    )
