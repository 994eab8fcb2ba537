"""The engine: one model name on one server; ``load_engine(..., base_url=)`` makes it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from ...calls import Message, Tool
from ...telemetry import semconv
from ..engine import ChatEngine, ChatRequest, Chunk, Completion
from .call import RemoteCall
from .http import Deadline, Rejected
from .loop import run, run_stream
from .request import body_of, estimated_tokens, short_name
from .server import server_at

__all__ = ["RemoteEngine"]


class RemoteEngine(ChatEngine):
    """One model name on one server; made by ``load_engine(..., base_url=)``.

    Nothing is asked before the first call. ``adapter``: the server's name of a LoRA on ``model``.
    ``tokenizer``: a hub id or folder to count prompts with where the server does not. The key is
    in no copy on disk: an unpickled engine reads ``SLM_ADAPTERS_API_KEY``.
    """

    local = False

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        adapter: str | None = None,
        context_window: int | None = None,
        tokenizer: str | None = None,
    ) -> None:
        #: The name on the wire; a path on the server's disk is no name for a span.
        self.wire_name = adapter or model
        self.name = short_name(self.wire_name)
        self._asked = (model, adapter, context_window, tokenizer)
        self._window, self.tokenizer = context_window, tokenizer
        self.server = server_at(base_url, api_key)

    def __repr__(self) -> str:
        return f"RemoteEngine({self.name!r}, base_url={self.server.http.base_url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.server.http.base_url, *self._asked)

    def __deepcopy__(self, memo: Any = None) -> RemoteEngine:
        # It holds nothing of its own, and a copy in this process may go on using the key.
        return self

    @property
    def identity(self) -> Hashable:
        """The address and the name on the wire."""
        return self.server.http.base_url, self.wire_name

    @property
    def provider(self) -> str:  # type: ignore[override]
        """vllm, sglang, llama_cpp, ollama, lm_studio, openai; else openai_compatible."""
        return self.server.provider

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """The server's address and port."""
        http = self.server.http
        return {semconv.SERVER_ADDRESS: http.address, semconv.SERVER_PORT: http.port}

    @property
    def context_window(self) -> int:  # type: ignore[override]
        """As given and as the server told; 4096 while neither is known. Asks nobody."""
        return self.known_window() or ChatEngine.context_window

    def known_window(self) -> int | None:
        told = self.server.window(self.wire_name)
        return min((w for w in (told, self._window) if w is not None), default=None)

    def warm_up(self) -> None:
        """Look at the server now: whether it is there, what it is, the model's window."""
        run(self.server.look(self.wire_name, self.deadline(None)))

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Prompt tokens: by ``tokenizer=`` or the server's own, else estimated (bytes / 4)."""
        return run(self._count_messages(ChatRequest(tuple(messages), tuple(tools))))

    def complete(self, request: ChatRequest, cancel: threading.Event | None = None) -> Completion:
        """The whole answer; setting ``cancel`` closes the connection."""
        return run(self.acomplete(request), cancel)

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        """Yield text and tool calls as they come, then the ``Completion``."""
        return run_stream(self.astream(request), cancel)

    async def acomplete(self, request: ChatRequest) -> Completion:
        """Like ``complete``, on the caller's loop; cancelling the task closes the connection."""
        last: Chunk | Completion | None = None
        async with aclosing(cast("Any", self._events(request, stream=False))) as events:
            async for event in events:
                last = event
        assert isinstance(last, Completion)
        return last

    async def astream(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """Like ``stream``, on the caller's loop; closing it closes the connection."""
        async with aclosing(cast("Any", self._events(request, stream=True))) as events:
            async for event in events:
                yield event

    # One call

    async def _events(
        self, request: ChatRequest, *, stream: bool
    ) -> AsyncIterator[Chunk | Completion]:
        deadline = self.deadline(request.timeout)
        await self.server.look(self.wire_name, deadline)
        call = RemoteCall(self, request, deadline, stream=stream)
        while True:
            reader = await call.prepare()
            try:
                async with aclosing(cast("Any", call.read(reader))) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except Rejected as rejected:
                call.ask_differently(rejected)
                continue
            reply = reader.finish()
            if call.was_ignored(reply):
                continue
            completion = call.account(reader, reply)
            for chunk in reader.held_back(completion):
                yield chunk
            yield completion
            return

    def deadline(self, timeout: float | None) -> Deadline:
        return Deadline(timeout, self.server.http.host)

    async def _count_messages(self, request: ChatRequest) -> int:
        deadline = self.deadline(None)
        await self.server.look(self.wire_name, deadline)
        dialect = self.server.model(self.wire_name).dialect
        body = body_of(self.wire_name, request, dialect, limit=None, stream=False)
        counted = await self.count(body, deadline)
        return counted if counted is not None else estimated_tokens(body)

    async def count(self, body: dict[str, Any], deadline: Deadline) -> int | None:
        """Exact prompt tokens, where anybody can tell."""
        if self.tokenizer is not None:
            from .counting import count_with

            # Loading a tokenizer takes seconds the first time.
            return await deadline.within(asyncio.to_thread(count_with, self.tokenizer, body))
        return await self.server.count(self.wire_name, body, deadline)

    async def opens_thought(self, body: dict[str, Any], deadline: Deadline) -> bool | None:
        """Whether the prompt ends inside a thinking block; None where nobody can tell."""
        prompt: str | None
        if self.tokenizer is not None:
            from .counting import prompt_with

            prompt = await deadline.within(asyncio.to_thread(prompt_with, self.tokenizer, body))
        else:
            prompt = await self.server.prompt_end(self.wire_name, body, deadline)
        return None if prompt is None else prompt.rstrip().endswith("<think>")


def _rebuild(
    base_url: str, model: str, adapter: str | None, window: int | None, tokenizer: str | None
) -> RemoteEngine:
    return RemoteEngine(
        model, base_url, adapter=adapter, context_window=window, tokenizer=tokenizer
    )
