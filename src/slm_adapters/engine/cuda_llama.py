"""A Llama's forward on a CUDA GPU: few kernels, launched as one graph, over any sequences.

transformers' forward leaves a GPU idle while Python launches hundreds of kernels a token. Here
a step is about six kernels a layer, captured once a batch size. Each sequence has keys and
values of its own; the graph reads their addresses and lengths from the device, so it serves any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .adapters import Adapter, Adapters
from .cuda_adapters import AdapterTable
from .cuda_cache import BLOCK, CudaCache
from .cuda_graphs import Graphs
from .cuda_layers import Layer, Shape, angles, layer_of
from .prefixes import KeysAndValues

__all__ = ["CudaLlama"]

#: Batch sizes with a graph of their own.
_BATCHES = (1, 4, 16, 32)
#: Sizes of a piece of a prompt; the rows in between are computed for nothing.
_PIECES = (16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024)
#: Pieces of a sequence's keys that are attended to side by side, by batch size.
_SPLITS = {1: 16, 4: 8, 16: 4, 32: 4}
#: The modules of each joint layer, as numbers in ``cuda_adapters.MODULES``.
_MODULES = {"qkv": (0, 1, 2), "out": (3,), "gate_up": (4, 5), "down": (6,)}
#: What is compiled ahead for prompts: longer ones use the kernels of the last.
_COMPILED_PIECES = (16, 32, 64, 128, 256)


class CudaLlama:
    """One model's forward; ``Network`` of the decoder."""

    croppable = resumable = True
    rows = _BATCHES[-1]

    def __init__(self, model: Any, adapters: Adapters | None = None) -> None:
        """``model``: a plain Llama; its weights are laid out anew, in place."""
        import torch

        from .cuda_launch import Launcher, ceiling

        config, body = model.config, model.model
        shape = self._shape = Shape.of(config, int(body.layers[0].self_attn.head_dim))
        embedding = self._embedding = body.embed_tokens.weight
        self._eps = float(config.rms_norm_eps)
        longest = _PIECES[-1]
        width = (shape.heads + 2 * shape.kv_heads) * shape.size
        mixed = shape.heads * shape.size
        largest = shape.hidden * max(width, shape.inner, mixed)
        self._launcher = Launcher.of(
            embedding, self._eps, longest, shape.hidden, shape.inner, largest
        )
        self._layers = [layer_of(layer, self._launcher) for layer in body.layers]
        self._planes = self._layers[0].qkv.planes
        self._norm = body.norm.weight
        if type(model.lm_head) is not torch.nn.Linear:
            raise TypeError(f"no CUDA form of {type(model.lm_head).__name__} as a head")
        self._head = model.lm_head.weight
        self._head_bias = model.lm_head.bias
        self._set_order()

        def room(*size: int, dtype: Any = embedding.dtype) -> Any:
            return torch.zeros(size, dtype=dtype, device=embedding.device)

        self._x = room(longest, shape.hidden)
        self._qkv = room(longest, width)
        self._mixed = room(longest, mixed)
        self._inner = room(longest, shape.inner)
        self._last = room(self.rows, shape.hidden)
        self._logits = room(self.rows, shape.vocabulary)
        self._prompt_logits = room(1, shape.vocabulary)
        self._best = room(self.rows, dtype=torch.int64)
        #: Of the running replies, then of a prompt with its tokens: see ``kernels.attention``.
        self._rows = room(self.rows, 4, dtype=torch.int64)
        self._prompt = room(4 + longest, dtype=torch.int64)
        self._group = max(16, ceiling(shape.groups))
        pieces = max(batch * splits for batch, splits in _SPLITS.items())
        size = pieces * shape.kv_heads * self._group * (shape.size + 2)
        self._parts = room(max(size, self.rows * 64 * 2), dtype=torch.float32)
        self._counters = room(self.rows * max(shape.kv_heads, 1), dtype=torch.int32)
        self._idle = CudaCache(self._buffer(16))
        self._cos, self._sin = angles(model, shape.size)
        self.graphs = Graphs(embedding.device)
        self._adapters = adapters
        self._table = AdapterTable(
            embedding, shape.layers, self.rows, max(width, shape.hidden, 2 * shape.inner)
        )

    def _set_order(self) -> None:
        from .cuda_launch import planes

        if any(
            linear.planes != self._planes
            for layer in self._layers
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)
        ):
            raise TypeError("some layers are quantized and some are not")
        if self._planes:
            self._norm = planes(self._norm)

    def compile(self, threads: int) -> None:
        """Compile what most replies need, ``threads`` kernels at a time; once a machine."""
        from .cuda_launch import compiling

        with compiling(threads, self._embedding.device):
            for batch in _BATCHES:
                self._launch_step(batch)
            for rows in _COMPILED_PIECES:
                self._launch_prompt(rows)

    def compile_for_adapters(self) -> None:
        """The same for replies with adapters; the network may be in use meanwhile."""
        from .cuda_launch import compiling

        if not self._planes:
            return  # Of other weights the products are not kernels of ours.
        layer = self._layers[0]
        with compiling(1, self._embedding.device):
            for batch in _BATCHES:
                for name, x, out in (
                    ("qkv", self._x, self._qkv),
                    ("out", self._mixed, self._x),
                    ("gate_up", self._x, self._inner),
                    ("down", self._inner, self._x),
                ):
                    linear = getattr(layer, name)
                    extra = self._table.added(x, linear, 0, _MODULES[name], batch)
                    linear.run(x, out, batch, extra)

    # --- sequences ---------------------------------------------------------------------------

    def _buffer(self, capacity: int) -> Any:
        shape, weight = self._shape, self._embedding
        return weight.new_empty(2, shape.layers, shape.kv_heads, capacity, shape.size)

    def new_cache(self, layers: KeysAndValues, adapter: str | None = None) -> CudaCache:
        used = self._adapters.find(adapter) if adapter and self._adapters else None
        self._table.slot(used)
        if not layers:
            return CudaCache(self._buffer(BLOCK), used)
        # One pair with all layers in the first dimension, as kept here; or one a layer.
        length = layers[0][0].shape[2]
        cache = CudaCache(self._buffer((length // BLOCK + 1) * BLOCK), used)
        for place, kept in zip(cache.buffer, zip(*layers, strict=True), strict=True):
            start = 0
            for part in kept:
                place[start : start + len(part), :, :length] = part
                start += len(part)
        cache.length = length
        return cache

    def layers_of(self, cache: CudaCache) -> KeysAndValues:
        used = cache.buffer[..., : cache.length, :]
        return [(used[0], used[1])]

    def release(self, cache: CudaCache) -> None:
        """The tensors go with the cache."""

    # --- steps -------------------------------------------------------------------------------

    def step(self, tokens: Sequence[int], cache: CudaCache) -> Any:
        longest = _PIECES[-1]
        for start in range(0, len(tokens), longest):
            self._read(tokens[start : start + longest], cache)
        return self._prompt_logits[0]

    def _read(self, tokens: Sequence[int], cache: CudaCache) -> None:
        import torch

        count = len(tokens)
        cache.reserve(cache.length + count)
        self._reach(cache.length + count)
        rows = next(size for size in _PIECES if size >= count)
        values = [*cache.row(count), *tokens, *[0] * (rows - count)]
        self._prompt[: 4 + rows].copy_(torch.tensor(values), non_blocking=True)
        adapter = cache.adapter
        serial = 0 if adapter is None else self._table.serial(adapter)
        self.graphs.run(("prompt", rows, serial), lambda: self._launch_prompt(rows, adapter))
        cache.length += count

    def decode(self, tokens: Sequence[int], caches: Sequence[CudaCache]) -> Any:
        import torch

        for cache in caches:
            cache.reserve(cache.length + 1)
        self._reach(max(cache.length for cache in caches) + 1)
        count = len(tokens)
        batch = next(size for size in _BATCHES if size >= count)
        rows = [cache.row(token) for token, cache in zip(tokens, caches, strict=True)]
        rows += [self._idle.row(0)] * (batch - count)
        self._rows[:batch].copy_(torch.tensor(rows), non_blocking=True)
        adapted = self._table.choose([cache.adapter for cache in caches], batch)
        self.graphs.run(("step", batch, adapted), lambda: self._launch_step(batch, adapted=adapted))
        for cache in caches:
            cache.length += 1
        return self._logits[:count]

    def likeliest(self, count: int) -> list[int]:
        """The ids of the greatest logits of the last ``decode``."""
        return list(self._best[:count].tolist())

    def _reach(self, end: int) -> None:
        if end > self._cos.shape[0]:
            raise ValueError(f"position {end} is beyond the model's window")

    # --- launches ----------------------------------------------------------------------------

    def _embed(self, tokens: Any, stride: int, rows: int) -> None:
        from .cuda_launch import ceiling
        from .kernels.steps import embed_kernel

        hidden = self._shape.hidden
        self._launcher.launch(
            embed_kernel, (rows,), tokens, stride, self._embedding, self._x,
            WIDTH=hidden, BLOCK=ceiling(hidden), PLANES=self._planes,
        )  # fmt: skip

    def _finish(self, rows: int, logits: Any, *, last: bool) -> None:
        """Logits of all rows, or of a prompt's last one."""
        import torch

        from .cuda_launch import ceiling
        from .kernels.steps import norm_kernel

        hidden = self._shape.hidden
        self._launcher.launch(
            norm_kernel, (rows,), self._x, self._prompt, self._norm, self._last, self._eps,
            WIDTH=hidden, BLOCK=ceiling(hidden), LAST=last, UNDO=self._planes,
        )  # fmt: skip
        torch.mm(self._last[:rows], self._head.t(), out=logits[:rows])
        if self._head_bias is not None:
            logits[:rows].add_(self._head_bias)

    def _launch_step(self, batch: int, *, adapted: bool = False) -> None:
        from .kernels.attention import attend_kernel
        from .kernels.steps import likeliest_kernel

        shape, launcher = self._shape, self._launcher

        def run(name: str, x: Any, out: Any) -> None:
            linear, extra = getattr(layer, name), None
            if adapted:
                extra = self._table.added(x, linear, number, _MODULES[name], batch)
            linear.run(x, out, batch, extra)

        self._embed(self._rows, 4, batch)
        for number, layer in enumerate(self._layers):
            run("qkv", self._x, self._qkv)
            launcher.launch(
                attend_kernel, (batch * shape.kv_heads, _SPLITS[batch]),
                self._qkv, self._rows, self._cos, self._sin,
                *self._head_norms(layer), self._parts, self._counters, self._mixed,
                number, self._eps, shape.scale,
                LAYERS=shape.layers, KV=shape.kv_heads, G=shape.groups, D=shape.size,
                BG=self._group, BT=64, SPLIT=_SPLITS[batch],
                NORM=layer.query_norm is not None, PLANES=self._planes,
                PDL=launcher.overlap, num_warps=4, **launcher.options,
            )  # fmt: skip
            run("out", self._mixed, self._x)
            run("gate_up", self._x, self._inner)
            run("down", self._inner, self._x)
        self._finish(batch, self._logits, last=False)
        launcher.launch(
            likeliest_kernel, (batch, 64),
            self._logits, self._parts, self._counters, self._best, self._rows,
            WIDTH=shape.vocabulary, BLOCK=1024, PARTS=64,
        )  # fmt: skip

    def _launch_prompt(self, rows: int, adapter: Adapter | None = None) -> None:
        from .cuda_launch import ceiling
        from .kernels.attention import attend_prompt_kernel, place_prompt_kernel

        shape, launcher = self._shape, self._launcher
        # Short pieces come to too few programs otherwise; measured on an H200.
        block, keys = (16, 128) if rows <= 128 else (64, 64)

        def run(name: str, x: Any, out: Any) -> None:
            linear, extra = getattr(layer, name), None
            if adapter is not None:
                natural = linear.natural(x, rows)
                extra = self._table.added_to_prompt(
                    natural, linear, adapter, number, _MODULES[name]
                )
            linear.run(x, out, rows, extra)

        self._embed(self._prompt[4:], 1, rows)
        for number, layer in enumerate(self._layers):
            run("qkv", self._x, self._qkv)
            launcher.launch(
                place_prompt_kernel, (rows,),
                self._qkv, self._prompt, self._cos, self._sin, *self._head_norms(layer),
                number, self._eps,
                LAYERS=shape.layers, KV=shape.kv_heads, G=shape.groups, D=shape.size,
                BH=ceiling(shape.heads), NORM=layer.query_norm is not None,
            )  # fmt: skip
            launcher.launch(
                attend_prompt_kernel, (rows // block, shape.heads),
                self._qkv, self._prompt, self._mixed, number, shape.scale,
                LAYERS=shape.layers, KV=shape.kv_heads, G=shape.groups, D=shape.size,
                BM=block, BT=keys, PLANES=self._planes, num_warps=4,
            )  # fmt: skip
            run("out", self._mixed, self._x)
            run("gate_up", self._x, self._inner)
            run("down", self._inner, self._x)
        self._finish(1, self._prompt_logits, last=True)

    def _head_norms(self, layer: Layer) -> tuple[Any, Any]:
        if layer.query_norm is None:
            return self._norm, self._norm
        return layer.query_norm, layer.key_norm
