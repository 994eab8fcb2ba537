"""Triton kernels for rotary attention over sequences that each have a buffer of their own.

``rows`` int64 ``[n, 4]`` says of each sequence: a token (or a count of tokens), the position, the
address of its keys and values ``[2, layers, kv heads, capacity, D]`` and the capacity. Because
these are read on the device, a captured kernel serves sequences of any length and place.
``qkv [rows, (heads + 2 kv heads) D]``. ``cos``, ``sin``: ``[positions, D / 2]``. ``scale`` is
that of the scores times log2(e), because a power of two is what the hardware computes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .nf4 import plane

__all__ = ["attend_kernel", "attend_prompt_kernel", "place_prompt_kernel"]


@triton.jit
def _buffer(address, like):
    """A pointer to where a sequence's keys begin; torch aligns memory to more than this."""
    return tl.multiple_of(address.to(tl.pointer_type(like.dtype.element_ty)), 16)


@triton.jit
def _turned(first, second, norm, cos, sin, d, eps, D: tl.constexpr, NORM: tl.constexpr):
    """Both halves of heads ``[n, D / 2]`` after the head's norm (Qwen3) and the rotation."""
    dtype = first.dtype
    wide, wide2 = first.to(tl.float32), second.to(tl.float32)
    if NORM:
        scale = 1.0 / tl.sqrt(tl.sum(wide * wide + wide2 * wide2, 1) / D + eps)
        weight = tl.load(norm + d).to(tl.float32)[None, :]
        weight2 = tl.load(norm + D // 2 + d).to(tl.float32)[None, :]
        # Rounded where the model rounds.
        wide = ((wide * scale[:, None]).to(dtype).to(tl.float32) * weight).to(dtype).to(tl.float32)
        wide2 = (wide2 * scale[:, None]).to(dtype).to(tl.float32)
        wide2 = (wide2 * weight2).to(dtype).to(tl.float32)
    return (wide * cos - wide2 * sin).to(dtype), (wide2 * cos + wide * sin).to(dtype)


@triton.jit(do_not_specialize=["layer"])
def attend_kernel(
    qkv, rows, cos, sin, q_norm, k_norm, parts, counters, out, layer, eps, scale,
    LAYERS: tl.constexpr, KV: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    BG: tl.constexpr, BT: tl.constexpr, SPLIT: tl.constexpr,
    NORM: tl.constexpr, PLANES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One new token of each sequence: write its key and value, attend to all up to it.

    A program has the ``G`` query heads of one key head of one sequence, and one of ``SPLIT``
    pieces of the keys; the last piece to end puts the pieces of ``parts [rows KV, SPLIT, BG,
    D + 2]`` together. ``counters``: zeros before and after. ``out [rows, KV G D]``.
    """
    row, head = tl.program_id(0) // KV, tl.program_id(0) % KV
    split = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    position = tl.load(rows + row * 4 + 1).to(tl.int32)
    address = tl.load(rows + row * 4 + 2)
    capacity = tl.load(rows + row * 4 + 3)
    piece = tl.maximum(tl.cdiv(tl.cdiv(position, BT), SPLIT), 1) * BT
    pieces = tl.maximum(tl.cdiv(position, piece), 1)
    if split < pieces:
        keys = _buffer(address, qkv) + (layer * KV + head) * capacity * D
        values = keys + LAYERS * KV * capacity * D
        g, d = tl.arange(0, BG), tl.arange(0, D // 2)
        both, t = tl.arange(0, D), tl.arange(0, BT)
        width: tl.constexpr = (G + 2) * KV * D
        turn = tl.load(cos + position * (D // 2) + d).to(tl.float32)[None, :]
        turn2 = tl.load(sin + position * (D // 2) + d).to(tl.float32)[None, :]
        if PDL:
            # All above has been there since before the step began.
            tl.extra.cuda.gdc_wait()
        query_at = qkv + row * width + (head * G + g[:, None]) * D + d[None, :]
        real = (g < G)[:, None]
        query, query2 = _turned(
            tl.load(query_at, real, other=0.0), tl.load(query_at + D // 2, real, other=0.0),
            q_norm, turn, turn2, d, eps, D, NORM,
        )  # fmt: skip
        best = tl.full([BG], -float("inf"), tl.float32)
        total = tl.zeros([BG], tl.float32)
        mixed = tl.zeros([BG, D], tl.float32)
        if split == pieces - 1:
            # The new token's own key and value, also for the steps to come.
            one = tl.arange(0, 1)
            key_at = qkv + row * width + (KV * G + head) * D + one[:, None] + d[None, :]
            key, key2 = _turned(
                tl.load(key_at), tl.load(key_at + D // 2), k_norm, turn, turn2, d, eps, D, NORM
            )
            value = tl.load(qkv + row * width + (KV * G + KV + head) * D + both)
            end = position.to(tl.int64) * D
            tl.store(keys + end + one[:, None] + d[None, :], key)
            tl.store(keys + end + D // 2 + one[:, None] + d[None, :], key2)
            tl.store(values + end + both, value)
            match = query.to(tl.float32) * key.to(tl.float32)
            match += query2.to(tl.float32) * key2.to(tl.float32)
            best = tl.sum(match, 1) * scale
            total += 1.0
            mixed += value.to(tl.float32)[None, :]
        for start in range(split * piece, tl.minimum((split + 1) * piece, position), BT):
            at = start + t
            inside = at < position
            key_at = keys + at[None, :].to(tl.int64) * D + d[:, None]
            match = tl.dot(query, tl.load(key_at, inside[None, :], other=0.0))
            match = tl.dot(query2, tl.load(key_at + D // 2, inside[None, :], other=0.0), match)
            match = tl.where(inside[None, :], match * scale, -float("inf"))
            higher = tl.maximum(best, tl.max(match, 1))
            shares = tl.exp2(match - higher[:, None])
            fade = tl.exp2(best - higher)
            total = total * fade + tl.sum(shares, 1)
            value = tl.load(
                values + at[:, None].to(tl.int64) * D + both[None, :], inside[:, None], other=0.0
            )
            mixed = tl.dot(shares.to(value.dtype), value, mixed * fade[:, None])
            best = higher
        element = head * G * D + g[:, None] * D + both[None, :]
        place = out + row * KV * G * D + plane(element, KV * G * D, PLANES)
        if pieces == 1:
            tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), real)
        else:
            size: tl.constexpr = BG * (D + 2)
            mine = parts + (tl.program_id(0) * SPLIT + split) * size
            tl.store(mine + g[:, None] * D + both[None, :], mixed, real)
            tl.store(mine + BG * D + g, best)
            tl.store(mine + BG * D + BG + g, total)
            tl.debug_barrier()
            if tl.atomic_add(counters + tl.program_id(0), 1, sem="acq_rel") == pieces - 1:
                tl.store(counters + tl.program_id(0), 0)
                # In order, whoever is last: the sum must not depend on it.
                best = tl.full([BG], -1e30, tl.float32)
                total = tl.zeros([BG], tl.float32)
                mixed = tl.zeros([BG, D], tl.float32)
                for begin in range(0, pieces, 4):
                    for i in tl.static_range(4):
                        other = begin + i
                        theirs = parts + (tl.program_id(0) * SPLIT + other) * size
                        there = (other < pieces) & (g < G)
                        at = theirs + BG * D + g
                        best2 = tl.load(at, there, other=-1e30, cache_modifier=".cg")
                        total2 = tl.load(at + BG, there, other=0.0, cache_modifier=".cg")
                        at = theirs + g[:, None] * D + both[None, :]
                        mixed2 = tl.load(at, there[:, None], other=0.0, cache_modifier=".cg")
                        higher = tl.maximum(best, best2)
                        fade, fade2 = tl.exp2(best - higher), tl.exp2(best2 - higher)
                        total = total * fade + total2 * fade2
                        mixed = mixed * fade[:, None] + mixed2 * fade2[:, None]
                        best = higher
                tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), real)


@triton.jit(do_not_specialize=["layer"])
def place_prompt_kernel(
    qkv, rows, cos, sin, q_norm, k_norm, layer, eps,
    LAYERS: tl.constexpr, KV: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    BH: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Turn the query heads of a piece of a prompt in place; write its keys and values.

    ``rows [1, 4]``: how many of the rows are real, and where the first of them is.
    """
    row = tl.program_id(0)
    count = tl.load(rows).to(tl.int32)
    if row < count:
        position = tl.load(rows + 1) + row
        capacity = tl.load(rows + 3)
        keys = _buffer(tl.load(rows + 2), qkv) + layer * KV * capacity * D
        values = keys + LAYERS * KV * capacity * D
        h, d = tl.arange(0, BH), tl.arange(0, D // 2)
        heads = qkv + row.to(tl.int64) * ((G + 2) * KV * D)
        turn = tl.load(cos + position * (D // 2) + d).to(tl.float32)[None, :]
        turn2 = tl.load(sin + position * (D // 2) + d).to(tl.float32)[None, :]
        at = heads + h[:, None] * D + d[None, :]
        real = (h < KV * G)[:, None]
        first, second = _turned(
            tl.load(at, real, other=0.0), tl.load(at + D // 2, real, other=0.0),
            q_norm, turn, turn2, d, eps, D, NORM,
        )  # fmt: skip
        tl.store(at, first, real)
        tl.store(at + D // 2, second, real)
        real = (h < KV)[:, None]
        at = heads + (KV * G + h[:, None]) * D + d[None, :]
        to = (h[:, None] * capacity + position) * D + d[None, :]
        first, second = _turned(
            tl.load(at, real, other=0.0), tl.load(at + D // 2, real, other=0.0),
            k_norm, turn, turn2, d, eps, D, NORM,
        )  # fmt: skip
        tl.store(keys + to, first, real)
        tl.store(keys + to + D // 2, second, real)
        tl.store(values + to, tl.load(at + KV * D, real, other=0.0), real)
        at += KV * D + D // 2
        tl.store(values + to + D // 2, tl.load(at, real, other=0.0), real)


@triton.jit(do_not_specialize=["layer"])
def attend_prompt_kernel(
    qkv, rows, out, layer, scale,
    LAYERS: tl.constexpr, KV: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BT: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """Attention of a piece of a prompt, ``BM`` rows and one head a program.

    After ``place_prompt_kernel``: every row attends to all positions up to its own.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    count = tl.load(rows).to(tl.int32)
    if block * BM < count:
        begin = tl.load(rows + 1).to(tl.int32)
        capacity = tl.load(rows + 3)
        keys = _buffer(tl.load(rows + 2), qkv) + (layer * KV + head // G) * capacity * D
        values = keys + LAYERS * KV * capacity * D
        m, d, t = block * BM + tl.arange(0, BM), tl.arange(0, D), tl.arange(0, BT)
        width: tl.constexpr = (G + 2) * KV * D
        inside = (m < count)[:, None]
        query_at = qkv + m[:, None].to(tl.int64) * width + head * D + d[None, :]
        query = tl.load(query_at, inside, other=0.0)
        best = tl.full([BM], -float("inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        mixed = tl.zeros([BM, D], tl.float32)
        # Up to here every row of this block sees every key.
        shared = (begin + block * BM + 1) // BT * BT
        last = begin + tl.minimum((block + 1) * BM, count)
        for start in range(0, shared, BT):
            at = (start + t).to(tl.int64)
            match = tl.dot(query, tl.load(keys + at[None, :] * D + d[:, None])) * scale
            higher = tl.maximum(best, tl.max(match, 1))
            shares, fade = tl.exp2(match - higher[:, None]), tl.exp2(best - higher)
            total = total * fade + tl.sum(shares, 1)
            value = tl.load(values + at[:, None] * D + d[None, :])
            mixed = tl.dot(shares.to(value.dtype), value, mixed * fade[:, None])
            best = higher
        for start in range(shared, last, BT):
            at = (start + t).to(tl.int64)
            known = at < last
            match = tl.dot(
                query, tl.load(keys + at[None, :] * D + d[:, None], known[None, :], other=0.0)
            )
            seen = at[None, :] <= begin + m[:, None]
            match = tl.where(seen, match * scale, -float("inf"))
            higher = tl.maximum(best, tl.max(match, 1))
            # A block's first key may be behind all that a row sees.
            higher = tl.maximum(higher, -1e30)
            shares, fade = tl.exp2(match - higher[:, None]), tl.exp2(best - higher)
            total = total * fade + tl.sum(shares, 1)
            value = tl.load(values + at[:, None] * D + d[None, :], known[:, None], other=0.0)
            mixed = tl.dot(shares.to(value.dtype), value, mixed * fade[:, None])
            best = higher
        element = plane(head * D + d, KV * G * D, PLANES)
        place = out + m[:, None].to(tl.int64) * (KV * G * D) + element[None, :]
        tl.store(place, (mixed / total[:, None]).to(out.dtype.element_ty), inside)
