"""One request on its way to a server that may want it put differently, and its account."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ...calls import Reply
from ...errors import ContextOverflowError, ServerError
from ...telemetry import semconv
from ..engine import ChatRequest, Chunk, Completion, Timings
from .errors import as_error, find_error, is_for_good, refused_fields, too_long_for_window
from .http import Deadline, Rejected
from .reply import ReplyReader
from .request import (
    Dialect,
    body_of,
    estimated_tokens,
    is_forced,
    learn,
    prompt_size,
    thinks_by_name,
)

if TYPE_CHECKING:
    from .engine import RemoteEngine

__all__ = ["RemoteCall"]

#: Reply tokens when the caller names no limit, as for a local model.
DEFAULT_MAX_TOKENS = 1024


class RemoteCall:
    """One request on its way to a server that may want it put differently."""

    def __init__(
        self, engine: RemoteEngine, request: ChatRequest, deadline: Deadline, *, stream: bool
    ) -> None:
        self.engine, self.request, self.deadline, self.stream = engine, request, deadline, stream
        self._server, self._model = engine.server, engine.server.model(engine.wire_name)
        self._dialect: Dialect = self._model.dialect
        self._limit = request.max_tokens
        self._body: dict[str, Any] = {}
        self._counted: int | None = None
        self._least = self._most = 0
        self._shown = False
        self._began = self._first = time.monotonic()

    async def prepare(self) -> ReplyReader:
        """The body to send next; raises ``ContextOverflowError`` before anything is sent."""
        body = self._body_with(self._limit)
        self._measure(body)
        if body.get("tools") and not self._dialect.tools_seen and await self._drops_tools(body):
            body = self._body_with(self._limit)
            self._measure(body)
        limit = await self._room(body)
        if limit is not None and self._limit is None:
            body = self._body_with(limit)
        self._body = body
        self._began = self._first = time.monotonic()
        opened, may_think = await self._thinks(body)
        return ReplyReader(self.request, thinking=opened, may_think=may_think, streams=self.stream)

    async def _thinks(self, body: dict[str, Any]) -> tuple[bool, bool]:
        """Whether the prompt opens a thinking block, and whether a stream has yet to show it.

        A whole reply shows it by itself.
        """
        known = self._dialect.thinks_unasked
        if not self.stream or known is not None:
            return bool(known), False
        opens = await self.engine.opens_thought(body, self.deadline)
        if opens is False:
            self._thinks_unasked(False)
        may_think = thinks_by_name(self.engine.wire_name) if opens is None else opens
        return bool(opens), may_think

    def _body_with(self, limit: int | None) -> dict[str, Any]:
        name, dialect = self.engine.wire_name, self._dialect
        return body_of(name, self.request, dialect, limit=limit, stream=self.stream)

    def _measure(self, body: dict[str, Any]) -> None:
        """Bounds of the prompt; one that cannot fit is not sent to be counted either."""
        self._least, self._most = prompt_size(body)
        window, wanted = self.engine.known_window(), max(self.request.max_tokens or 1, 1)
        if window is not None and self._least + wanted > window:
            raise ContextOverflowError(self.engine.name, self._least, wanted, window, at_least=True)

    async def _drops_tools(self, body: dict[str, Any]) -> bool:
        """Whether the server's template leaves tools out, where it counts; found out once."""
        name, count = self.engine.wire_name, self._server.count
        counted = await count(name, body, self.deadline)
        if counted is None:
            return False
        without = {key: value for key, value in body.items() if key != "tools"}
        bare = await count(name, without, self.deadline)
        drops = bare is not None and counted <= bare
        refused = self._dialect.refused | ({"tools"} if drops else set())
        self._remember(dataclasses.replace(self._dialect, refused=refused, tools_seen=not drops))
        return drops

    async def _room(self, body: dict[str, Any]) -> int | None:
        """Reply tokens to ask for; None leaves it to the server."""
        window = self.engine.known_window()
        wanted = max(self.request.max_tokens or 1, 1)
        certain = window is not None and self._most + wanted <= window
        if self.engine.tokenizer is not None or (window is not None and not certain):
            self._counted = await self.engine.count(body, self.deadline)
        tokens = self._counted if self._counted is not None else self._least
        if window is not None and tokens + wanted > window:
            raise ContextOverflowError(self.engine.name, tokens, wanted, window)
        if self.request.max_tokens is not None:
            return self.request.max_tokens
        if window is None:
            return DEFAULT_MAX_TOKENS
        taken = self._counted if self._counted is not None else self._most
        left = min(DEFAULT_MAX_TOKENS, window - taken)
        return left if left > 0 else None

    async def read(self, reader: ReplyReader) -> AsyncIterator[Chunk]:
        """The visible pieces of the answer; raises ``Rejected`` for an error in its place."""
        url, http = f"{self._server.http.base_url}/chat/completions", self._server.http
        if not self.stream:
            self._feed(reader, await http.post(url, self._body, self.deadline))
            return
        async with http.lines(url, self._body, self.deadline) as lines:
            async for line in lines:
                data = _data_of(line)
                if data is _DONE:
                    break
                if data is None:
                    continue
                for chunk in self._feed(reader, data):
                    self._shown = self._shown or chunk.answers
                    yield chunk
                if reader.stopped:
                    return
        if reader.reason is None:
            raise self._server.http.broke_off()

    def _feed(self, reader: ReplyReader, data: Any) -> list[Chunk]:
        error = find_error(data)
        if error is not None:
            raise Rejected(*error)
        if not isinstance(data, dict) or not (self.stream or data.get("choices")):
            raise ServerError(
                f"{self._server.http.host} answered with something that is no chat completion: "
                "check that base_url is the address of an OpenAI-compatible server."
            )
        if self._first == self._began:
            self._first = time.monotonic()
        if not self.stream and not self._dialect.thinks_unasked and _ends_a_thought(data):
            self._thinks_unasked(True)
            reader.begin_thinking()
        return reader.feed(data)

    def _thinks_unasked(self, thinks: bool | None) -> None:
        if thinks is not None and thinks != self._dialect.thinks_unasked:
            self._remember(dataclasses.replace(self._dialect, thinks_unasked=thinks))

    def ask_differently(self, rejected: Rejected) -> None:
        """Change the request to what the server takes, or raise what its error means."""
        status, body = rejected.status, rejected.body
        overflow = too_long_for_window(status, body)
        if not self._shown and overflow is not None and self._fits_with_less(*overflow):
            return
        if not self._shown and overflow is None:
            refused = refused_fields(status, body, self._body)
            changed = learn(self._dialect, self._body, refused)
            if changed is not None:
                self._dialect = changed
                if is_for_good(refused, body):
                    self._remember(changed)
                return
        raise as_error(
            status,
            body,
            model=self.engine.name,
            server=self._server.http.host,
            sent_tokens=self._counted or estimated_tokens(self._body),
            max_tokens=self._body.get("max_tokens"),
        ) from rejected

    def _fits_with_less(self, prompt: int | None, window: int | None) -> bool:
        """Whether only our own default limit was too much."""
        if self.request.max_tokens is not None or prompt is None or window is None:
            return False
        left = window - prompt
        if left < 1 or (self._limit is not None and self._limit <= left):
            return False
        self._limit = left
        return True

    def was_ignored(self, reply: Reply) -> bool:
        """Whether the server let a forced call pass unheard; then it is asked in words, once."""
        if reply.message.tool_calls or not is_forced(self.request) or self._shown:
            return False
        if self._dialect.talks_first:
            return False
        changed = learn(self._dialect, self._body, frozenset({"tool_choice"}))
        if changed is None:
            return False
        self._dialect = changed
        if reply.finish_reason != "length":  # what was cut off may have become a call
            self._remember(changed)
        return True

    def _remember(self, dialect: Dialect) -> None:
        self._dialect = self._model.dialect = dialect

    def account(self, reader: ReplyReader, reply: Reply) -> Completion:
        """The completion; raises for an empty reply and for a prompt that the server cut."""
        engine, http = self.engine, self._server.http
        self._thinks_unasked(reader.began_thinking)
        prompt_tokens = self._counted or estimated_tokens(self._body)
        completion = reader.completion(reply, engine.name, prompt_tokens, self._timings(reader))
        facts = {**engine.facts, semconv.PROVIDER_NAME: engine.provider, **completion.attributes}
        completion = dataclasses.replace(completion, attributes=facts)
        read = reader.usage.get("prompt_tokens")
        least = self._counted if self._counted is not None else self._least
        if isinstance(read, int) and 0 < read < least * 0.9:
            raise self._was_cut(completion, read, least)
        if not reply.message.tool_calls and not reply.message.text.strip():
            error = reader.why_empty(http.host)
            error.completion = completion
            raise error
        return completion

    def _was_cut(self, completion: Completion, read: int, least: int) -> ContextOverflowError:
        """The server answered a part of the prompt only, and did not say so."""
        engine = self.engine
        error = ContextOverflowError(engine.name, least, 1, engine.known_window() or read)
        error.args = (
            f"{self._server.http.host} read only {read} of at least {least} prompt tokens, so the "
            f"prompt exceeds the maximum context length it gave {engine.name}: raise that length "
            "(Ollama: OLLAMA_CONTEXT_LENGTH), shorten the prompt, or give the model a fallback=.",
        )
        error.completion = completion  # type: ignore[attr-defined]
        return error

    def _timings(self, reader: ReplyReader) -> Timings:
        """The server's own where it tells them, else as seen from here."""
        told, now = reader.timings, time.monotonic()
        if isinstance(told.get("predicted_ms"), int | float):
            return Timings(0.0, (told.get("prompt_ms") or 0) / 1e3, told["predicted_ms"] / 1e3)
        if not self.stream:
            return Timings()
        return Timings(0.0, self._first - self._began, now - self._first)


_DONE: Any = object()


def _data_of(line: str) -> Any:
    """The object in a line of an event stream; ``_DONE`` at its end, None for other lines."""
    name, colon, value = line.partition(":")
    value = value.strip()
    if not colon or name not in ("data", "error") or not value:
        return None
    if value == "[DONE]":
        return _DONE
    try:
        data = json.loads(value)
    except ValueError:
        # A server that quotes an exception without escaping it.
        return {"error": {"message": value}}
    return {"error": data} if name == "error" else data


def _ends_a_thought(data: dict[str, Any]) -> bool:
    """Whether a whole reply closes a thinking block that only the prompt can have opened."""
    choices = data.get("choices") or [{}]
    content = (choices[0].get("message") or {}).get("content")
    return isinstance(content, str) and "</think>" in content and "<think>" not in content
