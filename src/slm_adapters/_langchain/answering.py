"""The four ways LangChain asks a model, on one engine, one request and one fallback rule."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import ConfigDict, Field

from ..engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from ..errors import EmptyReplyError, InvalidReplyError, RejectedReplyError, SLMAdaptersError
from ..routing.fallback import Fallbacks, should_fall_back
from ..routing.routed import RoutedEngine
from ..routing.router import Router
from . import convert
from .errors import as_langchain_error
from .fallback import fallback_for, fallback_name
from .turn import Turn

__all__ = ["AnsweringModel"]

_TRY_AGAIN = (EmptyReplyError, InvalidReplyError, RejectedReplyError)


class AnsweringModel(BaseChatModel):
    """A chat model over a ``ChatEngine``; subclasses say which engine, request and fallback."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    fallback: Any = None
    #: Which answers count; shared by copies.
    router: Router = Field(default_factory=Router, repr=False)
    #: Further tries after an unusable answer; a greedy model would only repeat itself.
    max_retries: int = 2

    # What raises down to ``fallbacks`` is the subclass's part.

    def _engine(self, kwargs: Mapping[str, Any]) -> ChatEngine:
        raise NotImplementedError

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        kwargs: Mapping[str, Any],
    ) -> ChatRequest:
        raise NotImplementedError

    def _turn(
        self,
        messages: Sequence[BaseMessage],
        run_manager: Any,
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
    ) -> Turn:
        raise NotImplementedError

    @property
    def fallbacks(self) -> Fallbacks:
        """How often the fallback answered, by reason."""
        raise NotImplementedError

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(messages, run_manager, kwargs)
        try:
            with turn.current():
                engine = self._routed(turn, kwargs)
                completion = self._answer(engine, self._request(messages, stop, kwargs))
            turn.finish(completion)
            return convert.chat_result(convert.ai_message(completion))
        except SLMAdaptersError as error:
            reason = self._give_way(turn, error)
        except BaseException as error:
            turn.fail(error)
            raise
        with _failing(turn), turn.current():
            answer = self._fallback_for(kwargs).invoke(messages, **_asked(turn, stop))
        turn.finish_with_fallback(answer)
        return convert.chat_result(answer, fallback_reason=reason)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(messages, run_manager, kwargs)
        try:
            with turn.current():
                engine = self._routed(turn, kwargs)
                completion = await self._aanswer(engine, self._request(messages, stop, kwargs))
            turn.finish(completion)
            return convert.chat_result(convert.ai_message(completion))
        except SLMAdaptersError as error:
            reason = self._give_way(turn, error)
        except BaseException as error:
            turn.fail(error)
            raise
        with _failing(turn), turn.current():
            answer = await self._fallback_for(kwargs).ainvoke(messages, **_asked(turn, stop))
        turn.finish_with_fallback(answer)
        return convert.chat_result(answer, fallback_reason=reason)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = self._turn(messages, run_manager, kwargs, stream=True)
        shown, cancel = False, threading.Event()
        try:
            request = self._request(messages, stop, kwargs)
            for event in turn.steps(self._routed(turn, kwargs).stream(request, cancel)):
                shown = shown or (isinstance(event, Chunk) and event.answers)
                yield _piece(turn, event)
            return
        except SLMAdaptersError as error:
            reason = self._give_way(turn, error, shown=shown)
        except BaseException as error:
            turn.fail(error)
            raise
        finally:
            cancel.set()
        with _failing(turn):
            whole = None
            source = self._fallback_for(kwargs).stream(messages, **_asked(turn, stop))
            for chunk in turn.steps(source):
                whole = chunk if whole is None else whole + chunk
                yield ChatGenerationChunk(message=convert.marked(chunk, reason))
        turn.finish_with_fallback(whole)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        turn = self._turn(messages, run_manager, kwargs, stream=True)
        shown = False
        try:
            request = self._request(messages, stop, kwargs)
            async for event in turn.asteps(self._routed(turn, kwargs).astream(request)):
                shown = shown or (isinstance(event, Chunk) and event.answers)
                yield _piece(turn, event)
            return
        except SLMAdaptersError as error:
            reason = self._give_way(turn, error, shown=shown)
        except BaseException as error:
            turn.fail(error)
            raise
        with _failing(turn):
            whole = None
            source = self._fallback_for(kwargs).astream(messages, **_asked(turn, stop))
            async for chunk in turn.asteps(source):
                whole = chunk if whole is None else whole + chunk
                yield ChatGenerationChunk(message=convert.marked(chunk, reason))
        turn.finish_with_fallback(whole)

    def _routed(self, turn: Turn, kwargs: Mapping[str, Any]) -> RoutedEngine:
        """The engine under this model's router, for the role and run the turn belongs to."""
        engine, gives_way = self._engine(kwargs), self.fallback is not None
        return RoutedEngine(engine, self.router, gives_way=gives_way, role=turn.role, run=turn.run)

    def _answer(self, engine: RoutedEngine, request: ChatRequest) -> Completion:
        for _ in range(self._tries(request) - 1):
            try:
                return engine.complete(request)
            except _TRY_AGAIN:
                continue
        return engine.complete(request)

    async def _aanswer(self, engine: RoutedEngine, request: ChatRequest) -> Completion:
        for _ in range(self._tries(request) - 1):
            try:
                return await engine.acomplete(request)
            except _TRY_AGAIN:
                continue
        return await engine.acomplete(request)

    def _tries(self, request: ChatRequest) -> int:
        sampling = request.temperature > 0 and request.seed is None
        return 1 + max(0, self.max_retries) if sampling else 1

    def _fallback_for(self, kwargs: Mapping[str, Any]) -> Runnable[Any, Any]:
        return fallback_for(self.fallback, kwargs)

    def _give_way(self, turn: Turn, error: SLMAdaptersError, *, shown: bool = False) -> str:
        """The reason to ask the fallback; raises ``error`` when there is nobody to ask."""
        if self.fallback is None or shown or not should_fall_back(error):
            raised = as_langchain_error(error)
            turn.fail(raised)
            raise raised
        reason = self.fallbacks.add(error)
        self.router.gave_way(turn.role, turn.run)
        turn.falls_back(reason, fallback_name(self.fallback))
        return reason


def _piece(turn: Turn, event: Chunk | Completion) -> ChatGenerationChunk:
    """What a stream shows of one event."""
    if isinstance(event, Completion):
        turn.finish(event)
        return ChatGenerationChunk(message=convert.last_chunk(event))
    turn.chunk(event.text)
    return ChatGenerationChunk(message=convert.message_chunk(event))


def _asked(turn: Turn, stop: Sequence[str] | None) -> dict[str, Any]:
    options: dict[str, Any] = {"config": {"callbacks": turn.callbacks()}}
    return options | {"stop": list(stop)} if stop else options


@contextmanager
def _failing(turn: Turn) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        turn.fail(error)
        raise
