"""Small Triton kernels around the linear layers: embedding, norm, gate, the likeliest token."""

from __future__ import annotations

import triton
import triton.language as tl

from .nf4 import plane

__all__ = ["embed_kernel", "gate_kernel", "likeliest_kernel", "norm_kernel"]


@triton.jit
def embed_kernel(
    tokens, stride, table, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr
):
    """The embedding of each row's token, int64 and ``stride`` apart."""
    row = tl.program_id(0)
    token = tl.load(tokens + row * stride)
    n = tl.arange(0, BLOCK)
    inside = n < WIDTH
    values = tl.load(table + token * WIDTH + n, inside, other=0.0)
    tl.store(out + row.to(tl.int64) * WIDTH + plane(n, WIDTH, PLANES), values, inside)


@triton.jit
def norm_kernel(
    x, chosen, norm, out, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, LAST: tl.constexpr, UNDO: tl.constexpr,
):  # fmt: skip
    """RMS norm of each row, or of row ``chosen[0] - 1`` alone; ``UNDO`` takes planes apart.

    ``norm`` is in the order of ``x``.
    """
    row = tl.program_id(0).to(tl.int64)
    source = tl.load(chosen) - 1 if LAST else row
    n = tl.arange(0, BLOCK)
    inside = n < WIDTH
    values = tl.load(x + source * WIDTH + n, inside, other=0.0)
    wide = values.to(tl.float32)
    wide *= 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / WIDTH + eps)
    # The weight is applied after rounding, as the model does.
    wide = wide.to(values.dtype).to(tl.float32) * tl.load(norm + n, inside, other=0.0)
    quarter: tl.constexpr = WIDTH // 4
    to = (n % quarter) * 4 + n // quarter if UNDO else n
    tl.store(out + row * WIDTH + to, wide.to(values.dtype), inside)


@triton.jit
def gate_kernel(gate, up, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PLANES: tl.constexpr):
    """``gate = silu(gate) * up``, a row a program; ``PLANES``: left in planes."""
    row = tl.program_id(0).to(tl.int64) * WIDTH
    n = tl.arange(0, BLOCK)
    inside = n < WIDTH
    value = tl.load(gate + row + n, inside, other=0.0).to(tl.float32)
    value = value / (1.0 + tl.exp(-value)) * tl.load(up + row + n, inside, other=0.0).to(tl.float32)
    # All of the row is read before any of it is written elsewhere in it.
    tl.debug_barrier()
    tl.store(gate + row + plane(n, WIDTH, PLANES), value.to(gate.dtype.element_ty), inside)


@triton.jit
def likeliest_kernel(
    logits, parts, counters, best, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """The first index of each row's greatest logit, in ``best`` and as the row's next token.

    ``rows`` as of the attention: token and position move on, so that the same step can be run
    again for the token after. ``PARTS`` programs share a row; ``counters``: zeros before and
    after; ``parts`` float32 ``[rows, PARTS, 2]``.
    """
    row, part = tl.program_id(0), tl.program_id(1)
    size: tl.constexpr = (WIDTH + PARTS - 1) // PARTS
    top = -float("inf")
    at = 0
    for start in range(part * size, tl.minimum((part + 1) * size, WIDTH), BLOCK):
        n = start + tl.arange(0, BLOCK)
        inside = n < tl.minimum((part + 1) * size, WIDTH)
        values = tl.load(logits + row.to(tl.int64) * WIDTH + n, inside, other=-float("inf"))
        value, index = tl.max(values.to(tl.float32), 0, return_indices=True)
        if value > top:
            top = value
            at = start + index
    # An index up to 2**24 is exact as a float.
    tl.store(parts + (row * PARTS + part) * 2, top)
    tl.store(parts + (row * PARTS + part) * 2 + 1, at.to(tl.float32))
    tl.debug_barrier()
    if tl.atomic_add(counters + row, 1, sem="acq_rel") == PARTS - 1:
        tl.store(counters + row, 0)
        p = tl.arange(0, PARTS)
        tops = tl.load(parts + (row * PARTS + p) * 2, cache_modifier=".cg")
        first = tl.argmax(tops, 0)
        token = tl.load(parts + (row * PARTS + first) * 2 + 1, cache_modifier=".cg").to(tl.int64)
        tl.store(best + row, token)
        tl.store(rows + row * 4, token)
        tl.store(rows + row * 4 + 1, tl.load(rows + row * 4 + 1) + 1)
