"""Triton kernels for LoRA in a batch whose rows may each have another adapter.

``table`` int64 ``[slots, modules, 3]``: where an adapter's ``down [rank, in]`` and ``up [rank,
out]`` of a linear layer are in memory, and the rank; a slot without adapter has rank 0.
``slots`` int64 ``[rows]``. Read on the device, so captured kernels serve any adapters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .nf4 import plane

__all__ = ["expand_kernel", "shrink_kernel"]


@triton.jit(do_not_specialize=["first"])
def shrink_kernel(
    x, norm, slots, table, inner, eps, first,
    MODULES: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr,
    K: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """``inner [rows, PARTS, RANK]``: each row times the ``down`` of its adapter's modules.

    The ``PARTS`` modules from ``first`` on share the input; a program has ``RANKS`` of the rank.
    ``NORM``: of the row RMS-normalized with the weights ``norm``.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    entry = table + (tl.load(slots + row) * MODULES + first + part) * 3
    rank = tl.load(entry + 2).to(tl.int32)
    r = tl.program_id(2) * RANKS + tl.arange(0, RANKS)
    if tl.program_id(2) * RANKS < rank:
        down = tl.load(entry).to(tl.pointer_type(x.dtype.element_ty))
        sums = tl.zeros([RANKS, BK], tl.float32)
        squares = tl.zeros([BK], tl.float32)
        for start in range(0, K, BK):
            k = start + tl.arange(0, BK)
            at = plane(k, K, PLANES)
            vector = tl.load(x + row * K + at, k < K, other=0.0).to(tl.float32)
            if NORM:
                squares += vector * vector
                vector *= tl.load(norm + at, k < K, other=0.0).to(tl.float32)
            inside = (r < rank)[:, None] & (k < K)[None, :]
            weights = tl.load(down + r[:, None] * K + k[None, :], inside, other=0.0)
            sums += weights.to(tl.float32) * vector[None, :]
        total = tl.sum(sums, 1)
        if NORM:
            total *= 1.0 / tl.sqrt(tl.sum(squares, 0) / K + eps)
        tl.store(inner + (row * PARTS + part) * RANK + r, total)


@triton.jit(do_not_specialize=["first"])
def expand_kernel(
    inner, slots, table, extra, first, like,
    MODULES: tl.constexpr, PARTS: tl.constexpr, RANK: tl.constexpr,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """``extra [rows, W0 + W1 + W2]`` float32: ``inner`` times ``up``; zeros without adapter.

    ``like``: any tensor of the adapters' number format.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    width = tl.where(part == 0, W0, tl.where(part == 1, W1, W2))
    begin = tl.where(part == 0, 0, tl.where(part == 1, W0, W0 + W1))
    n = tl.program_id(2) * BN + tl.arange(0, BN)
    if tl.program_id(2) * BN < width:
        entry = table + (tl.load(slots + row) * MODULES + first + part) * 3
        rank = tl.load(entry + 2).to(tl.int32)
        up = tl.load(entry + 1).to(tl.pointer_type(like.dtype.element_ty))
        total = tl.zeros([BN], tl.float32)
        for r in range(rank):
            share = tl.load(inner + (row * PARTS + part) * RANK + r)
            total += share * tl.load(up + r * width + n, n < width, other=0.0).to(tl.float32)
        tl.store(extra + row * (W0 + W1 + W2) + begin + n, total, n < width)
