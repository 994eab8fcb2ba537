"""One reply being written: the request as tokens, the tokens as what the caller may see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..calls import Message, Reply, ToolCall, Usage
from ..errors import EmptyReplyError
from ..telemetry import semconv
from . import chat_format, tool_formats
from .call_stream import CallStream
from .constraint import Constraint, Plan, Thinking
from .engine import ChatRequest, Chunk, Completion, Timings
from .json_repair import only_json
from .reply_grammar import asked_schema
from .reply_text import Detokenizer, HoldBack, StopScanner, ThinkFilter
from .shown_calls import ShownCalls

if TYPE_CHECKING:
    from .weights import LoadedModel

__all__ = ["EncodedPrompt", "ReplyWriter", "encode", "prompt_tokens"]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A request as the model reads it. ``opening``: the start of the reply, already in it."""

    tokens: list[int]
    thinking: bool
    constraint: Constraint | None = None
    opening: str = ""


def encode(loaded: LoadedModel, request: ChatRequest) -> EncodedPrompt:
    """The prompt's tokens, and what its reply is bound to."""
    tokens, begun = prompt_tokens(loaded, request)
    plan = Plan.of(request, loaded.chat_format.calls)
    thinking = Thinking(begun, loaded.chat_format.thinks)
    constraint = Constraint.of(loaded.grammars, plan, thinking)
    opening = constraint.opening() if constraint else []
    return EncodedPrompt(tokens + opening, begun, constraint, loaded.decode(opening))


def prompt_tokens(loaded: LoadedModel, request: ChatRequest) -> tuple[list[int], bool]:
    """The prompt's tokens, and whether it ends inside a thought."""
    rendered = chat_format.render(
        loaded.template,
        loaded.chat_format,
        request.messages,
        request.tools,
        tool_choice=request.tool_choice,
        response_format=request.response_format,
        control_tokens=loaded.control_tokens,
        special_tokens=loaded.special_tokens,
    )
    tokens = [token for piece in rendered.pieces if piece for token in loaded.encode(piece)]
    return tokens, rendered.pieces[-1].rstrip().endswith("<think>")


class ReplyWriter:
    """One reply: tokens in, what may be seen of it out, and the account of it at the end.

    The worker asks what is ``allowed`` and ``banned``, chooses, lets it ``accept`` and ``read``
    the token; the caller's thread calls ``finish``.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        request: ChatRequest,
        prompt: EncodedPrompt,
        limit: int,
        *,
        streams: bool = True,
    ) -> None:
        """``streams``: somebody is shown the reply before it is complete."""
        self._loaded, self._request, self._prompt = loaded, request, prompt
        self._limit, self._constraint = limit, prompt.constraint
        if self._constraint is not None:
            self._constraint.limit = limit
        offered = () if request.tool_choice == "none" else request.tools
        self._schemas = {tool.name: tool.parameters for tool in offered}
        bound = self._constraint is not None and self._constraint.binds
        wants_json = asked_schema(request.response_format) is not None
        self._json_only = wants_json and not bound
        self._characters = Detokenizer(loaded.decode, loaded.silent_ids)
        self._thoughts = ThinkFilter(thinking=prompt.thinking)
        self._stops = StopScanner(request.stop)
        self._calls = HoldBack(
            tools=bool(offered),
            everything=self._json_only or (bound and bool(offered)),
            marker=loaded.chat_format.calls.marker,
        )
        self._reader: CallStream | None = None
        if streams and offered:
            self._reader = CallStream(self._schemas, loaded.chat_format.calls, self._is_certain)
        #: Of the opening, what a stream is still to show.
        self._lead = self._calls.feed(prompt.opening)
        self._shown: list[str] = []
        self._thought: list[str] = []
        self._shown_calls = ShownCalls()
        self._visible = bool(prompt.opening)
        self._retried, self._refused = False, frozenset[int]()
        #: Ids not to choose now.
        self.banned: Collection[int] = ()
        self._end: str | None = None
        self.tokens = self.reasoning = 0

    @property
    def ended(self) -> bool:
        """Whether no token is to follow."""
        return self._end is not None

    def allowed(self) -> Any:
        """What may be chosen next: bool ``[vocabulary]``, or None for everything."""
        if self._constraint is None:
            return None
        allowed = self._constraint.allowed()
        self.banned = {*self._refused, *self._constraint.banned()}
        return allowed

    def accept(self, token: int) -> bool:
        """Take the chosen token; False: choose again, without what is ``banned`` now."""
        if token in self._loaded.end_ids:
            if not self._visible and not self._retried:
                # An empty reply gets one more chance: this once the model must write something.
                self._retried, self._refused = True, self._loaded.silent_ids
                self.banned = self._refused
                return False
            self._end = "stop"
        self.banned = self._refused = frozenset()
        self.tokens += 1
        if self._constraint is not None:
            self._constraint.accept(token)
            if self._constraint.is_over:
                self._end = "stop"
        if self._end is None and self.tokens >= self._limit:
            self._end = "length"
        return True

    def read(self, token: int) -> Sequence[Chunk]:
        """What an accepted token makes visible; a stop string in it ends the reply."""
        if token in self._loaded.end_ids:
            return ()
        text = self._lead + self._read(self._characters.feed(token))
        self._lead = ""
        if self._stops.stopped:
            self._end = "stop"
        chunks: list[Chunk] = []
        if thought := self._thoughts.thought():
            self._thought.append(thought)
            chunks.append(Chunk(reasoning=thought))
        if text:
            self._shown.append(text)
            chunks.append(Chunk(text=text))
        if self._reader is not None and (possible := self._calls.possible_calls):
            for delta in self._reader.read(possible):
                self._shown_calls.note(delta)
                chunks.append(Chunk(tool_call=delta))
        return chunks

    def _is_certain(self) -> bool:
        return self._constraint is not None and self._constraint.holds_calls

    def _read(self, characters: str) -> str:
        was_thinking = self._thoughts.thinking
        text = self._thoughts.feed(characters)
        self.reasoning += was_thinking or self._thoughts.thinking
        if self._constraint is not None:
            self._constraint.read(text, thinking=self._thoughts.thinking)
        if self._constraint is not None and self._constraint.protects:
            # What a stop string would cut here is of no use to anyone.
            text = self._stops.flush() + text
        else:
            text = self._stops.feed(text)
        self._visible = self._visible or bool(text.strip())
        return self._calls.feed(text)

    def finish(
        self, model: str, timings: Timings, cached_tokens: int
    ) -> Iterator[Chunk | Completion]:
        """What was not shown yet, then the completion.

        Raises for an empty reply, and for a call that a stream began and the reply does not have.
        """
        parsed = self._take_apart()
        self._thought.append(thought := self._thoughts.thought())
        rest = parsed.content
        if self._json_only and not self._shown:
            rest = only_json(rest)
        if parsed.calls and not rest.strip():
            rest = ""
        text = "".join(self._shown) + rest
        if not parsed.calls and not text.strip():
            raise EmptyReplyError(self._why_empty())
        calls = self._shown_calls.named(parsed.calls)
        completion = self._completion(self._reply(text, calls), model, timings, cached_tokens)
        deltas = self._shown_calls.rest(completion)
        if thought:
            yield Chunk(reasoning=thought)
        if rest:
            yield Chunk(text=rest)
        for delta in deltas:
            yield Chunk(tool_call=delta)
        yield completion

    def _take_apart(self) -> tool_formats.ParsedReply:
        tail = self._thoughts.feed(self._characters.flush()) + self._thoughts.flush()
        if self._constraint is None or not self._constraint.protects:
            tail = self._stops.feed(tail)
        tail = (
            self._stops.flush() + tail
            if self._constraint and self._constraint.protects
            else (tail + self._stops.flush())
        )
        undecided = self._lead + self._calls.feed(tail) + self._calls.flush()
        return tool_formats.read_calls(
            undecided,
            self._schemas,
            cut_off=self._end == "length",
            schemas=self._schemas,
            form=self._loaded.chat_format.calls,
        )

    def _reply(self, text: str, calls: tuple[ToolCall, ...]) -> Reply:
        reason = "length" if self._end == "length" else "tool_call" if calls else "stop"
        thought = "".join(self._thought) or None
        message = Message("assistant", text or None, tool_calls=calls, reasoning=thought)
        return Reply(message, reason)

    def _completion(
        self, reply: Reply, model: str, timings: Timings, cached_tokens: int
    ) -> Completion:
        usage = Usage(
            len(self._prompt.tokens),
            self.tokens,
            cached_tokens=cached_tokens,
            reasoning_tokens=self.reasoning,
            source="tokenizer",
        )
        attributes: dict[str, str | int | float | bool] = {
            semconv.DEVICE: self._loaded.device,
            semconv.QUANTIZATION: self._loaded.quantization,
            semconv.QUEUE_TIME: timings.queue_s,
        }
        if self._request.tools:
            attributes[semconv.TOOL_FORMAT] = self._loaded.chat_format.calls.name
        if timings.decode_s > 0:
            attributes[semconv.DECODE_RATE] = self.tokens / timings.decode_s
        return Completion(reply, usage, model, timings, attributes)

    def _why_empty(self) -> str:
        if self._stops.stopped:
            cause = "its reply began with a stop string"
        elif self._end == "length" and self.reasoning:
            cause = f"all {self.tokens} tokens allowed went into thinking"
        else:
            cause = "it ended its reply at once, twice"
        return (
            f"the local model wrote nothing to show ({cause}): raise max_tokens, reword the "
            "prompt, or give the model a fallback=."
        )
