"""A server's answer as it comes in: what may be shown now, and the whole account at the end.

The same rules as for a local model: thinking is no content, stop strings never pass, what may be
a tool call is held back and read by the same parsers, almost-JSON is repaired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ...calls import Message, Reply, Usage
from ...errors import EmptyReplyError
from ...telemetry import semconv
from .. import tool_formats
from ..call_stream import CallStream
from ..engine import ChatRequest, Chunk, Completion, Timings, ToolCallDelta
from ..json_repair import only_json
from ..reply_text import HoldBack, StopScanner, ThinkFilter
from ..shown_calls import ShownCalls
from .request import is_forced, offered_tools, short_name
from .server_calls import ServerCalls

__all__ = ["ReplyReader"]


class ReplyReader:
    """One answer. ``feed`` the server's objects; ``finish`` gives what was held back."""

    def __init__(
        self,
        request: ChatRequest,
        *,
        thinking: bool = False,
        may_think: bool = False,
        streams: bool = True,
    ) -> None:
        """``thinking``: the prompt opened a thinking block; ``may_think``: the server may tell
        thoughts apart by itself, or the model may have begun one.

        ``streams``: somebody is shown the reply before it is complete.
        """
        self._streams = streams
        #: Content of which it is not decided whether it is a thought; None once that is clear.
        self._undecided: str | None = "" if may_think else None
        #: Whether the reply began inside a thought; None where that is not clear.
        self.began_thinking: bool | None = None
        offered = offered_tools(request)
        self._schemas = {tool.name: tool.parameters for tool in offered}
        kind = (request.response_format or {}).get("type", "text")
        self._json_only = kind != "text"
        self._forced = is_forced(request)
        self._opened = thinking
        self._thoughts = ThinkFilter(thinking=thinking and not may_think)
        self._stops = StopScanner(request.stop)
        self._held = HoldBack(tools=bool(offered), everything=self._json_only or self._forced)
        self._reader = CallStream(self._schemas)
        self._shown_calls = ShownCalls()
        self._calls = ServerCalls(self._schemas)
        self._shown: list[str] = []
        self._reasoning: list[str] = []
        self._rest = Chunk()
        self._written = self._thought = 0
        self._logprobs: list[float] = []
        self.model: str | None = None
        self.reason: str | None = None
        #: ``usage`` and llama.cpp's ``timings``, as the server sent them.
        self.usage: dict[str, Any] = {}
        self.timings: dict[str, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the reply; what the server still writes is not wanted."""
        return self._stops.stopped

    def begin_thinking(self) -> None:
        """The reply begins inside a thinking block that the prompt opened."""
        self._thoughts = ThinkFilter(thinking=True)

    def _decide(self, content: str, *, told_apart: bool, ends: bool = False) -> str:
        """The content that is clearly a thought, or clearly none.

        ``told_apart``: the server itself tells thoughts from text.
        """
        if self._undecided is None:
            return content
        self._undecided += content
        begun = self._undecided.lstrip()
        if "</think>" in begun and not begun.startswith("<think>"):
            self.began_thinking = True
            self.begin_thinking()
        elif ends and self._opened and self.reason == "length":
            self.begin_thinking()
        elif told_apart or ends or begun.startswith("<think>"):
            # Of a block that the prompt opened, a reply without its end says nothing certain.
            self.began_thinking = None if ends and self._opened else False
        else:
            return ""
        content, self._undecided = self._undecided, None
        return content

    def feed(self, data: dict[str, Any]) -> list[Chunk]:
        """What one object of the answer makes visible."""
        self.model = data.get("model") or self.model
        self.usage = data.get("usage") or self.usage
        self.timings = data.get("timings") or self.timings
        visible: list[Chunk] = []
        for choice in (data.get("choices") or ())[:1]:
            self.reason = choice.get("finish_reason") or self.reason
            self._note_logprobs(choice.get("logprobs"))
            visible = self._read(choice.get("delta") or choice.get("message") or {})
        return visible

    def _read(self, delta: dict[str, Any]) -> list[Chunk]:
        chunks: list[Chunk] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        thought = thought if isinstance(thought, str) else ""
        self._thought += len(thought)
        content = _text(delta.get("content"))
        self._written += len(content)
        content = self._decide(content, told_apart=bool(thought))
        text = self._held.feed(self._stops.feed(self._thoughts.feed(content)))
        if thought := thought + self._thoughts.thought():
            self._reasoning.append(thought)
            chunks.append(Chunk(reasoning=thought))
        if text:
            self._shown.append(text)
            chunks.append(Chunk(text=text))
        for delta_of_call in self._call_deltas(delta):
            self._shown_calls.note(delta_of_call)
            chunks.append(Chunk(tool_call=delta_of_call))
        return chunks

    def _call_deltas(self, delta: dict[str, Any]) -> Iterator[ToolCallDelta]:
        """What is new of the calls: the server's own, or those in its text."""
        own = self._calls.add(delta.get("tool_calls") or ())
        if not self._streams:
            return
        if not self._calls.found:
            yield from self._reader.read(self._held.possible_calls)
        elif not self._reader.count:
            # Else the server says once more what its text said.
            yield from own

    def _note_logprobs(self, found: Any) -> None:
        for token in (found or {}).get("content") or () if isinstance(found, dict) else ():
            if isinstance(token.get("logprob"), int | float):
                self._logprobs.append(float(token["logprob"]))

    def finish(self) -> Reply:
        """The whole reply, which may be empty."""
        left = self._decide("", told_apart=False, ends=True)
        left = self._thoughts.feed(left) + self._thoughts.flush()
        tail = self._stops.feed(left) + self._stops.flush()
        self._reasoning.append(thought := self._thoughts.thought())
        undecided = self._held.feed(tail) + self._held.flush()
        cut_off = self.reason == "length" and not self.stopped
        calls, rest = self._calls.finished(cut_off=cut_off), undecided
        if not calls:
            parsed = tool_formats.read_calls(
                undecided, self._schemas, cut_off=cut_off, schemas=self._schemas
            )
            calls, rest = parsed.calls, parsed.content
        if self._json_only and not calls:
            rest = only_json(rest)
        if calls and not rest.strip():
            rest = ""
        self._rest = Chunk(text=rest, reasoning=thought)
        text, calls = "".join(self._shown) + rest, self._shown_calls.named(calls)
        reason = "length" if cut_off else "tool_call" if calls else self._why_ended()
        reasoning = "".join(self._reasoning) or None
        message = Message("assistant", text or None, tool_calls=calls, reasoning=reasoning)
        return Reply(message, reason)

    def held_back(self, completion: Completion) -> list[Chunk]:
        """What was not shown of the finished reply.

        Raises ``InvalidReplyError`` for a call that a stream began and the reply does not have.
        """
        text, thought = self._rest.text, self._rest.reasoning
        chunks = [Chunk(reasoning=thought)] if thought else []
        chunks += [Chunk(text=text)] if text else []
        return chunks + [Chunk(tool_call=delta) for delta in self._shown_calls.rest(completion)]

    def _why_ended(self) -> str:
        reason = semconv.finish_reason(self.reason) or "stop"
        # A server that counts a refused or forgotten call as one has still written text.
        return "stop" if reason == "tool_call" or self.stopped else reason

    def completion(
        self, reply: Reply, model: str, prompt_tokens: int, timings: Timings
    ) -> Completion:
        """The account. ``prompt_tokens``: ours, for servers that tell none."""
        facts: dict[str, str | int | float | bool] = {}
        if self._logprobs:
            facts[semconv.CONFIDENCE] = math.exp(sum(self._logprobs) / len(self._logprobs))
            facts[semconv.CONFIDENCE_LOWEST] = math.exp(min(self._logprobs))
        usage = self._usage(prompt_tokens)
        return Completion(reply, usage, short_name(self.model or model), timings, facts)

    def _usage(self, prompt_tokens: int) -> Usage:
        told = self.usage
        inputs, outputs = told.get("prompt_tokens"), told.get("completion_tokens")
        if not isinstance(inputs, int) or not isinstance(outputs, int):
            written = -(-(self._written + self._thought) // 4)
            return Usage(prompt_tokens, written, source="estimated")
        prompt, reply = (
            told.get(f"{part}_tokens_details") or {} for part in ("prompt", "completion")
        )
        cached = prompt.get("cached_tokens", self.timings.get("cache_n"))
        reasoning = reply.get("reasoning_tokens", told.get("reasoning_tokens"))
        return Usage(inputs, outputs, cached_tokens=cached, reasoning_tokens=reasoning)

    def why_empty(self, server: str) -> EmptyReplyError:
        """The error for a reply without text or tool call."""
        if self.stopped:
            cause = "its reply began with a stop string"
        elif self.reason == "length" and (self._thought or self._thoughts.thinking):
            cause = "all tokens allowed went into thinking"
        else:
            cause = "it ended its reply at once"
        return EmptyReplyError(
            f"the model on {server} wrote nothing to show ({cause}): raise max_tokens, reword "
            "the prompt, or give the model a fallback=."
        )


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(p.get("text") or "" for p in content if isinstance(p, dict))
    return content if isinstance(content, str) else ""
