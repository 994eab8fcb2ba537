"""Constrained decoding: which tokens a grammar allows next (llguidance).

``Grammars`` belongs to one tokenizer and compiles each grammar once; a ``Matcher`` follows one
reply. Everything is lazy: a model that is never asked for structure never pays for it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Any

from ..telemetry.harmless import warn_once
from .vocabulary import Vocabulary

__all__ = ["Grammars", "Matcher"]

logger = logging.getLogger("slm_adapters")

#: Compiled grammars kept, and the size one may have; larger ones are not compiled at all.
_KEPT, _LONGEST_GRAMMAR = 64, 1 << 20


class Matcher:
    """A grammar and how far a reply has got in it."""

    def __init__(
        self, matcher: Any, ends: Collection[int], size: int, *, exact: bool = True
    ) -> None:
        """``ends``: token ids that may follow a finished reply; ``size``: logits in a row."""
        self._matcher, self._ends, self._size = matcher, list(ends), size
        #: Whether it enforces all that was asked for.
        self.exact = exact

    def copy(self) -> Matcher:
        """One that goes its own way from here."""
        return Matcher(self._matcher.deep_copy(), self._ends, self._size, exact=self.exact)

    def allowed(self) -> Any:
        """Tokens that keep the reply in the grammar: bool ``[size]``, on the CPU."""
        import numpy as np
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        row = np.unpackbits(bits, count=min(self._size, bits.size * 8), bitorder="little")
        if row.size < self._size:
            row = np.concatenate([row, np.zeros(self._size - row.size, dtype=np.uint8)])
        row[self._ends] = self.is_accepting
        return torch.from_numpy(row).view(torch.bool)

    def take(self, tokens: list[int]) -> bool:
        """Go on by these tokens; False, and never True again, where the grammar forbids them."""
        return bool(self._matcher.consume_tokens(tokens))

    def would_take(self, tokens: list[int]) -> bool:
        """Whether ``take`` would succeed; changes nothing."""
        return int(self._matcher.validate_tokens(tokens)) == len(tokens)

    def forced(self) -> list[int]:
        """The tokens that come next whatever the model thinks."""
        return list(self._matcher.compute_ff_tokens())

    @property
    def is_accepting(self) -> bool:
        """Whether the reply may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def problem(self) -> str:
        """What went wrong inside, such as a grammar that outgrew its limits; empty if nothing."""
        return str(self._matcher.get_error()) if self._matcher.is_error() else ""


class Grammars:
    """The grammars of one tokenizer; shared by threads."""

    def __init__(
        self,
        tokenizer: Any,
        encode: Callable[[str], list[int]],
        *,
        ends: Collection[int],
        size: int,
    ) -> None:
        """``tokenizer``: transformers' own; ``ends``: ids that end a reply; ``size``: logits."""
        self._tokenizer, self.encode = tokenizer, encode
        self.ends, self.size = tuple(ends), size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Matcher | None] = OrderedDict()
        self._ready: tuple[Any, dict[str, int], Vocabulary] | None = None
        self._usable = getattr(tokenizer, "backend_tokenizer", None) is not None

    def prepare(self) -> None:
        """Do now what the first structured reply would wait for: up to a second or two."""
        if self._usable:
            self._prepared()

    @property
    def usable(self) -> bool:
        """Whether replies can be constrained: the engine is there and knows this tokenizer."""
        self.prepare()
        return self._usable

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens that a grammar must name by id, by their text."""
        return self._prepared()[1]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens by their bytes."""
        return self._prepared()[2]

    def matcher(
        self, key: Hashable, make: Callable[[], tuple[str, Collection[str]]]
    ) -> Matcher | None:
        """A matcher at its start; None where the grammar cannot be compiled, said once.

        ``make``: the Lark text and what it leaves to the check on the answer; called once a key.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found = self._kept[key]
                return found.copy() if found else None
        compiled = self._compiled(*make())
        with self._lock:
            self._kept[key] = compiled
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return compiled.copy() if compiled else None

    def _compiled(self, lark: str, dropped: Collection[str]) -> Matcher | None:
        from llguidance import LLMatcher

        if dropped:
            logger.info(
                "the grammar leaves %s to the check on the finished answer",
                ", ".join(sorted(dropped)),
            )
        if len(lark) > _LONGEST_GRAMMAR:
            problem = f"{len(lark)} characters of rules"
        else:
            follower = LLMatcher(self._prepared()[0], lark, log_level=0)
            matcher = Matcher(follower, self.ends, self.size, exact=not dropped)
            problem = matcher.problem
        if not problem:
            return matcher
        warn_once(
            f"grammar {problem}",
            "a schema is too much for constrained decoding, so its answers are only checked when "
            f"they are finished: simplify it ({problem.splitlines()[0][:160]}).",
        )
        return None

    def _prepared(self) -> tuple[Any, dict[str, int], Vocabulary]:
        with self._lock:
            if self._ready is None:
                self._ready = self._prepare()
            return self._ready

    def _prepare(self) -> tuple[Any, dict[str, int], Vocabulary]:
        try:
            from llguidance.hf import from_tokenizer

            size = max(self.size, len(self._tokenizer))
            known = from_tokenizer(self._tokenizer, n_vocab=size, eos_token=list(self.ends))
        except Exception as error:
            self._usable = False
            warn_once(
                "grammar engine",
                "replies of the local model are checked but not constrained "
                f"({type(error).__name__}): install slm-adapters[local], which brings llguidance.",
            )
            return None, {}, Vocabulary(())
        added = self._tokenizer.get_added_vocab()
        special = {text: i for text, i in added.items() if known.is_special_token(i)}
        return known, special, Vocabulary(known.decode_bytes([i]) for i in range(self.size))
