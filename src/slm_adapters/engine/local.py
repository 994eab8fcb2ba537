"""A model in this process, asked like any other engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..calls import Message, Tool
from ..errors import ContextOverflowError
from .checkpoint import configured_window
from .engine import ChatEngine, ChatRequest, Chunk, Completion
from .scheduler import Patience
from .writer import ReplyWriter, encode

if TYPE_CHECKING:
    from .loader import Handle
    from .weights import LoadedModel

__all__ = ["LocalEngine"]

#: Reply tokens when the caller names no limit.
DEFAULT_MAX_TOKENS = 1024


class LocalEngine(ChatEngine):
    """One user's view of a shared local model; made by ``load_engine``.

    Calls from any number of threads and tasks wait their turn, first come first served. A
    stream gives its turn up with its first chunk and then alternates with others token by
    token, so a stream nobody reads cannot hold the model.
    """

    local = True

    def __init__(self, handle: Handle, *, context_window: int | None = None) -> None:
        self._handle = handle
        self._asked_window = context_window
        self._configured = configured_window(handle.path, handle.asked[0])
        # A path says where a user keeps files; the folder's name is enough on a span.
        self.name = Path(handle.path).name if handle.is_folder else handle.name

    def __reduce__(self) -> tuple[Any, ...]:
        handle = self._handle
        model = handle.path if handle.is_folder else handle.name
        return _rebuild, (model, handle.asked, self._asked_window)

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
        """Load the weights now."""
        self._handle.loaded()

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """Prompt tokens of these messages and tools, exactly as the model would read them."""
        return len(encode(self._handle.loaded(), ChatRequest(tuple(messages), tuple(tools))).tokens)

    def stream(
        self, request: ChatRequest, cancel: threading.Event | None = None
    ) -> Iterator[Chunk | Completion]:
        """Yield text as it is decided, tool calls when complete, then the ``Completion``."""
        return self._answer(request, cancel, share=True)

    def complete(self, request: ChatRequest, cancel: threading.Event | None = None) -> Completion:
        """The whole answer; the model is this call's alone until it is done."""
        *_, last = self._answer(request, cancel, share=False)
        assert isinstance(last, Completion)
        return last

    def _answer(
        self, request: ChatRequest, cancel: threading.Event | None, *, share: bool
    ) -> Iterator[Chunk | Completion]:
        loaded = self._handle.loaded()
        patience = Patience(request.timeout, cancel)
        prompt = encode(loaded, request)
        limit = self._limit(request, len(prompt.tokens), loaded)
        writer = ReplyWriter(loaded, request, prompt, limit, patience)
        turn = _Turn(loaded, patience)
        try:
            for text in writer.pieces():
                if share:
                    turn.give_up()
                yield Chunk(text=text)
        finally:
            turn.give_up()
        yield from writer.finish(self.name, turn.queue_s)

    def _limit(self, request: ChatRequest, prompt_tokens: int, loaded: LoadedModel) -> int:
        """Reply tokens allowed; raises ``ContextOverflowError`` before anything is computed."""
        window = min(self._asked_window or loaded.window, loaded.window)
        wanted = 1 if request.max_tokens is None else max(request.max_tokens, 1)
        if prompt_tokens + wanted > window:
            raise ContextOverflowError(self.name, prompt_tokens, wanted, window)
        if request.max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, window - prompt_tokens)
        return wanted


class _Turn:
    """The model is ours until ``give_up``; how long we waited is ``queue_s``."""

    def __init__(self, loaded: LoadedModel, patience: Patience) -> None:
        self._lock = loaded.turns
        start = time.perf_counter()
        patience.check()
        self._lock.acquire(patience)
        self.queue_s = time.perf_counter() - start
        self._ours = True

    def give_up(self) -> None:
        if self._ours:
            self._ours = False
            self._lock.release()


def _rebuild(name: str, asked: tuple[Any, ...], window: int | None) -> ChatEngine:
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
    )
