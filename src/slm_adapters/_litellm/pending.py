"""A call of LiteLLM's that has no outcome yet, and opening its span from what is known of it."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Mapping
from typing import Any

from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, OpenSpan, Recorder, current_call
from . import convert, responses, served
from .facts import json_format

__all__ = ["OPERATIONS", "Pending"]

#: LiteLLM's name of an entry point -> the operation.
OPERATIONS = {
    "completion": semconv.CHAT,
    "acompletion": semconv.CHAT,
    "responses": semconv.CHAT,
    "aresponses": semconv.CHAT,
    "text_completion": semconv.TEXT_COMPLETION,
    "atext_completion": semconv.TEXT_COMPLETION,
    "embedding": semconv.EMBEDDINGS,
    "aembedding": semconv.EMBEDDINGS,
}


class Pending:
    """A call whose outcome is not known yet. Retries share the id, and so this."""

    __slots__ = (
        "attempts", "call", "context", "details", "energy", "energy_after", "failure", "heard",
        "outer", "owners", "reported", "retrying", "started_ns",
    )  # fmt: skip

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.context = contextvars.copy_context()
        #: LiteLLM's own dict of the call; it fills up as the call goes on.
        self.details = details
        #: A call another of our recorders has open around this one.
        self.outer: OpenCall | None = current_call()
        #: Whether that one was told of the answer.
        self.heard = False
        #: Ours, where a client had to be asked inside it.
        self.call: OpenCall | None = None
        self.attempts, self.reported = 0, False
        #: How many loops of attempts LiteLLM is in: retries may be inside fallbacks.
        self.retrying = 0
        #: The first failure that was told and may not be the end, and when it was.
        self.failure: tuple[str, int | None] | None = None
        self.owners: list[object] = []
        #: The energy counters before it was asked, and after it answered: it is reported later.
        self.energy: dict[str, float] | None = None
        self.energy_after: dict[str, float] | None = None
        self.started_ns = time.time_ns()

    def keep(self, details: Mapping[str, Any]) -> None:
        """Go on without what refers to the call's owner, which could not die then: an exception, by
        its traceback, and the stream that the program got."""
        owning = ("exception", "original_response")
        self.details = {name: value for name, value in details.items() if name not in owning}

    def open(
        self,
        recorder: Recorder,
        kwargs: Mapping[str, Any],
        start: Any = None,
        beside: OpenSpan | None = None,
    ) -> OpenCall:
        """Open its span; ``kwargs``, ``start``: what LiteLLM says of the call at this moment."""
        if kwargs.get("call_type") in responses.CALL_TYPES:
            kwargs = responses.as_chat(kwargs)
        params = kwargs.get("optional_params") or {}
        wanted = recorder.wants_content
        provider, local = served.provider_of(kwargs)
        # LiteLLM tells when the last attempt began.
        told = convert.nanoseconds(start or kwargs.get("start_time"))
        # In the caller's context: its span is the parent, its labels are the call's.
        call = self.context.run(
            recorder.open,
            framework="litellm",
            operation=OPERATIONS[str(kwargs.get("call_type"))],
            provider=provider,
            model=str(kwargs.get("model") or "unknown"),
            params=convert.params_from(params),
            messages=convert.messages_from(kwargs) if wanted else (),
            tools=convert.tools_from(params) if wanted else (),
            response_format=json_format(params.get("response_format")),
            streamed=bool(kwargs.get("stream")),
            started_ns=min(told or self.started_ns, self.started_ns),
            attempt=self.attempts or 1,  # some providers fire no pre-call hook
            in_process=local,
            beside=beside,
        )
        if call.energy_before is not None:
            call.energy_before, call.energy_after = self.energy, self.energy_after
        return call
