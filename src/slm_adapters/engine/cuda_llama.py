"""A Llama's forward on a CUDA GPU: few kernels, launched as one graph, over any sequences.

transformers' forward leaves a GPU idle while Python launches hundreds of kernels a token. Here
a step is about six kernels a layer, captured once a batch size. Each sequence has keys and
values of its own; the graph reads their addresses and lengths from the device, so it serves any.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .adapters import Adapter, Adapters
from .cuda_adapters import AdapterTable
from .cuda_graphs import Graphs
from .lean_llama import is_plain_llama
from .prefixes import KeysAndValues

if TYPE_CHECKING:
    from .cuda_linear import Linear
    from .network import TransformersNetwork

__all__ = ["CudaCache", "CudaLlama"]

logger = logging.getLogger("slm_adapters.load")

#: Batch sizes with a graph of their own.
_BATCHES = (1, 4, 16, 32)
#: Sizes of a piece of a prompt; the rows in between are computed for nothing.
_PIECES = (16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024)
#: Positions by which a sequence's memory grows.
_BLOCK = 256
#: Pieces of a sequence's keys that are attended to side by side, by batch size.
_SPLITS = {1: 16, 4: 8, 16: 4, 32: 4}
#: The modules of each joint layer, as numbers in ``cuda_adapters.MODULES``.
_MODULES = {"qkv": (0, 1, 2), "out": (3,), "gate_up": (4, 5), "down": (6,)}
#: Positions at most, for models that claim more than fits in memory.
_WINDOW = 1 << 18
_PROOF = (1, 5, 2, 7, 3, 4)


@dataclass(frozen=True, slots=True)
class _Shape:
    layers: int
    heads: int
    kv_heads: int
    size: int
    hidden: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, size: int) -> _Shape:
        return cls(
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            size,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
        )

    @property
    def groups(self) -> int:
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        """Of attention scores, for powers of two."""
        return float(self.size**-0.5 * math.log2(math.e))


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    #: Norm weights of a query's and a key's head (Qwen3), or None.
    query_norm: Any
    key_norm: Any


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
        room = -(-length // _BLOCK) * _BLOCK
        new = old.new_empty((*old.shape[:3], room, old.shape[4]))
        new[..., : self.length, :] = old[..., : self.length, :]
        self.buffer = new

    def row(self, first: int) -> list[int]:
        """What the kernels know of it; ``first``: a token, or how many."""
        return [first, self.length, self.buffer.data_ptr(), self.buffer.shape[3]]


class CudaLlama:
    """One model's forward; ``Network`` of the decoder."""

    croppable = resumable = True
    rows = _BATCHES[-1]

    def __init__(self, model: Any, adapters: Adapters | None = None) -> None:
        """``model``: a plain Llama; its weights are laid out anew, in place."""
        import torch

        from .cuda_linear import Launcher, ceiling

        config, body = model.config, model.model
        shape = self._shape = _Shape.of(config, int(body.layers[0].self_attn.head_dim))
        embedding = self._embedding = body.embed_tokens.weight
        self._eps = float(config.rms_norm_eps)
        longest = _PIECES[-1]
        width = (shape.heads + 2 * shape.kv_heads) * shape.size
        mixed = shape.heads * shape.size
        largest = shape.hidden * max(width, shape.inner, mixed)
        self._launcher = Launcher.of(
            embedding, self._eps, longest, shape.hidden, shape.inner, largest
        )
        self._layers = [_layer(layer, self._launcher) for layer in body.layers]
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
        self._cos, self._sin = _angles(model, shape.size)
        self._graphs = Graphs(embedding.device)
        self._adapters = adapters
        self._table = AdapterTable(
            embedding, shape.layers, self.rows, max(width, shape.hidden, 2 * shape.inner)
        )

    def _set_order(self) -> None:
        from .cuda_linear import planes

        if any(
            linear.planes != self._planes
            for layer in self._layers
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)
        ):
            raise TypeError("some layers are quantized and some are not")
        if self._planes:
            self._norm = planes(self._norm)

    @classmethod
    def of(
        cls, model: Any, own: TransformersNetwork, adapters: Adapters | None = None
    ) -> CudaLlama | None:
        """This forward, or None where the model's own is the right one.

        Proves itself on a few tokens; ``own`` gives what they should come to.
        """
        if not _fits(model):
            return None
        # In a thread that ends: what cuBLAS allots to a thread goes to the next, the worker.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(cls._proved, model, own, adapters).result()

    @classmethod
    def _proved(
        cls, model: Any, own: TransformersNetwork, adapters: Adapters | None
    ) -> CudaLlama | None:
        import torch

        try:
            with torch.inference_mode(), torch.cuda.device(model.device):
                expected = own.step(_PROOF, own.new_cache([])).clone()
                network = cls(model, adapters)
                network._compile()
                results = network._prove()
                distances = [(r - expected).float().norm() for r in results]
                # Random weights, many layers and 16 bits come to 0.05; a mistake to 1.
                close = float(max(distances)) <= 0.1 * float(expected.float().norm())
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # an architecture that only looked familiar
            logger.debug("no CUDA forward for %s: %r", type(model).__name__, error)
            return None
        if not close:
            logger.debug(
                "no CUDA forward for %s: other logits (%s)", type(model).__name__, distances
            )
        return network if close else None

    def _compile(self) -> None:
        """Compile side by side, once a machine, what the first replies need."""
        import triton

        mode = getattr(triton, "AsyncCompileMode", None)  # Triton 3.4
        if mode is None:
            return
        self._launcher.ahead = True
        try:
            with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool, mode(pool):
                for batch in _BATCHES:
                    self._launch_step(batch)
                for rows in (16, 32, 64, 128):
                    self._launch_prompt(rows)
        finally:
            self._launcher.ahead = False

    def _prove(self) -> list[Any]:
        """The proof's last logits: as a prompt, as a step run, captured, and as one of two."""
        results = [self.step(_PROOF, self.new_cache([])).clone()]
        for batch in (1, 1, 2):
            caches = [self.new_cache([]) for _ in range(batch)]
            for cache in caches:
                self.step(_PROOF[:-1], cache)
            results += self.decode(_PROOF[-1:] * batch, caches).clone().unbind()
        return results

    # --- sequences ---------------------------------------------------------------------------

    def _buffer(self, capacity: int) -> Any:
        shape, weight = self._shape, self._embedding
        return weight.new_empty(2, shape.layers, shape.kv_heads, capacity, shape.size)

    def new_cache(self, layers: KeysAndValues, adapter: str | None = None) -> CudaCache:
        used = self._adapters.find(adapter) if adapter and self._adapters else None
        self._table.slot(used)
        if not layers:
            return CudaCache(self._buffer(_BLOCK), used)
        # One pair: the layers are the first dimension.
        [(keys, values)] = layers
        length = keys.shape[2]
        cache = CudaCache(self._buffer((length // _BLOCK + 1) * _BLOCK), used)
        cache.buffer[0, ..., :length, :] = keys
        cache.buffer[1, ..., :length, :] = values
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
        self._graphs.run(("prompt", rows, serial), lambda: self._launch_prompt(rows, adapter))
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
        self._graphs.run(
            ("step", batch, adapted), lambda: self._launch_step(batch, adapted=adapted)
        )
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
        from .cuda_linear import ceiling
        from .kernels.steps import embed_kernel

        hidden = self._shape.hidden
        self._launcher.launch(
            embed_kernel, (rows,), tokens, stride, self._embedding, self._x,
            WIDTH=hidden, BLOCK=ceiling(hidden), PLANES=self._planes,
        )  # fmt: skip

    def _finish(self, rows: int, logits: Any, *, last: bool) -> None:
        """Logits of all rows, or of a prompt's last one."""
        import torch

        from .cuda_linear import ceiling
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
        from .cuda_linear import ceiling
        from .kernels.attention import attend_prompt_kernel, place_prompt_kernel

        shape, launcher = self._shape, self._launcher
        block = min(rows, 64)

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
                BM=block, BT=64, PLANES=self._planes, num_warps=4,
            )  # fmt: skip
            run("out", self._mixed, self._x)
            run("gate_up", self._x, self._inner)
            run("down", self._inner, self._x)
        self._finish(1, self._prompt_logits, last=True)

    def _head_norms(self, layer: _Layer) -> tuple[Any, Any]:
        if layer.query_norm is None:
            return self._norm, self._norm
        return layer.query_norm, layer.key_norm


def _layer(layer: Any, launcher: Any) -> _Layer:
    from .cuda_linear import ADD, GATE, PLAIN, linear

    attention, mlp = layer.self_attn, layer.mlp
    norm, norm2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    own = hasattr(attention, "q_norm")
    return _Layer(
        linear(attention, ["q_proj", "k_proj", "v_proj"], PLAIN, norm, launcher),
        linear(attention, ["o_proj"], ADD, None, launcher),
        linear(mlp, ["gate_proj", "up_proj"], GATE, norm2, launcher),
        linear(mlp, ["down_proj"], ADD, None, launcher),
        attention.q_norm.weight if own else None,
        attention.k_norm.weight if own else None,
    )


def _angles(model: Any, size: int) -> tuple[Any, Any]:
    """Cosine and sine of the rotary angles ``[window, size / 2]``."""
    import torch

    window = min(int(getattr(model.config, "max_position_embeddings", 0) or 4096), _WINDOW)
    weight = model.model.embed_tokens.weight
    positions = torch.arange(window, device=weight.device)[None]
    cos, sin = model.model.rotary_emb(weight, positions)
    return cos[0, :, : size // 2].contiguous(), sin[0, :, : size // 2].contiguous()


def _fits(model: Any) -> bool:
    """Whether this is a plain model of a known class, whole on a GPU that the kernels know."""
    import torch

    if not is_plain_llama(model, "cuda") or importlib.util.find_spec("triton") is None:
        return False
    size = int(model.model.layers[0].self_attn.head_dim)
    return (
        torch.cuda.get_device_capability(model.device) >= (8, 0)
        and model.dtype in (torch.bfloat16, torch.float16)
        and size in (32, 64, 128, 256)
        and model.config.num_attention_heads // model.config.num_key_value_heads <= 64
        and model.config.hidden_size % 64 == 0
    )
