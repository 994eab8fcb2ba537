"""``CallRecorder`` for LiteLLM: the span is built when the call's outcome is known.

Or before, when a client is about to be asked: what that does nests under it. The parent and the
labels are captured before the call, on the caller's context; LiteLLM reports the outcome later, on
other threads and sometimes without any context.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger
from opentelemetry.context import Context

from ..calls import Outcome, Usage
from ..recording import CallRecorderBase
from ..telemetry.harmless import harmless
from ..telemetry.lifetimes import Lifetimes
from ..telemetry.recorder import OpenCall
from . import clients, convert, served, together, untold
from .facts import cost_of, enrich, owner_of, server_of
from .pending import OPERATIONS, Pending

__all__ = ["CallRecorder"]

_LIMIT = 10_000
_CANCELLED = "asyncio.exceptions.CancelledError"


class CallRecorder(CallRecorderBase, CustomLogger):  # type: ignore[misc]
    """One span per LiteLLM call from now on, and one record if you ask; ``close()`` ends it.

    ``store``: a path, a database URL or a ``CallStore``. Providers: default the global ones.
    Other callbacks, and frameworks that replace ``litellm.callbacks``, do not get in the way::

        CallRecorder(store="calls.db")
    """

    def _begin(self) -> None:
        self._pending: dict[str, Pending] = {}
        #: For the other recorders, see `together`.
        self.made: together.Made = OrderedDict()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._lifetimes = Lifetimes(self._lost)
        self._lock = threading.RLock()
        self.closed = self._is_seen = False
        self._since_ns = time.time_ns()
        clients.hush()
        self._unhush = weakref.finalize(self, clients.unhush)
        self._unhush.atexit = False
        together.join(self)
        self._enlist()

    @property
    def open_calls(self) -> int:
        """How many calls have no outcome yet."""
        self._lifetimes.settle()
        return sum(not pending.reported for pending in self._pending.values())

    @harmless("opening a LiteLLM call")
    def inside(self, call_id: str) -> Context | None:
        """The context inside a call under way, whose span is opened now if it was not yet.

        ``None`` in retries of a call whose failure was told, and where the call has a span around
        it already.
        """
        with self._lock:
            pending = self._pending.get(call_id)
            if pending is None or pending.reported or pending.outer is not None:
                return None
            if pending.call is None:
                beside = together.made_by_another(self, (call_id, None))
                pending.call = pending.open(self.recorder, pending.details, beside=beside)
            return pending.call.context

    def opened(self, call_id: str) -> OpenCall | None:
        """The span of a call under way, if it has one yet."""
        pending = self._pending.get(call_id)
        return None if pending is None else pending.call

    def close(self) -> None:
        """Stop listening and end what is still open.

        Calls that were answered and that LiteLLM has not reported yet are ended when it does.
        """
        self.closed = True
        self._unhush()
        self._lifetimes.settle()
        for key, pending in list(self._pending.items()):
            if pending.reported or not untold.is_answered(pending.details):
                self._end_open(key, time.time_ns())
        if self._pending:
            untold.tell_what_is_stranded()
        self._leave()

    def _leave(self) -> None:
        """A closed recorder stays in LiteLLM's lists until nothing is untold."""
        if self._pending:
            return
        together.leave(self)
        for listeners in _lists():
            while self in listeners:
                listeners.remove(self)

    def _enlist(self) -> None:
        for listeners in _lists():
            if self not in listeners:
                listeners.append(self)

    # LiteLLM calls these by keyword, with exactly these names

    @harmless("LiteLLM's log_pre_api_call")
    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        if self.closed or kwargs.get("call_type") not in OPERATIONS:
            return
        self._enlist()  # whoever replaced a list since
        self._lifetimes.settle()
        if not self._is_seen:
            # Not before the first call: the program's exporters come to be meanwhile.
            self._is_seen = True
            untold.tell_before_exit()
        key = str(kwargs.get("litellm_call_id"))
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = Pending(kwargs)
            while len(self._pending) > _LIMIT:
                self._end_open(next(iter(self._pending)), time.time_ns())
        else:
            pending.attempts += 1
        owner = owner_of(kwargs)
        if owner is not None:
            pending.owners.append(self._lifetimes.watch(owner, (key, pending.attempts)))

    @harmless("LiteLLM's log_success_event")
    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self._succeeded(kwargs, response_obj, start_time, end_time)

    @harmless("LiteLLM's log_failure_event")
    def log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self._failed(kwargs, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    # Outcomes

    def _succeeded(self, kwargs: dict[str, Any], response: Any, start: Any, end: Any) -> None:
        pending = self._taken(kwargs) if self._is_ours(kwargs, start) else None
        if pending is None:
            return
        if self.closed:
            self._leave()
        if pending.outer is not None:
            enrich(pending.outer, kwargs, response)
        else:
            self._finish(pending, kwargs, response, start, end)

    def _finish(
        self, pending: Pending, kwargs: dict[str, Any], response: Any, start: Any, end: Any
    ) -> None:
        call = self._ending(pending, kwargs, start, "finished")
        streamed = bool(kwargs.get("stream"))
        if streamed:
            call.first_chunk_ns = convert.nanoseconds(kwargs.get("completion_start_time"))
        cost = cost_of(kwargs)
        if cost is not None:
            call.fields.update(cost=cost, cost_source="litellm")
        call.attributes.update(served.facts_of(kwargs))
        asked = (kwargs.get("stream_options") or {}).get("include_usage")
        local = kwargs.get("custom_llm_provider") == served.PROVIDER
        # Without being asked for, a stream's counts may be LiteLLM's own.
        usage = convert.usage_from(response, exact=local or not streamed or bool(asked))
        if kwargs.get("cache_hit"):
            usage = Usage(0, 0)  # LiteLLM's own cache: the counts are those of an earlier call
        call.finish(
            convert.replies_from(response),
            usage,
            response_model=getattr(response, "model", None),
            response_id=getattr(response, "id", None),
            end_ns=convert.nanoseconds(end),
        )

    def _failed(self, kwargs: dict[str, Any], start: Any, end: Any) -> None:
        if not self._is_ours(kwargs, start):
            return
        key = str(kwargs.get("litellm_call_id"))
        with self._lock:
            pending = self._pending.setdefault(key, Pending(kwargs))
            if pending.reported:
                return
            # Kept: a retry may follow under the same id, with no failure of its own reported.
            pending.reported = True
            # LiteLLM's dict of the call holds the prompt, and is not needed any more.
            pending.details = {}
        if pending.outer is None:
            error = kwargs.get("exception") or "_OTHER"
            call = self._ending(pending, kwargs, start, "failed")
            call.fail(error, end_ns=convert.nanoseconds(end))

    def _is_ours(self, kwargs: dict[str, Any], start: Any) -> bool:
        """Whether the call is of a known kind and began while this recorder listened."""
        began = convert.nanoseconds(start)
        known = kwargs.get("call_type") in OPERATIONS
        heard = not self.closed or str(kwargs.get("litellm_call_id")) in self._pending
        return known and heard and (began is None or began >= self._since_ns)

    def _taken(self, kwargs: dict[str, Any]) -> Pending | None:
        """The call that ended; ``None`` if it did before. Some providers fire no pre-call hook."""
        self._lifetimes.settle()
        key = str(kwargs.get("litellm_call_id"))
        with self._lock:
            if key in self._done:
                return None
            self._done[key] = None
            while len(self._done) > _LIMIT:
                self._done.popitem(last=False)
            return self._pending.pop(key, None) or Pending(kwargs)

    def _lost(self, key: Hashable, when_ns: int) -> None:
        call_id, attempt = key if isinstance(key, tuple) else ("", 0)
        pending = self._pending.get(call_id)
        if pending is not None and attempt == pending.attempts:
            self._end_open(call_id, when_ns)
            if self.closed:
                self._leave()

    @harmless("ending a LiteLLM call")
    def _end_open(self, key: str, when_ns: int) -> None:
        """A call nobody reported on: a stream given up, or a cancelled call."""
        with self._lock:
            pending = self._pending.pop(key, None)
        if pending is None or pending.reported or pending.outer is not None:
            return
        details = pending.details
        call = self._ending(pending, details, None, "abandoned")
        if details.get("stream"):
            call.abandon(end_ns=when_ns)
        else:
            call.fail(_CANCELLED, end_ns=when_ns)

    def _ending(
        self, pending: Pending, kwargs: Mapping[str, Any], start: Any, outcome: Outcome
    ) -> OpenCall:
        """The call that is about to be ended so."""
        ending = (str(kwargs.get("litellm_call_id")), outcome)
        call, pending.call = pending.call, None
        if call is None:
            beside = together.made_by_another(self, ending)
            call = pending.open(self.recorder, kwargs, start, beside)
        call.fields["attempt"] = pending.attempts
        call.attributes.update(server_of(kwargs))
        together.remember(self, ending, call)
        return call


def _lists() -> tuple[list[Any], ...]:
    # Not litellm.callbacks: CrewAI replaces that list at will.
    return (
        litellm.input_callback,
        litellm.success_callback,
        litellm.failure_callback,
        litellm._async_success_callback,
        litellm._async_failure_callback,
    )
