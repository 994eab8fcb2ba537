"""An engine whose answers count only when a router accepts them: sync, async and streamed."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager
from typing import TypeVar, cast

from ..calls import Message, Tool, Usage
from ..engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from ..engine.shown_calls import ShownCalls
from ..errors import (
    CancelledGenerationError,
    DeadlineExceededError,
    GenerationError,
    SLMAdaptersError,
)
from ..telemetry import semconv
from .answer import Answer
from .router import Router
from .verify import usable

__all__ = ["RoutedEngine"]

T = TypeVar("T")


class RoutedEngine(ChatEngine):
    """``engine`` under a router's policy; raises instead of giving an answer that may not count.

    ``gives_way``: a fallback stands behind it, so the router may refuse a call unasked. ``role``
    and ``run``: whose call it is. Streams show text as it comes only where no check of the router
    wants the whole answer; tool calls too, but where a fallback could still answer instead only
    what a grammar keeps from turning out wrong.
    """

    def __init__(
        self,
        engine: ChatEngine,
        router: Router,
        *,
        gives_way: bool = False,
        role: str | None = None,
        run: str | None = None,
    ) -> None:
        self.engine, self.router, self.gives_way = engine, router, gives_way
        self.role, self.run = role, run
        self.name, self.local, self.provider = engine.name, engine.local, engine.provider

    @property
    def context_window(self) -> int:  # type: ignore[override]
        """The engine's own."""
        return self.engine.context_window

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """The engine's own count."""
        return self.engine.count_tokens(messages, tools)

    def warm_up(self) -> None:
        """Load the engine."""
        self.engine.warm_up()

    def complete(self, request: ChatRequest, cancel: threading.Event | None = None) -> Completion:
        """An accepted answer, or the error that says why there is none."""
        with self._attempt(request) as attempt:
            completion = attempt.first(self.engine.complete(attempt.request, cancel))
            return attempt.accepted(completion, self._draw(attempt, cancel))

    async def acomplete(self, request: ChatRequest) -> Completion:
        """The same; samples are drawn at once."""
        with self._attempt(request) as attempt:
            completion = attempt.first(await self.engine.acomplete(attempt.request))
            return attempt.accepted(completion, await self._adraw(attempt))

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        """Chunks that may be shown, then the accepted ``Completion``."""
        with (
            self._attempt(request) as attempt,
            closing(_each(self.engine.stream(attempt.request, cancel))) as events,
        ):
            for event in events:
                if isinstance(event, Completion):
                    completion = attempt.first(event)
                    completion = attempt.accepted(completion, self._draw(attempt, cancel))
                    yield from attempt.held_back(completion)
                    yield completion
                elif attempt.may_show(event):
                    yield event

    async def astream(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """The same for asynchronous callers."""
        with self._attempt(request) as attempt:
            source = cast(
                "AsyncGenerator[Chunk | Completion]", self.engine.astream(attempt.request)
            )
            async with aclosing(source) as events:
                async for event in events:
                    if isinstance(event, Completion):
                        completion = attempt.first(event)
                        completion = attempt.accepted(completion, await self._adraw(attempt))
                        for chunk in attempt.held_back(completion):
                            yield chunk
                        yield completion
                    elif attempt.may_show(event):
                        yield event

    def gave_way(self) -> None:
        """The fallback answers instead."""
        self.router.gave_way(self.role, self.run)

    @contextmanager
    def _attempt(self, request: ChatRequest) -> Iterator[_Attempt]:
        if self.gives_way:
            self.router.admit(self.name, request, self.role, self.run)
        try:
            yield _Attempt(self, request)
        except BaseException as error:
            self.router.ended(self.name, error)
            raise
        self.router.ended(self.name, None)

    # Samples

    def _draw(
        self, attempt: _Attempt, cancel: threading.Event | None
    ) -> tuple[Completion | None, ...]:
        requests = attempt.further_requests()
        if not requests:
            return ()
        with ThreadPoolExecutor(len(requests), thread_name_prefix="slm-samples") as pool:
            drawn = [
                pool.submit(contextvars.copy_context().run, self._sample, request, cancel)
                for request in requests
            ]
            return tuple(future.result() for future in drawn)

    async def _adraw(self, attempt: _Attempt) -> tuple[Completion | None, ...]:
        drawn = [
            asyncio.ensure_future(self._asample(request)) for request in attempt.further_requests()
        ]
        try:
            return tuple(await asyncio.gather(*drawn))
        finally:
            # One that ends the whole answer leaves the others with nothing to compute for.
            for sample in drawn:
                sample.cancel()

    def _sample(self, request: ChatRequest, cancel: threading.Event | None) -> Completion | None:
        try:
            return self.engine.complete(request, cancel)
        except GenerationError as error:
            _give_up_with(error)
            return None

    async def _asample(self, request: ChatRequest) -> Completion | None:
        try:
            return await self.engine.acomplete(request)
        except GenerationError as error:
            _give_up_with(error)
            return None


class _Attempt:
    """One request on its way: what is asked, what waits to be shown, what it cost."""

    def __init__(self, routed: RoutedEngine, request: ChatRequest) -> None:
        self._routed, self._router = routed, routed.router
        if self._router.logprobs:
            request = dataclasses.replace(request, logprobs=True)
        self.request = request
        self._said: list[Chunk] = []
        self._calls, self._calls_wait = ShownCalls(), False
        self._started = time.monotonic()
        self._answer: Answer | None = None

    def may_show(self, chunk: Chunk) -> bool:
        """Whether the chunk may be shown unchecked; else it is held back."""
        decides = self._router.decides
        if chunk.tool_call is None:
            if decides:
                self._said.append(chunk)
            return bool(chunk.text or chunk.reasoning) and not decides
        may_fail = self._routed.gives_way and not chunk.tool_call.certain
        self._calls_wait = self._calls_wait or decides or may_fail
        if not self._calls_wait:
            self._calls.note(chunk.tool_call)
        return not self._calls_wait

    def held_back(self, completion: Completion) -> list[Chunk]:
        """What was not shown, now that the answer is accepted."""
        calls = [Chunk(tool_call=delta) for delta in self._calls.rest(completion)]
        return [*self._said, *calls]

    def first(self, completion: Completion) -> Completion:
        """The answer, once its form and every check that needs no samples accept it."""
        routed = self._routed
        completion = usable(self.request, completion)
        self._answer = Answer(self.request, completion, routed.role, routed.run)
        self._router.judge(self._answer)
        return completion

    def further_requests(self) -> list[ChatRequest]:
        """What to ask for the samples; each may take what is left of the caller's time."""
        count, temperature = self._router.sampling
        if not count:
            return []
        request = self.request
        left = request.timeout
        if left is not None:
            left -= time.monotonic() - self._started
            if left <= 0:
                raise DeadlineExceededError(
                    f"no time was left of {request.timeout:g} s to compare samples: raise "
                    "timeout=, or give the model a fallback=."
                )
        seeds = [None if request.seed is None else request.seed + i + 1 for i in range(count)]
        warm = max(temperature, request.temperature)
        return [
            dataclasses.replace(request, temperature=warm, seed=seed, timeout=left)
            for seed in seeds
        ]

    def accepted(
        self, completion: Completion, samples: tuple[Completion | None, ...]
    ) -> Completion:
        """The completion with all it cost, once the checks that compare samples accept it."""
        if not samples:
            return completion
        assert self._answer is not None
        completion = _with_samples(completion, samples)
        answer = dataclasses.replace(self._answer, completion=completion, samples=samples)
        self._router.judge(answer, "sampled")
        return completion


def _each(events: Iterator[T]) -> Generator[T, None, None]:
    """The events of an engine, which may return any iterator, as something that can be closed."""
    yield from events


def _give_up_with(error: SLMAdaptersError) -> None:
    """A sample that failed agrees with nothing; one that was given up ends the whole answer."""
    if isinstance(error, CancelledGenerationError | DeadlineExceededError):
        raise error


def _with_samples(completion: Completion, samples: Sequence[Completion | None]) -> Completion:
    """The tokens of the samples are spent too, and the span says how many there were."""
    used = [completion.usage, *(sample.usage for sample in samples if sample is not None)]
    usage = Usage(
        sum(item.input_tokens for item in used),
        sum(item.output_tokens for item in used),
        cached_tokens=_sum([item.cached_tokens for item in used]),
        reasoning_tokens=_sum([item.reasoning_tokens for item in used]),
        source=completion.usage.source,
    )
    attributes = {**completion.attributes, semconv.SAMPLES: 1 + len(samples)}
    return dataclasses.replace(completion, usage=usage, attributes=attributes)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
