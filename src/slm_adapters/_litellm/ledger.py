"""The calls of one recorder that LiteLLM has not told the end of, and how each one ends.

The parent and the labels are captured before the call, on the caller's context; LiteLLM reports the
outcome later, on other threads and sometimes without any context.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from opentelemetry.context import Context

from ..calls import Outcome
from ..telemetry.harmless import harmless
from ..telemetry.lifetimes import Lifetimes
from ..telemetry.recorder import OpenCall, Recorder, error_type
from . import convert, retries, together, untold
from .facts import enrich, finish, owner_of, price_of, server_of
from .pending import OPERATIONS, Pending

__all__ = ["Ledger"]

_LIMIT = 10_000
_CANCELLED = "asyncio.exceptions.CancelledError"


class Ledger:
    """Opens and ends the calls of ``recorder``, as LiteLLM tells of them.

    ``on_empty``: called when the last one ended after ``close()``.
    """

    def __init__(self, recorder: Recorder, on_empty: Callable[[], None]) -> None:
        self.recorder = recorder
        self.closed = False
        self.pending: dict[str, Pending] = {}
        #: For the other recorders, see `together`.
        self.made: together.Made = OrderedDict()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._lifetimes = Lifetimes(self._lost)
        self._lock = threading.RLock()
        self._since_ns = time.time_ns()
        self._on_empty = on_empty

    def open_calls(self) -> int:
        """How many calls have no outcome yet."""
        self._lifetimes.settle()
        return sum(not pending.reported for pending in self.pending.values())

    def close(self) -> None:
        """End what is still open. Answered calls, of which LiteLLM tells later, end then."""
        self.closed = True
        self._lifetimes.settle()
        for key, pending in list(self.pending.items()):
            if pending.reported or not untold.is_answered(pending.details):
                self._end_open(key, time.time_ns())
        if self.pending:
            untold.tell_what_is_stranded()
        self._leave()

    def _leave(self) -> None:
        if self.closed and not self.pending:
            self._on_empty()

    # Before the outcome

    def asking(self, kwargs: dict[str, Any]) -> None:
        """A provider is about to be asked; ``kwargs``: LiteLLM's dict of the call."""
        self._lifetimes.settle()
        key = _key(kwargs)
        pending = self.pending.get(key)
        if pending is None:
            pending = self._begun(kwargs)
        elif pending.details is not kwargs:  # what the attempt before said
            pending.details = {**pending.details, "log_event_type": untold.ASKED}
        pending.attempts += 1
        owner = owner_of(kwargs)
        if owner is not None:
            pending.owners.append(self._lifetimes.watch(owner, (key, pending.attempts)))

    def _begun(self, details: Mapping[str, Any]) -> Pending:
        pending = self.pending[_key(details)] = Pending(details)
        if self.recorder.energy is not None:
            pending.energy = self.recorder.energy.read()
        while len(self.pending) > _LIMIT:
            self._end_open(next(iter(self.pending)), time.time_ns())
        return pending

    def forget_stream(self, kwargs: Mapping[str, Any]) -> None:
        """The program got a stream, which LiteLLM put into its dict of the call too."""
        pending = self.pending.get(_key(kwargs))
        if pending is not None:
            pending.keep(kwargs)

    @harmless("the energy of a LiteLLM call")
    def answered(self, call_id: str) -> None:
        """A model of ours answered this call just now."""
        pending = self.pending.get(call_id)
        if pending is not None and self.recorder.energy is not None:
            pending.energy_after = self.recorder.energy.read()

    @harmless("opening a LiteLLM call")
    def inside(self, call_id: str, *, asking: bool = False) -> Context | None:
        """The context inside a call under way, whose span is opened now if it was not yet.

        ``None`` in retries of a call whose failure was told, and where the call has a span around
        it already. ``asking``: only while it has no answer.
        """
        with self._lock:
            pending = self.pending.get(call_id)
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
        pending = self.pending.get(call_id)
        return None if pending is None else pending.call

    # Its retries, see `together`

    @harmless("LiteLLM's retries")
    def retrying(self, details: Mapping[str, Any]) -> None:
        if not self._is_ours(details, None):
            return
        with self._lock:
            pending = self.pending.get(_key(details))
            if pending is None:  # its first attempt is one of those
                pending = self._begun(details)
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
            self.succeeded({**details, **cost}, answer, None, time.time())

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
        pending = self.pending.get(_key(details))
        if pending is not None and pending.retrying:
            pending.retrying -= 1
            return pending
        return None

    @harmless("LiteLLM's failure")
    def decided(self, details: Mapping[str, Any]) -> None:
        pending = self.pending.get(_key(details))
        if pending is not None and pending.failure is not None and not pending.retrying:
            self._fail(pending, pending.details, *pending.failure)

    @harmless("LiteLLM's answer")
    def learned(self, call_id: str, answer: Any) -> None:
        pending = self.pending.get(call_id)
        if pending is not None and pending.outer is not None and not pending.details.get("stream"):
            enrich(pending.outer, pending.details, answer, heard=pending.heard)
            pending.heard = True

    # Outcomes

    def succeeded(self, kwargs: dict[str, Any], response: Any, start: Any, end: Any) -> None:
        pending = self._taken(kwargs) if self._is_ours(kwargs, start) else None
        if pending is None:
            return
        try:
            if pending.outer is not None:
                enrich(pending.outer, kwargs, response, heard=pending.heard)
            else:
                finish(self._ending(pending, kwargs, start, "finished"), kwargs, response, end)
        finally:
            self._leave()

    def failed(self, kwargs: dict[str, Any], start: Any, end: Any) -> None:
        if not self._is_ours(kwargs, start):
            return
        key = _key(kwargs)
        with self._lock:
            pending = self.pending.setdefault(key, Pending(kwargs))
        error, began = kwargs.get("exception") or "_OTHER", convert.nanoseconds(start)
        pending.started_ns = min(began or pending.started_ns, pending.started_ns)
        when_ns = convert.nanoseconds(end)
        if not pending.retrying and not retries.may_follow(kwargs):
            self._fail(pending, kwargs, error, when_ns)
        elif pending.failure is None:
            pending.failure = (error_type(error), when_ns)
            pending.keep(kwargs)

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
        heard = not self.closed or _key(kwargs) in self.pending
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
            return self.pending.pop(key, None) or Pending(kwargs)

    def _lost(self, key: Hashable, when_ns: int) -> None:
        call_id, attempt = key if isinstance(key, tuple) else ("", 0)
        pending = self.pending.get(call_id)
        if pending is not None and attempt == pending.attempts:
            self._end_open(call_id, when_ns)
            self._leave()

    @harmless("ending a LiteLLM call")
    def _end_open(self, key: str, when_ns: int) -> None:
        """A call nobody reported on: a stream given up, or a cancelled call."""
        with self._lock:
            pending = self.pending.pop(key, None)
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
        ending = (_key(kwargs), outcome)
        call, pending.call = pending.call, None
        if call is None:
            beside = together.made_by_another(self, ending)
            call = pending.open(self.recorder, kwargs, start, beside)
        call.fields["attempt"] = pending.attempts or 1
        call.attributes.update(server_of(kwargs))
        together.remember(self, ending, call)
        return call


def _key(kwargs: Mapping[str, Any]) -> str:
    return str(kwargs.get("litellm_call_id"))
