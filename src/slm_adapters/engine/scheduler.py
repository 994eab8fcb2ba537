"""One worker thread per loaded model: it steps all live replies together.

Requests join and leave between steps. A piece of a waiting prompt is read between two steps of
the running replies, so that these do not stall. Whatever goes wrong with one request ends that
one alone, and its waiter is always released.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import CancelledGenerationError, GenerationError, SLMAdaptersError
from .decoder import Decoder, Generation
from .mailbox import Mailbox
from .ticket import Ticket

__all__ = ["Scheduler"]

logger = logging.getLogger("slm_adapters")

#: Live replies of a network that steps them row after row.
_UNBATCHED_ROWS = 8
#: How often a writer may refuse the token it is given.
_REFUSALS = 2


class Scheduler:
    """Owns every forward of one model."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        memory: int | None = None,
        idle_s: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        """``memory``: tokens that live replies may come to keep, together.

        After ``idle_s`` seconds without a request the thread ends, and ``on_idle`` is called.
        """
        self.decoder, self._memory = decoder, memory
        # Where kernels run beside Python, text is made while the next step computes.
        self._overlaps = decoder.device.type == "cuda"
        self._waiting: deque[Ticket] = deque()
        self._reading: Ticket | None = None
        self._live: list[Ticket] = []
        self.mailbox = Mailbox(weakref.WeakMethod(self._work), idle_s, on_idle)
        weakref.finalize(self, self.mailbox.close).atexit = False

    @property
    def load(self) -> tuple[int, int]:
        """How many requests are live, and how many wait."""
        live = len(self._live) + (self._reading is not None)
        return live, len(self._waiting) + len(self.mailbox)

    @property
    def slots(self) -> int:
        """How many replies may be live."""
        rows = self.decoder.network.rows
        return rows if rows > 1 else _UNBATCHED_ROWS

    def submit(self, ticket: Ticket) -> None:
        """Queue a request; raises ``EngineBusyError`` when too many wait."""
        ticket.patience.check()
        self.mailbox.put(ticket, behind=len(self._waiting))

    # --- what follows runs in the worker -----------------------------------------------------

    def _work(self) -> None:
        """Until nothing is left to do."""
        try:
            with self.decoder.computing():
                while self._collect():
                    if self.decoder.can_improve:
                        self._improve()
                    self._read_prompts()
                    batch = self.decoder.network.rows
                    for start in range(0, len(self._live), batch):
                        self._step(self._live[start : start + batch])
                    self._live = [ticket for ticket in self._live if not ticket.over]
        except BaseException as error:
            self._fail_all(error)
            if not isinstance(error, Exception):
                raise

    def _collect(self) -> bool:
        """Let go of those who gave up waiting; whether there is something to do."""
        if self.mailbox.closed:
            raise CancelledGenerationError(
                "the local model was shut down while this reply was written: ask again."
            )
        self._waiting.extend(self.mailbox.take())
        for ticket in list(self._waiting):
            if not self._is_wanted(ticket):
                self._waiting.remove(ticket)
        return bool(self._waiting or self._reading or self._live)

    def _improve(self) -> None:
        reading = [self._reading] if self._reading is not None else []
        tickets = [ticket for ticket in (*self._live, *reading) if ticket.generation is not None]
        self.decoder.improve([_of(ticket) for ticket in tickets])

    def _is_wanted(self, ticket: Ticket) -> bool:
        try:
            ticket.patience.check()
        except GenerationError as error:
            self._finish(ticket, error)
        return not ticket.over

    def _read_prompts(self) -> None:
        """About one piece's worth of prompts, first come first served."""
        budget = self.decoder.piece
        while budget > 0:
            ticket = self._reading = self._reading or self._admit()
            if ticket is None:
                return
            budget -= self._read(ticket)
            if ticket.over:
                self._reading = None
            elif ticket.generation is not None and ticket.generation.is_read:
                self._reading = None
                self._live.append(ticket)
                ticket.mark()
                self._settle([ticket])

    def _admit(self) -> Ticket | None:
        """The next request, if there is a slot and memory for it."""
        if not self._waiting or len(self._live) >= self.slots:
            return None
        kept = sum(ticket.size for ticket in self._live if not ticket.over)
        if self._memory is not None and kept and kept + self._waiting[0].size > self._memory:
            return None
        return self._waiting.popleft()

    def _read(self, ticket: Ticket) -> int:
        """A piece of its prompt; how many tokens that was, at least 1."""
        if not self._is_wanted(ticket):
            return 1
        try:
            if ticket.generation is None:
                ticket.mark()
                ticket.generation = self.decoder.begin(
                    ticket.prompt, ticket.sampling, ticket.adapter
                )
            count = self.decoder.read(ticket.generation)
            ticket.cached_tokens = ticket.generation.cached_tokens
        except Exception as error:
            self._finish(ticket, error)
            return 1
        return max(count, 1)

    def _step(self, tickets: Sequence[Ticket]) -> None:
        """One more token for each."""
        tickets = [ticket for ticket in tickets if not ticket.over and self._is_wanted(ticket)]
        if not tickets:
            return
        tickets = self._advance(tickets)
        if self._overlaps:
            for ticket in tickets:
                self._show(ticket)
            tickets = [ticket for ticket in tickets if not ticket.over]
        self._settle(tickets)

    def _advance(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Have the network read their tokens; returns those for whom that went well."""
        try:
            self.decoder.advance([_of(t) for t in tickets], [t.token for t in tickets])
        except Exception as error:
            if _is_out_of_memory(error):
                self.decoder.free()
            if len(tickets) == 1:
                self._finish(tickets[0], error)
                return []
            logger.debug("a step of %d replies failed: %r", len(tickets), error)
        else:
            return list(tickets)
        # One is to blame, or all together are too many: each on its own.
        fine = []
        for ticket in tickets:
            if self._advance([ticket]):
                # Valid until the next step only, which is the next one's here.
                _of(ticket).logits = _of(ticket).logits.clone()
                fine.append(ticket)
        return fine

    def _settle(self, tickets: Sequence[Ticket], refused: int = 0) -> None:
        """Choose a token for each and hand it to its writer."""
        ready, masks = [], []
        for ticket in tickets:
            try:
                masks.append(ticket.writer.allowed())
                ready.append(ticket)
            except Exception as error:
                self._finish(ticket, error)
        if not ready:
            return
        try:
            bans = [ticket.writer.banned for ticket in ready]
            tokens = self.decoder.choose([_of(ticket) for ticket in ready], masks, bans)
        except Exception as error:
            if len(ready) == 1:
                self._finish(ready[0], error)
                return
            for ticket in ready:
                self._settle([ticket])
            return
        again = [t for t, token in zip(ready, tokens, strict=True) if not self._take(t, token)]
        if again and refused < _REFUSALS:
            self._settle(again, refused + 1)

    def _take(self, ticket: Ticket, token: int) -> bool:
        """Whether the writer took the token."""
        try:
            if not ticket.writer.accept(token):
                return False
            if ticket.confidence is not None:
                ticket.confidence.note(_of(ticket).logits, token)
        except Exception as error:
            self._finish(ticket, error)
            return True
        ticket.token = token
        if ticket.writer.ended or not self._overlaps:
            self._show(ticket)
        return True

    def _show(self, ticket: Ticket) -> None:
        """Deliver what the last token makes visible."""
        try:
            chunks = ticket.writer.read(ticket.token)
        except Exception as error:
            self._finish(ticket, error)
            return
        for chunk in chunks:
            ticket.give(chunk)
        if ticket.writer.ended:
            self._finish(ticket)

    def _finish(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """Release its memory and its waiter."""
        if ticket.over:
            return
        ticket.over = True
        ticket.error = None if error is None else self._typed(error)
        if ticket.generation is not None:
            try:
                self.decoder.end(ticket.generation)
            except Exception:
                logger.exception("a cache could not be released")
            ticket.generation = None
        ticket.mark()
        ticket.give(None)

    def _typed(self, error: BaseException) -> BaseException:
        if isinstance(error, SLMAdaptersError):
            return error
        if _is_out_of_memory(error):
            text = f"the reply outgrew the memory of {self.decoder.device}: lower max_tokens"
        else:
            # The class alone: an exception's text may quote the prompt.
            text = f"the local model failed while it wrote a reply ({type(error).__name__}): retry"
        typed = GenerationError(f"{text}, or give the model a fallback=.")
        typed.__cause__ = error
        return typed

    def _fail_all(self, error: BaseException) -> None:
        logger.debug("the worker of a local model ends all its replies: %r", error)
        reading = [self._reading] if self._reading is not None else []
        tickets = [*reading, *self._live, *self._waiting, *self.mailbox.take()]
        self._reading, self._live = None, []
        self._waiting.clear()
        for ticket in tickets:
            self._finish(ticket, error)


def _of(ticket: Ticket) -> Generation:
    assert ticket.generation is not None
    return ticket.generation


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)
