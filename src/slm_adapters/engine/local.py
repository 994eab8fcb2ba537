"""A model in this process, asked like any other engine."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calls import Message, Tool
from ..errors import ContextOverflowError
from ..telemetry import semconv
from .adapters import Adapter, NamedAdapters, locate_adapter
from .checkpoint import configured_window
from .engine import ChatEngine, ChatRequest, Chunk, Completion
from .patience import Patience
from .sampling import Confidence, Sampling
from .ticket import Ticket
from .writer import ReplyWriter, encode, prompt_tokens

if TYPE_CHECKING:
    from .loader import Handle
    from .weights import LoadedModel

__all__ = ["LocalEngine"]

#: Reply tokens when the caller names no limit.
DEFAULT_MAX_TOKENS = 1024


class LocalEngine(ChatEngine):
    """One user's view of a shared local model; made by ``load_engine``.

    Calls from any number of threads and tasks are written together by the model's one worker;
    a stream that nobody reads holds nobody up.
    """

    local = True

    def __init__(
        self, handle: Handle, *, context_window: int | None = None, adapter: str | None = None
    ) -> None:
        self._handle, self.adapter = handle, adapter
        self._used: tuple[weakref.ref[LoadedModel], Path | None, Adapter] | None = None
        self._asked_window = context_window
        self._configured = configured_window(handle.path, handle.asked[0])
        # A path says where a user keeps files; the folder's name is enough on a span.
        self.name = Path(handle.path).name if handle.is_folder else handle.name
        if adapter is not None:
            self.name += f":{Path(adapter).name}"

    def __reduce__(self) -> tuple[Any, ...]:
        handle = self._handle
        model = handle.path if handle.is_folder else handle.name
        window, alive = self._asked_window, handle.keep_alive
        return _rebuild, (model, handle.asked, window, self.adapter, alive)

    @property
    def identity(self) -> Hashable:
        """The weights as they were asked for, and the adapter."""
        return self._handle.path, self._handle.asked, self.adapter

    @property
    def adapters(self) -> NamedAdapters:
        """The base's adapters by name: ``add(name, folder)``, ``remove(name)``, iteration."""
        return self._handle.adapters

    @property
    def context_window(self) -> int:  # type: ignore[override]
        """Tokens of prompt and reply; 4096 for a hub model whose files are not here yet."""
        loaded = self._handle.peek()
        known = loaded.window if loaded is not None else self._configured
        asked = self._asked_window
        if known is None:
            return asked or ChatEngine.context_window
        return min(known, asked) if asked else known

    def warm_up(self) -> None:
        """Load the weights, and the adapter, now, and get ready for structured replies."""
        loaded = self._handle.loaded()
        self._adapter(loaded)
        loaded.grammars.prepare()

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Prompt tokens of these messages and tools, exactly as the model would read them."""
        request = ChatRequest(tuple(messages), tuple(tools))
        return len(prompt_tokens(self._handle.loaded(), request)[0])

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        """Yield text and tool calls as they are decided, then the ``Completion``.

        The model works ahead of a slow reader; closing the iterator stops it.
        """
        patience = Patience(request.timeout, cancel)
        chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        reply = self._ask(request, patience, chunks.put, streams=True)
        try:
            while (chunk := reply.wait_for(chunks)) is not None:
                yield chunk
        finally:
            patience.give_up()
        yield from reply.finish(self.name)

    def complete(self, request: ChatRequest, cancel: threading.Event | None = None) -> Completion:
        """The whole answer."""
        patience = Patience(request.timeout, cancel)
        chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        reply = self._ask(request, patience, chunks.put, streams=False)
        try:
            reply.wait_for(chunks)
        finally:
            patience.give_up()
        *_, last = reply.finish(self.name)
        assert isinstance(last, Completion)
        return last

    async def acomplete(self, request: ChatRequest) -> Completion:
        """Like ``complete``, without a thread that waits; cancelling the task stops the model."""
        last = None
        async with self._asked(request, streams=False) as (reply, chunks):
            await reply.wait_async(chunks)
            *_, last = reply.finish(self.name)
        assert isinstance(last, Completion)
        return last

    async def astream(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """Like ``stream``, without a thread that waits; closing the iterator stops the model."""
        async with self._asked(request, streams=True) as (reply, chunks):
            while (chunk := await reply.wait_async(chunks)) is not None:
                yield chunk
            for event in reply.finish(self.name):
                yield event

    @contextlib.asynccontextmanager
    async def _asked(
        self, request: ChatRequest, *, streams: bool
    ) -> AsyncIterator[tuple[_Reply, asyncio.Queue[Chunk | None]]]:
        """The request on its way, and the queue that its chunks arrive in."""
        patience, loop = Patience(request.timeout), asyncio.get_running_loop()
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()

        def put(chunk: Chunk | None) -> None:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        def ask() -> _Reply:
            return self._ask(request, patience, put, streams=streams)

        try:
            # Loading takes seconds and reading a long prompt's text milliseconds.
            yield await asyncio.to_thread(ask), chunks
        finally:
            patience.give_up()

    def _ask(
        self,
        request: ChatRequest,
        patience: Patience,
        deliver: Callable[[Chunk | None], None],
        *,
        streams: bool,
    ) -> _Reply:
        """Hand the request to the model's worker; unless it streams, only its end is delivered."""
        loaded = self._handle.loaded()
        prompt = encode(loaded, request)
        limit = self._limit(request, len(prompt.tokens), loaded)
        writer = ReplyWriter(loaded, request, prompt, limit, streams=streams)
        sampling = Sampling(request.temperature, request.top_p, request.top_k, request.seed)
        adapter = self._adapter(loaded)
        key = adapter.key if adapter is not None else None
        sure = Confidence() if request.logprobs else None
        deliver = deliver if streams else _end_only(deliver)
        ticket = Ticket(writer, prompt.tokens, sampling, limit, patience, deliver, key, sure)
        loaded.scheduler.submit(ticket)
        return _Reply(ticket, writer, loaded, adapter)

    def _adapter(self, loaded: LoadedModel) -> Adapter | None:
        """This engine's adapter on these weights; what its name or path stood for at first.

        A name that was removed, or given to another folder, holds for the next call.
        """
        if self.adapter is None:
            return None
        named = self.adapters.folder_of(self.adapter)
        used = self._used
        if used is None or used[0]() is not loaded or used[1] != named:
            folder = named or locate_adapter(self.adapter)
            used = self._used = weakref.ref(loaded), named, loaded.adapters.load(folder)
        return used[2]

    def _limit(self, request: ChatRequest, prompt_tokens: int, loaded: LoadedModel) -> int:
        """Reply tokens allowed; raises ``ContextOverflowError`` before anything is computed."""
        window = min(self._asked_window or loaded.window, loaded.window)
        wanted = 1 if request.max_tokens is None else max(request.max_tokens, 1)
        if prompt_tokens + wanted > window:
            raise ContextOverflowError(self.name, prompt_tokens, wanted, window)
        if request.max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, window - prompt_tokens)
        return wanted


class _Reply:
    """A reply that the worker writes, as the caller waits for it."""

    def __init__(
        self, ticket: Ticket, writer: ReplyWriter, loaded: LoadedModel, adapter: Adapter | None
    ) -> None:
        # Model and adapter stay in memory until their reply is read to the end.
        self._ticket, self._writer, self._loaded = ticket, writer, loaded
        self._adapter = adapter

    def wait_for(self, chunks: queue.SimpleQueue[Chunk | None]) -> Chunk | None:
        """The next chunk, None at the end; raises what ended the reply too early."""
        while True:
            try:
                return self._checked(chunks.get(timeout=self._ticket.patience.nap()))
            except queue.Empty:
                self._still_waiting()

    async def wait_async(self, chunks: asyncio.Queue[Chunk | None]) -> Chunk | None:
        """Like ``wait_for``, in a task."""
        while True:
            if not chunks.empty():
                return self._checked(chunks.get_nowait())
            with contextlib.suppress(TimeoutError):
                nap = self._ticket.patience.nap()
                return self._checked(await asyncio.wait_for(chunks.get(), nap))
            self._still_waiting()

    def _checked(self, chunk: Chunk | None) -> Chunk | None:
        error = self._ticket.error
        if chunk is None and error is not None:
            raise error
        return chunk

    def _still_waiting(self) -> None:
        self._ticket.patience.check()
        self._loaded.scheduler.mailbox.revive()

    def finish(self, model: str) -> Iterator[Chunk | Completion]:
        """What was held back, the tool calls, the completion."""
        ticket = self._ticket
        for event in self._writer.finish(model, ticket.timings, ticket.cached_tokens):
            if isinstance(event, Completion) and ticket.confidence is not None:
                event.attributes[semconv.CONFIDENCE] = ticket.confidence.mean
                event.attributes[semconv.CONFIDENCE_LOWEST] = ticket.confidence.lowest
            yield event


def _end_only(put: Callable[[Chunk | None], None]) -> Callable[[Chunk | None], None]:
    """Wake a waiter once, not at every token."""

    def deliver(chunk: Chunk | None) -> None:
        if chunk is None:
            put(None)

    return deliver


def _rebuild(
    name: str,
    asked: tuple[Any, ...],
    window: int | None,
    adapter: str | None,
    keep_alive: float | None,
) -> ChatEngine:
    from .loader import load_engine

    revision, quantization, dtype, device, trust_remote_code = asked
    return load_engine(
        name,
        quantization=quantization,
        device=device,
        dtype=dtype,
        revision=revision,
        context_window=window,
        trust_remote_code=trust_remote_code,
        adapter=adapter,
        keep_alive=keep_alive,
    )
