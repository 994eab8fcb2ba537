"""One answer of a ``ChatSLM`` and the span or spans that tell of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from langchain_core.callbacks import CallbackManager
from langchain_core.callbacks.base import Callbacks
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from ..engine.engine import Completion
from ..routing.span_facts import span_facts
from ..scope import current_scope
from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, as_current_call, default_recorder
from . import answers, pending
from .handler import CallRecorder

__all__ = ["Turn", "open_turn"]

T = TypeVar("T")


class Turn:
    """The calls open for this answer: the callbacks' own, which they end, or one of ours."""

    def __init__(self, calls: list[OpenCall], *, ours: bool, manager: Any) -> None:
        self.calls, self.ours, self._manager = calls, ours, manager

    @property
    def role(self) -> str | None:
        """Whose answer it is, as the program or the recorder knows."""
        return current_scope().role or self._field("role")

    @property
    def run(self) -> str | None:
        """The run it belongs to: ``run(...)``, the recorder's, or LangGraph's thread."""
        named = current_scope().run_id or self._field("run_id")
        if named is None and self._manager is not None:
            thread = (self._manager.metadata or {}).get("thread_id")
            named = None if thread is None else str(thread)
        return named

    def _field(self, name: str) -> str | None:
        value = self.calls[0].fields.get(name) if self.calls else None
        return value if isinstance(value, str) else None

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the span current, so that what happens inside nests under it."""
        return as_current_call(self.calls[0]) if self.calls else contextlib.nullcontext()

    def steps(self, events: Iterator[T]) -> Iterator[T]:
        """The events, each one made inside the span, consumed outside of it."""
        while True:
            with self.current():
                event = next(events, None)
            if event is None:
                return
            yield event

    async def asteps(self, events: AsyncIterator[T]) -> AsyncIterator[T]:
        """The same for asynchronous ones."""
        while True:
            with self.current():
                event = await anext(events, None)
            if event is None:
                return
            yield event

    def chunk(self, text: str) -> None:
        """Text was shown; callbacks report it for their own calls."""
        if self.ours:
            self.calls[0].chunk(text)

    def finish(self, completion: Completion) -> None:
        """The model answered."""
        for call in self.calls:
            call.note(**span_facts(completion))
        if self.ours:
            model = completion.model
            self.calls[0].finish([completion.reply], completion.usage, response_model=model)

    def finish_with_fallback(self, message: AIMessage | None) -> None:
        """The fallback answered; its tokens are on its own span."""
        if self.ours and message is not None:
            result = LLMResult(generations=[[ChatGeneration(message=message)]])
            model = answers.facts_from(result)[0]
            self.calls[0].finish(answers.replies_from(result), response_model=model)

    def falls_back(self, reason: str, model: str) -> None:
        """Say on the span why the fallback was asked."""
        facts = {semconv.FALLBACK_REASON: reason, semconv.FALLBACK_MODEL: model}
        for call in self.calls:
            call.note(**facts)

    def fail(self, error: BaseException) -> None:
        """The answer failed or was given up. Cancelled runs are ended here: nobody else will."""
        for call in self.calls:
            if isinstance(error, GeneratorExit):
                if self.ours:
                    call.abandon()
            elif self.ours or isinstance(error, asyncio.CancelledError):
                call.fail(error)

    def callbacks(self) -> Callbacks:
        """For a call made inside this one: its run is the parent, its recorders listen."""
        if self._manager is None or self.ours:
            recorders: list[Any] = [CallRecorder.over(call.recorder) for call in self.calls]
        else:
            recorders = _recorders(self._manager)
        if self._manager is None:
            return recorders
        child = CallbackManager(handlers=[], parent_run_id=self._manager.run_id)
        child.set_handlers(self._manager.inheritable_handlers)
        for recorder in recorders:
            child.add_handler(recorder)
        child.add_tags(self._manager.inheritable_tags)
        # What describes the outer model does not describe the inner one.
        metadata = self._manager.inheritable_metadata.items()
        child.add_metadata({key: value for key, value in metadata if not key.startswith("ls_")})
        return child


def _recorders(run_manager: Any) -> list[Any]:
    return [handler for handler in run_manager.handlers if isinstance(handler, CallRecorder)]


def open_turn(run_manager: Any, **opening: Any) -> Turn:
    """The calls recorders opened for this run, else one call of the default recorder.

    ``opening`` is what ``Recorder.open`` takes; ``messages`` and ``tools`` as functions.
    """
    messages, tools = opening.pop("messages"), opening.pop("tools")
    calls = _calls_of(run_manager)
    if calls:
        return Turn(calls, ours=False, manager=run_manager)
    recorder = default_recorder()
    if recorder.wants_content:
        opening |= {"messages": messages(), "tools": tools()}
    call = recorder.open(framework="langchain", **opening)
    return Turn([call], ours=True, manager=run_manager)


def _calls_of(run_manager: Any) -> list[OpenCall]:
    if run_manager is None:
        return pending.claim()
    pending.claim(run_manager.run_id)
    found = [recorder.open_call(run_manager.run_id) for recorder in _recorders(run_manager)]
    return [call for call in found if call is not None]
