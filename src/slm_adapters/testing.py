"""Test doubles for your crews and graphs: the ones this package's own tests use.

``ScriptedModel`` is an engine whose answers you write; pass it wherever a model name goes::

    SLM(ScriptedModel(["hello", ToolCall("1", "search", '{"q": "x"}')]))

``captured_calls()`` collects every recorded call of the process while it is open.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .calls import Call, Message, Reply, Tool, ToolCall, Usage
from .engine.engine import ChatEngine, ChatRequest, Chunk, Completion, ToolCallDelta
from .engine.reply_text import ThinkFilter
from .errors import CancelledGenerationError
from .telemetry.recorder import global_hooks

__all__ = ["ScriptedModel", "captured_calls"]

#: Text, tool call(s), an exception to raise, or a function of the request returning one of them.
Answer = str | ToolCall | Sequence[ToolCall] | Exception
Script = Sequence[Answer] | Callable[[ChatRequest], Answer]


class ScriptedModel(ChatEngine):
    """Answers from a list, in order and then again from the start, or from a function.

    Tokens are whitespace-separated words, in streams also those of a call's arguments.
    A text may begin with a thought in ``<think>`` tags. ``requests`` keeps what was asked.
    """

    def __init__(
        self, answers: Script, *, name: str = "scripted", context_window: int = 4096
    ) -> None:
        self.name, self.context_window = name, context_window
        self.requests: list[ChatRequest] = []
        self._answers = answers
        self._lock = threading.Lock()

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        with self._lock:
            self.requests.append(request)
            turn = len(self.requests) - 1
        script = self._answers
        answer = script(request) if callable(script) else script[turn % len(script)]
        if isinstance(answer, Exception):
            raise answer
        thought, text, calls = _split(answer)
        for piece in _words(thought):
            yield Chunk(reasoning=piece)
        for index, word in enumerate(text.split(" ") if text else ()):
            if cancel is not None and cancel.is_set():
                raise CancelledGenerationError("the caller cancelled this scripted answer.")
            yield Chunk(text=word if index == 0 else " " + word)
        for index, call in enumerate(calls):
            yield Chunk(tool_call=ToolCallDelta(index, call.id, call.name))
            for piece in _words(call.arguments):
                yield Chunk(tool_call=ToolCallDelta(index, arguments=piece))
        message = Message("assistant", text or None, tool_calls=calls, reasoning=thought or None)
        usage = Usage(
            self.count_tokens(request.messages, request.tools),
            len(thought.split()) + len(text.split()) + 8 * len(calls),
            reasoning_tokens=len(thought.split()) or None,
            source="tokenizer",
        )
        yield Completion(Reply(message, "tool_call" if calls else "stop"), usage, self.name)

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        return sum(len(m.text.split()) for m in messages) + 8 * len(tools)


def _split(answer: str | ToolCall | Sequence[ToolCall]) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Thought, text and calls."""
    if isinstance(answer, str):
        thoughts = ThinkFilter()
        text = thoughts.feed(answer) + thoughts.flush()
        return thoughts.thought(), text, ()
    return "", "", (answer,) if isinstance(answer, ToolCall) else tuple(answer)


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+", text)


@contextmanager
def captured_calls() -> Iterator[list[Call]]:
    """Collect every call any recorder ends meanwhile: ``with captured_calls() as calls:``."""
    calls: list[Call] = []
    global_hooks.append(calls.append)
    try:
        yield calls
    finally:
        global_hooks.remove(calls.append)
