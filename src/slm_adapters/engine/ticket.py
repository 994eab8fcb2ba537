"""One request on its way through a model's worker: what is asked, by whom, how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any, Protocol

from .decoder import Generation
from .engine import Chunk, Timings
from .patience import Patience
from .sampling import Confidence, Sampling

__all__ = ["Ticket", "Writer"]


class Writer(Protocol):
    """One reply as the worker writes it."""

    #: Ids not to choose now.
    banned: Collection[int]

    @property
    def ended(self) -> bool:
        """Whether no token is to follow."""

    def allowed(self) -> Any:
        """What may be chosen next: bool ``[vocabulary]``, or None for everything."""

    def accept(self, token: int) -> bool:
        """Take a chosen token, which may end the reply.

        False: choose again, because what is allowed has changed.
        """

    def read(self, token: int) -> Sequence[Chunk]:
        """What an accepted token makes visible; may end the reply."""


class Ticket:
    """One request on its way through the worker, live once it has a ``generation``.

    ``deliver`` gets each chunk, and None at the end; it must not block. ``error`` is set before
    the end where there is one.
    """

    def __init__(
        self,
        writer: Writer,
        prompt: list[int],
        sampling: Sampling,
        limit: int,
        patience: Patience,
        deliver: Callable[[Chunk | None], None],
        adapter: str | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.writer, self.prompt, self.sampling = writer, prompt, sampling
        #: Told of every token where somebody asked how sure the model was.
        self.confidence = confidence
        self.patience, self.adapter, self._deliver = patience, adapter, deliver
        #: Tokens it may come to keep.
        self.size = len(prompt) + limit
        self.error: BaseException | None = None
        self.over = False
        self.cached_tokens = 0
        self.generation: Generation | None = None
        self.token = -1
        self._marks = [time.perf_counter()]

    @property
    def timings(self) -> Timings:
        """Seconds of the phases that have ended."""
        return Timings(*(end - start for start, end in pairwise(self._marks)))

    def mark(self) -> None:
        """The next phase begins: waiting, reading, writing, over."""
        self._marks.append(time.perf_counter())

    def give(self, chunk: Chunk | None) -> None:
        """Deliver; a receiver that is gone has given up."""
        try:
            self._deliver(chunk)
        except Exception:
            self.patience.give_up()
