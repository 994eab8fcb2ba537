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

from ..calls import Outcome
from ..recording import CallRecorderBase
from ..telemetry.harmless import harmless
from ..telemetry.lifetimes import Lifetimes
from ..telemetry.recorder import OpenCall, error_type
from . import clients, convert, hearing, retries, together, untold, wrapping
from .facts import enrich, finish, owner_of, price_of, server_of
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
        wrapping.put(clients.install, retries.install, hearing.install)
        self._take_back = weakref.finalize(self, wrapping.take_back)
        self._take_back.atexit = False
        together.join(self)
        self._enlist()

    @property
    def open_calls(self) -> int:
        """How many calls have no outcome yet."""
        self._lifetimes.settle()
        return sum(not pending.reported for pending in self._pending.values())

    @harmless("the energy of a LiteLLM call")
    def answered(self, call_id: str) -> None:
        """A model of ours answered this call just now."""
        pending = self._pending.get(call_id)
        if pending is not None and self.recorder.energy is not None:
            pending.energy_after = self.recorder.energy.read()

    @harmless("opening a LiteLLM call")
    def inside(self, call_id: str, *, asking: bool = False) -> Context | None:
        """The context inside a call under way, whose span is opened now if it was not yet.

        ``None`` in retries of a call whose failure was told, and where the call has a span around
        it already. ``asking``: only while it has no answer.
        """
        with self._lock:
            pending = self._pending.get(call_id)
            if pending is None or pending.reported or pending.outer is not None:
                return None
            if asking and untold.has_answer(pending.details):
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
        self._take_back()
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

    # Its retries, see `together`

    @harmless("LiteLLM's retries")
    def retrying(self, details: Mapping[str, Any]) -> None:
        if not self._is_ours(details, None):
            return
        with self._lock:
            pending = self._pending.get(_key(details))
            if pending is None:  # its first attempt is one of those
                pending = self._pending[_key(details)] = Pending(details, attempts=0)
        pending.retrying += 1

    @harmless("LiteLLM's answer after retries")
    def retried(self, details: Mapping[str, Any], answer: Any) -> None:
        pending = self._scope_left(details)
        if pending is None or pending.retrying:
            return
        pending.failure = None
        details = pending.details
        if details.get("stream"):
            return
        # That of a synchronous call is about to be reported.
        pending.details = details = {**details, "log_event_type": untold.ANSWERED}
        if answer is not None:
            cost = {"response_cost": price_of(answer, details)}
            self._succeeded({**details, **cost}, answer, None, time.time())

    @harmless("LiteLLM's failure after retries")
    def failed_for_good(self, details: Mapping[str, Any], error: BaseException | None) -> None:
        pending = self._scope_left(details)
        if pending is None or pending.retrying:
            return
        told = pending.failure[0] if pending.failure else "_OTHER"
        self._fail(pending, pending.details, told if error is None else error, time.time_ns())

    @harmless("LiteLLM's failure after retries")
    def retries_failed(self, details: Mapping[str, Any]) -> None:
        self._scope_left(details)

    def _scope_left(self, details: Mapping[str, Any]) -> Pending | None:
        pending = self._pending.get(_key(details))
        if pending is not None and pending.retrying:
            pending.retrying -= 1
            return pending
        return None

    @harmless("LiteLLM's failure")
    def decided(self, details: Mapping[str, Any]) -> None:
        pending = self._pending.get(_key(details))
        if pending is not None and pending.failure is not None and not pending.retrying:
            self._fail(pending, pending.details, *pending.failure)

    @harmless("LiteLLM's answer")
    def learned(self, call_id: str, answer: Any) -> None:
        pending = self._pending.get(call_id)
        if pending is not None and pending.outer is not None and not pending.details.get("stream"):
            enrich(pending.outer, pending.details, answer, heard=pending.heard)
            pending.heard = True

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
        key = _key(kwargs)
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = Pending(kwargs)
            if self.recorder.energy is not None:
                pending.energy = self.recorder.energy.read()
            while len(self._pending) > _LIMIT:
                self._end_open(next(iter(self._pending)), time.time_ns())
        else:
            pending.attempts += 1
            if pending.details is not kwargs:  # what the attempt before said
                pending.details = {**pending.details, "log_event_type": untold.ASKED}
        owner = owner_of(kwargs)
        if owner is not None:
            pending.owners.append(self._lifetimes.watch(owner, (key, pending.attempts)))

    @harmless("LiteLLM's log_post_api_call")
    def log_post_api_call(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        if isinstance(kwargs.get("original_response"), str | None):
            return
        pending = self._pending.get(str(kwargs.get("litellm_call_id")))
        if pending is not None:
            # The stream that the program got is in there, and would live as long as the dict.
            pending.details = {k: v for k, v in kwargs.items() if k != "original_response"}

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
            enrich(pending.outer, kwargs, response, heard=pending.heard)
        else:
            finish(self._ending(pending, kwargs, start, "finished"), kwargs, response, end)

    def _failed(self, kwargs: dict[str, Any], start: Any, end: Any) -> None:
        if not self._is_ours(kwargs, start):
            return
        key = _key(kwargs)
        with self._lock:
            pending = self._pending.setdefault(key, Pending(kwargs))
        error, began = kwargs.get("exception") or "_OTHER", convert.nanoseconds(start)
        pending.started_ns = min(began or pending.started_ns, pending.started_ns)
        when_ns = convert.nanoseconds(end)
        if not pending.retrying and not retries.may_follow(kwargs):
            self._fail(pending, kwargs, error, when_ns)
        elif pending.failure is None:
            pending.failure = (error_type(error), when_ns)
            # The exception, by its traceback, would keep the call's owner alive.
            pending.details = {k: v for k, v in kwargs.items() if k != "exception"}

    def _fail(
        self,
        pending: Pending,
        kwargs: Mapping[str, Any],
        error: BaseException | str,
        when_ns: int | None,
    ) -> None:
        with self._lock:
            if pending.reported:
                return
            # Kept: LiteLLM may tell more of it under the same id.
            pending.reported = True
        if pending.outer is None:
            call = self._ending(pending, kwargs, None, "failed")
            call.fail(error, end_ns=when_ns)
        # LiteLLM's dict of the call holds the prompt, and is not needed any more.
        pending.details, pending.failure = {}, None

    def _is_ours(self, kwargs: Mapping[str, Any], start: Any) -> bool:
        """Whether the call is of a known kind and began while this recorder listened."""
        began = convert.nanoseconds(start)
        known = kwargs.get("call_type") in OPERATIONS
        heard = not self.closed or str(kwargs.get("litellm_call_id")) in self._pending
        return known and heard and (began is None or began >= self._since_ns)

    def _taken(self, kwargs: dict[str, Any]) -> Pending | None:
        """The call that ended; ``None`` if it did before. Some providers fire no pre-call hook."""
        self._lifetimes.settle()
        key = _key(kwargs)
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
        if pending.failure is not None:
            self._fail(pending, details, *pending.failure)
            return
        call = self._ending(pending, details, None, "abandoned")
        if details.get("stream") or untold.is_answered(details):
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


def _key(kwargs: Mapping[str, Any]) -> str:
    return str(kwargs.get("litellm_call_id"))


def _lists() -> tuple[list[Any], ...]:
    # Not litellm.callbacks: CrewAI replaces that list at will.
    return (
        litellm.input_callback,
        litellm.success_callback,
        litellm.failure_callback,
        litellm._async_success_callback,
        litellm._async_failure_callback,
    )
