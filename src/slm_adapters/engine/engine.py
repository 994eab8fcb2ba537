"""What answers a chat: the protocol every local model, remote server and test double shares.

An engine takes a ``ChatRequest`` and yields ``Chunk``s, then one ``Completion``. It knows
nothing of LangChain, CrewAI, fallbacks or spans.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..calls import Message, Reply, Tool, Usage
from ..errors import EmptyMessagesError

__all__ = ["ChatEngine", "ChatRequest", "Chunk", "Completion", "Timings", "ToolCallDelta"]

ToolChoice = Literal["auto", "none", "required"] | str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to a model, in OpenAI terms.

    ``max_tokens=None``: as many as fit, at most the engine's default. ``temperature=0``: greedy.
    ``tool_choice``: auto, none, required or a tool's name. ``response_format``: OpenAI's
    ``{"type": "json_schema", "json_schema": {"schema": ...}}``. ``timeout``: seconds.
    ``logprobs``: put the tokens' probability (``slm_adapters.confidence``) on the completion.
    ``react_tools``: names that a reply in ReAct text (Thought, Action, Action Input or Final
    Answer) may act with, for agents that describe their tools in the prompt.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    response_format: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout: float | None = None
    logprobs: bool = False
    react_tools: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise EmptyMessagesError(
                "the message list is empty: pass at least one user message to the model."
            )


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent waiting for the model, reading the prompt and writing the reply."""

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of the tool call at ``index`` of the reply.

    The first one has ``id`` and ``name``; the ``arguments`` of all, joined, are its JSON text.
    ``certain``: a grammar holds the call to its tool, so that only a limit can end it early.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    certain: bool = False

    def to_openai(self) -> dict[str, Any]:
        """The item of ``delta.tool_calls`` in OpenAI's streams."""
        function = {"name": self.name or None, "arguments": self.arguments}
        return {
            "index": self.index,
            "id": self.id or None,
            "type": "function",
            "function": function,
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed answer: of its text, of a tool call, or of the thought before it."""

    text: str = ""
    tool_call: ToolCallDelta | None = None
    reasoning: str = ""

    @property
    def answers(self) -> bool:
        """Whether it is a part of the answer; a thought is none."""
        return bool(self.text) or self.tool_call is not None


@dataclass(frozen=True, slots=True)
class Completion:
    """The whole answer; the last thing an engine yields."""

    reply: Reply
    usage: Usage
    model: str
    timings: Timings = Timings()
    #: Facts for the span and the record, such as device and quantization.
    attributes: dict[str, str | int | float | bool] = field(default_factory=dict)


class ChatEngine:
    """Base class: implement ``stream``; the other ways to ask follow from it."""

    #: Name reported as the answering model.
    name: str = "engine"
    #: Tokens of prompt and reply together.
    context_window: int = 4096
    #: Where it runs: True for a model in this process (its span is INTERNAL, not CLIENT).
    local: bool = True
    #: ``gen_ai.provider.name``.
    provider: str = "slm_adapters"

    @property
    def facts(self) -> dict[str, str | int | float | bool]:
        """What its spans say whatever the outcome, such as a server's address."""
        return {}

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        """Yield chunks, then one ``Completion``; setting ``cancel`` stops within one step.

        Joined, the chunks are its reply: the text, every tool call, and the thought before them.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement stream()")

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Prompt tokens these messages and tools take."""
        raise NotImplementedError(f"{type(self).__name__} must implement count_tokens()")

    def warm_up(self) -> None:
        """Load now what would be loaded on the first call."""

    def complete(self, request: ChatRequest, cancel: threading.Event | None = None) -> Completion:
        """The whole answer at once."""
        *_, last = self.stream(request, cancel)
        assert isinstance(last, Completion), "an engine's last event is its Completion"
        return last

    async def acomplete(self, request: ChatRequest) -> Completion:
        """Like ``complete``; cancelling the task stops the generation."""
        cancel = threading.Event()
        try:
            return await asyncio.to_thread(self.complete, request, cancel)
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def astream(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """Like ``stream``; closing the iterator stops the generation."""
        loop, cancel = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[Chunk | Completion | BaseException | None] = asyncio.Queue()

        def put(item: Chunk | Completion | BaseException | None) -> None:
            # The loop may be gone when its owner gave up early; nobody waits then.
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def pump() -> None:
            try:
                for event in self.stream(request, cancel):
                    put(event)
                put(None)
            except BaseException as error:
                put(error)

        worker = asyncio.create_task(asyncio.to_thread(pump))
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            cancel.set()
            if not worker.done():
                await asyncio.shield(worker)
