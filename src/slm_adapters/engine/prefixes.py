"""Reuse of a prompt's beginning: what the network computed of the last prompts, by their tokens.

Only prompt tokens are kept, cut where the decoder cuts its prefill, so a reply is bit for bit
the same with and without reuse: the same rows go through the same matrix shapes. What one
adapter computed is never given to another, nor to the base.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KeysAndValues", "PrefixCache", "SnapshotCache"]

#: One (keys, values) pair per layer, each ``[1, heads, tokens, head_dim]``.
KeysAndValues = list[tuple[Any, Any]]
#: Prompts that are remembered by their tokens alone, to see what they share.
_REMEMBERED = 32
#: Entries at most: every prompt is compared with each of them.
_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class _Prefix:
    tokens: list[int]
    cuts: tuple[int, ...]
    #: Keys and values, or a snapshot.
    state: Any
    nbytes: int
    adapter: str | None


class _Recent:
    """The most recently used entries of one model, at most ``budget`` bytes of them."""

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

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def _longest(
        self, tokens: list[int], cuts: list[int], adapter: str | None
    ) -> tuple[int, _Prefix | None]:
        with self._lock:
            best_key, best = None, 0
            for key, entry in self._entries.items():
                shared = self._shared(entry, tokens, cuts) if entry.adapter == adapter else 0
                if shared > best:
                    best_key, best = key, shared
            if best_key is None:
                return 0, None
            self._entries.move_to_end(best_key)
            return best, self._entries[best_key]

    def _shared(self, entry: _Prefix, tokens: list[int], cuts: list[int]) -> int:
        """How much of the entry this prompt can begin with."""
        # Kept keys and values can be cut anywhere, a snapshot is taken whole.
        raise NotImplementedError

    def _add(self, new: _Prefix) -> None:
        self._next_key += 1
        self._entries[self._next_key] = new
        held = sum(entry.nbytes for entry in self._entries.values())
        while held > self.budget or len(self._entries) > _ENTRIES:
            held -= self._entries.popitem(last=False)[1].nbytes


class PrefixCache(_Recent):
    """Keys and values that can be cut anywhere: the longest common beginning is reused."""

    def longest(
        self, tokens: list[int], cuts: list[int], adapter: str | None = None
    ) -> tuple[int, KeysAndValues]:
        """How many of ``tokens`` are known, and their keys and values (views, not copies).

        ``cuts``: the positions where this prompt's prefill may be split.
        """
        best, entry = self._longest(tokens, cuts, adapter)
        layers = entry.state if entry is not None else []
        return best, [(k[..., :best, :], v[..., :best, :]) for k, v in layers]

    def keep(
        self,
        tokens: list[int],
        cuts: list[int],
        layers: KeysAndValues,
        adapter: str | None = None,
    ) -> None:
        """Remember a prompt up to its last cut; forgets the least recently used beyond budget."""
        if not cuts:
            return
        end = cuts[-1]
        # Cloned: a view would keep the whole reply's tensors alive.
        kept = [(k[..., :end, :].clone(), v[..., :end, :].clone()) for k, v in layers]
        nbytes = sum(k.nbytes + v.nbytes for k, v in kept)
        if nbytes > self.budget:
            return
        new = _Prefix(tokens[:end], tuple(cuts), kept, nbytes, adapter)
        with self._lock:
            for key, entry in list(self._entries.items()):
                same = entry.adapter == adapter
                if same and entry.tokens == new.tokens[: len(entry.tokens)]:
                    del self._entries[key]
            self._add(new)

    def _shared(self, entry: _Prefix, tokens: list[int], cuts: list[int]) -> int:
        return _agreed(entry.tokens, entry.cuts, tokens, cuts)


class SnapshotCache(_Recent):
    """States that are of use only where they were taken: sliding windows, recurrent layers."""

    def __init__(self, budget: int) -> None:
        super().__init__(budget)
        self._seen: deque[tuple[list[int], tuple[int, ...], str | None]] = deque(maxlen=_REMEMBERED)

    def longest(
        self, tokens: list[int], cuts: list[int], adapter: str | None = None
    ) -> tuple[int, Any]:
        """How many of ``tokens`` are known, and the snapshot behind them."""
        best, entry = self._longest(tokens, cuts, adapter)
        return best, entry.state if entry is not None else []

    def wanted(
        self, tokens: list[int], cuts: list[int], borders: Collection[int], adapter: str | None
    ) -> set[int]:
        """The cuts at which a snapshot is worth its memory.

        After the first message, which is a role's own; where an earlier prompt began to differ;
        and at the last cut, where the conversation's next turn goes on.
        """
        if not cuts:
            return set()
        first = next((cut for cut in cuts if tokens[cut - 1] in borders), cuts[0])
        with self._lock:
            shared = max(
                (_agreed(t, c, tokens, cuts) for t, c, own in self._seen if own == adapter),
                default=0,
            )
            self._seen.append((tokens[: cuts[-1]], tuple(cuts), adapter))
            have = {
                len(entry.tokens)
                for entry in self._entries.values()
                if entry.adapter == adapter and entry.tokens == tokens[: len(entry.tokens)]
            }
        return {first, shared, cuts[-1]} - have - {0}

    def keep(self, tokens: list[int], snapshot: Any, adapter: str | None = None) -> None:
        """Remember the state after ``tokens``; forgets the least recently used beyond budget."""
        nbytes = int(snapshot.nbytes)
        if nbytes > self.budget:
            return
        with self._lock:
            self._add(_Prefix(tokens, (len(tokens),), snapshot, nbytes, adapter))

    def _shared(self, entry: _Prefix, tokens: list[int], cuts: list[int]) -> int:
        length = len(entry.tokens)
        return length if length in cuts and entry.tokens == tokens[:length] else 0


def _agreed(
    one: list[int], cuts_of_one: Sequence[int], tokens: list[int], cuts: Sequence[int]
) -> int:
    """The last cut up to which both prompts agree; cuts depend only on what is before them."""
    start = 0
    for ours, theirs in zip(cuts, cuts_of_one, strict=False):
        if ours != theirs or one[start:ours] != tokens[start:ours]:
            break
        start = ours
    return start
