"""Reuse of a prompt's beginning: the keys and values of the last prompts, by their tokens.

Only prompt tokens are kept, cut where the decoder cuts its prefill, so a reply is bit for bit
the same with and without reuse: the same rows go through the same matrix shapes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

__all__ = ["KeysAndValues", "PrefixCache"]

#: One (keys, values) pair per layer, each ``[1, heads, tokens, head_dim]``.
KeysAndValues = list[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class _Prefix:
    tokens: list[int]
    cuts: tuple[int, ...]
    layers: KeysAndValues
    nbytes: int


class PrefixCache:
    """The most recently used prompts of one model, at most ``budget`` bytes of them."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Prefix] = OrderedDict()
        self._next_key = 0

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def longest(self, tokens: list[int], cuts: list[int]) -> tuple[int, KeysAndValues]:
        """How many of ``tokens`` are known, and their keys and values (views, not copies).

        ``cuts``: the positions where this prompt's prefill may be split.
        """
        with self._lock:
            best_key, best = None, 0
            for key, entry in self._entries.items():
                shared = _shared(entry, tokens, cuts)
                if shared > best:
                    best_key, best = key, shared
            if best_key is None:
                return 0, []
            self._entries.move_to_end(best_key)
            entry = self._entries[best_key]
        return best, [(k[..., :best, :], v[..., :best, :]) for k, v in entry.layers]

    def keep(self, tokens: list[int], cuts: list[int], layers: KeysAndValues) -> None:
        """Remember a prompt up to its last cut; forgets the least recently used beyond budget."""
        if not cuts:
            return
        end = cuts[-1]
        # Cloned: a view would keep the whole reply's tensors alive.
        kept = [(k[..., :end, :].clone(), v[..., :end, :].clone()) for k, v in layers]
        nbytes = sum(k.nbytes + v.nbytes for k, v in kept)
        if nbytes > self.budget:
            return
        new = _Prefix(tokens[:end], tuple(cuts), kept, nbytes)
        with self._lock:
            for key, entry in list(self._entries.items()):
                if entry.tokens == new.tokens[: len(entry.tokens)]:
                    del self._entries[key]
            self._next_key += 1
            self._entries[self._next_key] = new
            while sum(entry.nbytes for entry in self._entries.values()) > self.budget:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


def _shared(entry: _Prefix, tokens: list[int], cuts: list[int]) -> int:
    """The last cut up to which both prompts agree; cuts depend only on what is before them."""
    start = 0
    for ours, theirs in zip(cuts, entry.cuts, strict=False):
        if ours != theirs or entry.tokens[start:ours] != tokens[start:ours]:
            break
        start = ours
    return start
