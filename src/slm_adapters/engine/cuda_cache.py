"""The keys and values of one sequence on a GPU, in memory that grows with it."""

from __future__ import annotations

from typing import Any

from .adapters import Adapter

__all__ = ["BLOCK", "CudaCache"]

#: Positions by which a sequence's memory grows.
BLOCK = 256


class CudaCache:
    """One sequence: keys and values ``[2, layers, kv_heads, capacity, size]``, ``length`` used."""

    __slots__ = ("adapter", "buffer", "length")

    def __init__(self, buffer: Any, adapter: Adapter | None = None) -> None:
        self.buffer, self.adapter, self.length = buffer, adapter, 0

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens."""
        old = self.buffer
        if length <= old.shape[3]:
            return
        room = -(-length // BLOCK) * BLOCK
        new = old.new_empty((*old.shape[:3], room, old.shape[4]))
        new[..., : self.length, :] = old[..., : self.length, :]
        self.buffer = new

    def row(self, first: int) -> list[int]:
        """What the kernels know of it; ``first``: a token, or how many."""
        return [first, self.length, self.buffer.data_ptr(), self.buffer.shape[3]]
