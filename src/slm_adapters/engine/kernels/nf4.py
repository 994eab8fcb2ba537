"""Triton kernels for linear layers over bitsandbytes' nf4 weights, as bitsandbytes packs them.

A matrix ``[n, k]`` is ``codes``, two to a byte, the even element in the high half, read here as
int16 ``[n, k / 4]``; and ``absmax`` float32 ``[n, k / 64]``. A weight is ``LEVELS[code] * absmax``.

Vectors that such a matrix takes are laid out in four planes: elements 0, 4, 8 ..., then 1, 5, 9
..., so that what a thread loads of the codes and of the vector belongs together. ``plane`` says
where an element is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import triton
import triton.language as tl

__all__ = ["LEVELS", "few_rows_kernel", "one_row_kernel", "plane", "whole_kernel"]

#: QLoRA (arXiv:2305.14314), appendix E, as bitsandbytes rounds it.
LEVELS: Sequence[float] = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

#: Triton's interpreter knows no assembly; there a table in memory is read.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")

#: Where in an int16 the codes of the four planes begin.
_SHIFTS = (4, 0, 12, 8)

# Lane i of every warp holds level i % 16 and a shuffle looks it up: one shift and one shuffle a
# weight, and the level is exact. A shuffle reads five bits of the index; the fifth chooses
# between two lanes that hold the same. Two int16 at a time.
_SHUFFLE = tl.constexpr(
    "{ .reg .u32 lane; .reg .b32 level, at; .reg .b64 place; mov.u32 lane, %laneid;"
    " and.b32 lane, lane, 15; mul.wide.u32 place, lane, 4; add.s64 place, place, $9;"
    " ld.global.nc.b32 level, [place];"
    + "".join(
        f" shr.b32 at, $8, {shift + 16 * number};"
        f" shfl.sync.idx.b32 ${2 * out + number}, level, at, 31, 0xffffffff;"
        for number in range(2)
        for out, shift in enumerate(_SHIFTS)
    )
    + " }"
)
_REGISTERS = tl.constexpr("=f,=f,=f,=f,=f,=f,=f,=f,r,l,l")


@triton.jit
def plane(n, N, PLANES: tl.constexpr):
    """Where element ``n`` of a vector of ``N`` is."""
    if PLANES:
        return n // 4 + (n % 4) * (N // 4)
    else:
        return n


@triton.jit
def _levels(codes, levels):
    """float32 levels of the elements of the four planes."""
    if _INTERPRETED:
        wide = codes.to(tl.int32)
        first = tl.load(levels + ((wide >> 4) & 15))
        second = tl.load(levels + (wide & 15))
        third = tl.load(levels + ((wide >> 12) & 15))
        return first, second, third, tl.load(levels + ((wide >> 8) & 15))
    else:
        return tl.inline_asm_elementwise(
            _SHUFFLE, _REGISTERS, [codes, levels.to(tl.int64)],
            dtype=(tl.float32, tl.float32, tl.float32, tl.float32), is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def _vector(place, K: tl.constexpr, inside, MASKED: tl.constexpr):
    """The same elements of the four planes, float32."""
    if MASKED:
        first = tl.load(place, inside, other=0.0)
        second = tl.load(place + K // 4, inside, other=0.0)
        third = tl.load(place + K // 2, inside, other=0.0)
        fourth = tl.load(place + K // 4 * 3, inside, other=0.0)
    else:
        first = tl.load(place)
        second = tl.load(place + K // 4)
        third = tl.load(place + K // 2)
        fourth = tl.load(place + K // 4 * 3)
    return (
        first.to(tl.float32), second.to(tl.float32), third.to(tl.float32), fourth.to(tl.float32)
    )  # fmt: skip


@triton.jit
def one_row_kernel(
    x, norm, codes, absmax, levels, bias, extra, out, N, eps,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, EXTRA: tl.constexpr, MODE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One vector times the transpose of a matrix; arguments as of ``few_rows_kernel``.

    ``NORM``: ``x`` is RMS-normalized with the weights ``norm`` first. A program has ``BN`` rows of
    the matrix, of which it looks at ``BK`` elements at a time, a multiple of 1024 for each of its
    warps: then every thread multiplies what it loaded, and nothing is exchanged before the end.
    """
    CHUNKS: tl.constexpr = (K + BK - 1) // BK
    MASKED: tl.constexpr = K % BK != 0
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0) * BN + tl.arange(0, BN)
    if MODE == 2:
        # Rows of the two halves by turns.
        row = tl.program_id(0) * (BN // 2) + tl.arange(0, BN) // 2 + tl.arange(0, BN) % 2 * N
    k = tl.arange(0, BK // 4)
    # What a thread multiplies at a time, 32 weights, has one absmax.
    part = tl.arange(0, BK // 32)
    codes_at = codes + row[:, None].to(tl.int64) * (K // 4) + k[None, :]
    absmax_at = absmax + row[:, None].to(tl.int64) * (K // 64) + (part // 2)[None, :]
    if K < BK:
        block = tl.load(codes_at, (k < K // 4)[None, :], other=0)
        scale = tl.load(absmax_at, (part < K // 32)[None, :], other=0.0)
    else:
        block = tl.load(codes_at)
        scale = tl.load(absmax_at)
    if PDL:
        # The first weights are on their way while the kernel that makes ``x`` still runs.
        tl.extra.cuda.gdc_wait()
    sums = tl.zeros([BN, BK // 32], tl.float32)
    squares = tl.zeros([BK // 4], tl.float32)
    for chunk in range(CHUNKS):
        begin = chunk * (BK // 4)
        inside = k + begin < K // 4
        x0, x1, x2, x3 = _vector(x + begin + k, K, inside, MASKED)
        if NORM:
            squares += x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3
            w0, w1, w2, w3 = _vector(norm + begin + k, K, inside, MASKED)
            x0, x1, x2, x3 = x0 * w0, x1 * w1, x2 * w2, x3 * w3
        l0, l1, l2, l3 = _levels(block, levels)
        group = scale
        if CHUNKS > 1:
            left = k + begin + BK // 4 < K // 4
            block = tl.load(codes_at + begin + BK // 4, left[None, :], other=0)
            left = part + (chunk + 1) * (BK // 32) < K // 32
            place = absmax_at + (chunk + 1) * (BK // 64)
            scale = tl.load(place, left[None, :], other=0.0)
        products = tl.join(
            tl.join(l0 * x0[None, :], l1 * x1[None, :]), tl.join(l2 * x2[None, :], l3 * x3[None, :])
        )
        sums += tl.sum(tl.reshape(products, [BN, BK // 32, 32]), 2) * group
    total = tl.sum(sums, 1)
    if NORM:
        total *= 1.0 / tl.sqrt(tl.sum(squares, 0) / K + eps)
    if BIAS:
        total += tl.load(bias + row).to(tl.float32)
    if EXTRA:
        total += tl.load(extra + row)
    if MODE == 2:
        gate, up = tl.split(tl.reshape(total, [BN // 2, 2]))
        total = gate / (1.0 + tl.exp(-gate)) * up
        row = tl.program_id(0) * (BN // 2) + tl.arange(0, BN // 2)
    place = out + plane(row, N, MODE > 0)
    if MODE == 1:
        total += tl.load(place).to(tl.float32)
    tl.store(place, total.to(out.dtype.element_ty))


@triton.jit
def _scaled(codes, scale, levels, dtype: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Weights of the four planes ``[BN, BK / 4]``, rounded as bitsandbytes does."""
    l0, l1, l2, l3 = _levels(codes, levels)
    wide = tl.broadcast_to(scale[:, :, None], [BN, BK // 64, 16])
    wide = tl.reshape(wide, [BN, BK // 4])
    return (
        (l0 * wide).to(dtype),
        (l1 * wide).to(dtype),
        (l2 * wide).to(dtype),
        (l3 * wide).to(dtype),
    )


@triton.jit
def _product(
    total, x_at, codes_at, absmax_at, levels, inside, known, real, K: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``total [BN, BM]`` and a block of the matrix times the transpose of a block of rows."""
    dtype: tl.constexpr = x_at.dtype.element_ty
    block = tl.load(codes_at, inside[:, None] & known[None, :], other=0)
    scale = tl.load(absmax_at, inside[:, None] & real[None, :], other=0.0)
    w0, w1, w2, w3 = _scaled(block, scale, levels, dtype, BN, BK)
    total = tl.dot(w0, tl.load(x_at, known[:, None], other=0.0), total)
    total = tl.dot(w1, tl.load(x_at + K // 4, known[:, None], other=0.0), total)
    total = tl.dot(w2, tl.load(x_at + K // 2, known[:, None], other=0.0), total)
    return tl.dot(w3, tl.load(x_at + K // 4 * 3, known[:, None], other=0.0), total)


@triton.jit
def few_rows_kernel(
    x, codes, absmax, levels, bias, extra, out, parts, counters, N,
    K: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, EXTRA: tl.constexpr, MODE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """``x [BM rows, K]`` times the transpose of a matrix ``[N, K]``, on tensor cores.

    ``bias [N]``; ``extra`` float32 ``[rows, N]`` is added. ``MODE`` 0: ``out [rows, N]`` is
    written; 1: added to; 2: the matrix is ``[2 N, K]`` and ``silu(first) * second`` is written.
    1 and 2 write in planes, for the next matrix; ``x`` is. All ``BM`` rows are computed.
    ``SPLIT`` programs share the elements of a block of outputs; the last of them to end adds up
    what the others left in ``parts [SPLIT, 1 or 2, N, BM]``. ``counters``: zeros before and after.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    n, m, k = block * BN + tl.arange(0, BN), tl.arange(0, BM), tl.arange(0, BK // 4)
    inside = n < N
    first = tl.zeros([BN, BM], tl.float32)
    second = tl.zeros([BN, BM], tl.float32)
    CHUNKS: tl.constexpr = (K + BK - 1) // BK
    wide = n[:, None].to(tl.int64)
    codes_at = codes + wide * (K // 4) + k[None, :]
    groups = tl.arange(0, BK // 64)
    absmax_at = absmax + wide * (K // 64) + groups[None, :]
    x_at = x + m[None, :] * K + k[:, None]
    for chunk in range(CHUNKS * split // SPLIT, CHUNKS * (split + 1) // SPLIT):
        at, group = chunk * (BK // 4), chunk * (BK // 64)
        known = k + at < K // 4
        real = groups + group < K // 64
        first = _product(
            first, x_at + at, codes_at + at, absmax_at + group,
            levels, inside, known, real, K, BN, BK,
        )  # fmt: skip
        if MODE == 2:
            second = _product(
                second, x_at + at, codes_at + at + N * (K // 4), absmax_at + group + N * (K // 64),
                levels, inside, known, real, K, BN, BK,
            )  # fmt: skip
    if SPLIT == 1:
        _finish(first, second, n, m, inside, bias, extra, out, N, BIAS, EXTRA, MODE)
    else:
        width = 2 * N if MODE == 2 else N
        mine = parts + split * width * BM
        place = n[:, None] * BM + m[None, :]
        tl.store(mine + place, first, inside[:, None])
        if MODE == 2:
            tl.store(mine + N * BM + place, second, inside[:, None])
        tl.debug_barrier()
        if tl.atomic_add(counters + block, 1, sem="acq_rel") == SPLIT - 1:
            tl.store(counters + block, 0)
            # In order, whoever is last: the sum must not depend on it.
            first = tl.zeros([BN, BM], tl.float32)
            second = tl.zeros([BN, BM], tl.float32)
            for other in tl.static_range(SPLIT):
                theirs = parts + other * width * BM + place
                first += tl.load(theirs, inside[:, None], other=0.0, cache_modifier=".cg")
                if MODE == 2:
                    theirs += N * BM
                    second += tl.load(theirs, inside[:, None], other=0.0, cache_modifier=".cg")
            _finish(first, second, n, m, inside, bias, extra, out, N, BIAS, EXTRA, MODE)


@triton.jit
def _finish(
    first, second, n, m, inside, bias, extra, out, N,
    BIAS: tl.constexpr, EXTRA: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    if BIAS:
        first += tl.load(bias + n, inside, other=0.0).to(tl.float32)[:, None]
        if MODE == 2:
            second += tl.load(bias + N + n, inside, other=0.0).to(tl.float32)[:, None]
    if EXTRA:
        width = N * 2 if MODE == 2 else N
        place = extra + m[None, :] * width + n[:, None]
        first += tl.load(place, inside[:, None], other=0.0)
        if MODE == 2:
            second += tl.load(place + N, inside[:, None], other=0.0)
    place = out + m[None, :] * N + plane(n, N, MODE > 0)[:, None]
    if MODE == 1:
        first += tl.load(place, inside[:, None], other=0.0).to(tl.float32)
    if MODE == 2:
        first = first / (1.0 + tl.exp(-first)) * second
    tl.store(place, first.to(out.dtype.element_ty), inside[:, None])


@triton.jit
def whole_kernel(
    codes, absmax, levels, out, N,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """Undo the quantization; each row in planes.

    ``PLANES``: the rows as well, so that outputs come in planes.
    """
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.program_id(1) * (BK // 4) + tl.arange(0, BK // 4)
    group = tl.program_id(1) * (BK // 64) + tl.arange(0, BK // 64)
    wide = n[:, None].to(tl.int64)
    known = (k < K // 4)[None, :]
    block = tl.load(codes + wide * (K // 4) + k[None, :], known, other=0)
    scale = absmax + wide * (K // 64) + group[None, :]
    scale = tl.load(scale, (group < K // 64)[None, :], other=0.0)
    dtype: tl.constexpr = out.dtype.element_ty
    w0, w1, w2, w3 = _scaled(block, scale, levels, dtype, BN, BK)
    place = out + plane(n, N, PLANES)[:, None].to(tl.int64) * K + k[None, :]
    tl.store(place, w0, known)
    tl.store(place + K // 4, w1, known)
    tl.store(place + K // 2, w2, known)
    tl.store(place + K // 4 * 3, w3, known)
