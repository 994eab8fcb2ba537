"""A Llama's forward as the few operations it is, for CPUs.

transformers' forward costs a small model 5-10 ms a token on a CPU in Python and dispatch, many
times its arithmetic. This runs the same operations in the same order on the model's own
weights, with keys and values in buffers that grow by blocks. ``LeanLlama.of`` takes a model
only if its architecture is known exactly and the logits agree with the model's own forward.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .adapter_stack import Adapted, Stack
from .adapters import Adapter, Adapters
from .lean_linear import FourBitLayout, Linear, joined, packed_head
from .prefixes import KeysAndValues

if TYPE_CHECKING:
    from .network import TransformersNetwork

__all__ = ["LeanCache", "LeanLlama", "is_plain_llama"]

logger = logging.getLogger("slm_adapters.load")

#: Exact classes whose forward is the one below.
_CLASSES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
#: Rotary types whose angles depend on the position alone, not on the length so far.
_ROTARY = {"default", "linear", "llama3", "yarn"}
#: Positions by which keys, values and rotary angles grow.
_BLOCK = 256
_PROOF = (1, 5, 2, 7, 3, 4)


@dataclass(frozen=True, slots=True)
class _Shape:
    heads: int
    kv_heads: int
    size: int

    @property
    def groups(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: Any
    before_mlp: Any
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    #: Norm weights of query and key heads [heads + kv_heads, size] (Qwen3), or None.
    head_norm: Any


class LeanCache:
    """Keys and values ``[2, 1, kv_heads, capacity, size]`` per layer, ``length`` in use."""

    __slots__ = ("adapter", "layers", "length")

    def __init__(self, layers: list[Any], adapter: Adapter | None = None) -> None:
        self.layers, self.adapter, self.length = layers, adapter, 0

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens."""
        two, one, heads, capacity, size = self.layers[0].shape
        if length <= capacity:
            return
        room = -(-length // _BLOCK) * _BLOCK
        for index, old in enumerate(self.layers):
            new = old.new_empty(two, one, heads, room, size)
            new[..., : self.length, :] = old[..., : self.length, :]
            self.layers[index] = new


class LeanLlama:
    """One model's lean forward; ``Network`` of the decoder."""

    croppable = resumable = True
    rows = 32

    def __init__(
        self,
        model: Any,
        adapters: Adapters | None = None,
        four_bit: FourBitLayout | None = None,
    ) -> None:
        """``model``: a plain Llama; its whole weights are laid out anew, in place."""
        config, body = model.config, model.model
        attention = body.layers[0].self_attn
        size = int(attention.head_dim)
        self._shape = _Shape(config.num_attention_heads, config.num_key_value_heads, size)
        self._eps = float(config.rms_norm_eps)
        self._embedding = body.embed_tokens.weight
        self._norm = body.norm.weight
        self._adapters, self._stack = adapters, Stack()
        self._four_bit = four_bit
        head = ("lm_head", model.lm_head.out_features)
        self._head = Adapted(packed_head(model), [head], self._stack)
        self._rotary = body.rotary_emb
        self._cos = self._sin = self._embedding.new_empty(0, 1, size)
        self._layers = [
            _layer(layer, f"model.layers.{number}", self._shape, self._stack, four_bit)
            for number, layer in enumerate(body.layers)
        ]

    @classmethod
    def of(
        cls, model: Any, own: TransformersNetwork, adapters: Adapters | None = None
    ) -> LeanLlama | None:
        """The lean forward, or None where the model's own is the right one.

        Proves itself on a few tokens; ``own`` gives what they should come to.
        """
        import torch

        if not is_plain_llama(model, "cpu"):
            return None
        try:
            with torch.inference_mode():
                four_bit = FourBitLayout(model)
                # First the model's own: bitsandbytes lays 4-bit weights out in a first forward.
                expected = own.step(_PROOF, own.new_cache([]))
                lean = cls(model, adapters, four_bit)
                caches = [lean.new_cache([]) for _ in range(2)]
                for cache in caches:
                    lean.step(_PROOF[:-1], cache)
                logits = lean.decode(_PROOF[-1:] * 2, caches)
                limit = (0.05 if logits.dtype.itemsize < 4 else 1e-3) * float(expected.abs().max())
                close = float((logits - expected).abs().max()) <= limit
        except Exception as error:  # an architecture that only looked familiar
            logger.debug("no lean forward for %s: %r", type(model).__name__, error)
            return None
        if not close:
            logger.debug("no lean forward for %s: other logits", type(model).__name__)
        return lean if close else None

    @property
    def kept_bytes(self) -> int:
        """What it holds besides the model's own weights."""
        return self._four_bit.kept_bytes if self._four_bit is not None else 0

    def new_cache(self, layers: KeysAndValues, adapter: str | None = None) -> LeanCache:
        shape, weight = self._shape, self._embedding
        size = (2, 1, shape.kv_heads, _BLOCK, shape.size)
        used = self._adapters.find(adapter) if adapter and self._adapters else None
        cache = LeanCache([weight.new_empty(size) for _ in self._layers], used)
        if layers:
            length = layers[0][0].shape[2]
            cache.reserve(length + 1)
            for own, (keys, values) in zip(cache.layers, layers, strict=True):
                own[0, ..., :length, :] = keys
                own[1, ..., :length, :] = values
            cache.length = length
        return cache

    def layers_of(self, cache: LeanCache) -> KeysAndValues:
        used = (layer[..., : cache.length, :] for layer in cache.layers)
        return [(layer[0], layer[1]) for layer in used]

    def release(self, cache: LeanCache) -> None:
        """The tensors go with the cache."""

    def step(self, tokens: Sequence[int], cache: LeanCache) -> Any:
        import torch

        silu = torch.nn.functional.silu
        self._stack.choose([cache.adapter])
        start, end = cache.length, cache.length + len(tokens)
        cache.reserve(end)
        cos, sin = self._angles(start, end)
        mask = None
        if start and len(tokens) > 1:
            mask = torch.ones(len(tokens), end, dtype=torch.bool).tril_(start)
        hidden = torch.nn.functional.embedding(torch.tensor(tokens), self._embedding)
        final = self._layers[-1]
        for layer, buffer in zip(self._layers, cache.layers, strict=True):
            normed = self._normed(hidden, layer.before_attention)
            used = buffer.narrow(3, 0, end)
            if layer is final:
                # Of the last layer only the last row is asked for, besides keys and values.
                hidden, mask = hidden[-1:], None
            mixed = self._attend(layer, normed, cos, sin, used, mask, hidden.shape[0])
            hidden.add_(layer.out(mixed))
            normed = self._normed(hidden, layer.before_mlp)
            gate, up = layer.gate_up(normed).chunk(2, 1)
            hidden.add_(layer.down(silu(gate).mul_(up)))
        cache.length = end
        return self._head(self._normed(hidden, self._norm))[0]

    def decode(self, tokens: Sequence[int], caches: Sequence[LeanCache]) -> Any:
        """Linear layers over all rows at once, attention a sequence at a time."""
        import torch

        if len(tokens) == 1:
            return self.step(tokens, caches[0])[None]
        silu = torch.nn.functional.silu
        self._stack.choose([cache.adapter for cache in caches])
        for cache in caches:
            cache.reserve(cache.length + 1)
        cos, sin = self._angles_at([cache.length for cache in caches])
        hidden = torch.nn.functional.embedding(torch.tensor(tokens), self._embedding)
        for number, layer in enumerate(self._layers):
            used = [c.layers[number].narrow(3, 0, c.length + 1) for c in caches]
            normed = self._normed(hidden, layer.before_attention)
            hidden.add_(layer.out(self._attend_each(layer, normed, cos, sin, used)))
            normed = self._normed(hidden, layer.before_mlp)
            gate, up = layer.gate_up(normed).chunk(2, 1)
            hidden.add_(layer.down(silu(gate).mul_(up)))
        for cache in caches:
            cache.length += 1
        return self._head(self._normed(hidden, self._norm))

    def _attend_each(
        self, layer: _Layer, normed: Any, cos: Any, sin: Any, used: Sequence[Any]
    ) -> Any:
        """``[n, heads * size]``; row i's keys and values go to the end of ``used[i]``."""
        import torch

        shape = self._shape
        query, new = self._heads(layer, normed, cos, sin)
        query = query.reshape(len(used), shape.kv_heads, -1, shape.size)
        new = new.unsqueeze(2)
        mixed = torch.empty_like(query)
        attention = torch.nn.functional.scaled_dot_product_attention
        for row, buffer in enumerate(used):
            buffer.select(3, buffer.shape[3] - 1).copy_(new[row])
            keys, values = buffer.unbind(0)
            mixed[row] = attention(query[row : row + 1], keys, values)[0]
        return mixed.view(len(used), -1)

    def _heads(self, layer: _Layer, normed: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
        """Turned query heads ``[rows, heads, size]``; new keys, values ``[rows, 2, kv, size]``."""
        shape, rows = self._shape, normed.shape[0]
        heads = layer.qkv(normed).view(rows, -1, shape.size)
        turning = heads.narrow(1, 0, shape.heads + shape.kv_heads)
        if layer.head_norm is not None:
            turning.copy_(self._normed(turning, layer.head_norm))
        turned = turning.roll(shape.size // 2, -1).mul_(sin)
        turning.mul_(cos).add_(turned)
        new = heads.narrow(1, shape.heads, 2 * shape.kv_heads)
        return heads.narrow(1, 0, shape.heads), new.view(rows, 2, shape.kv_heads, shape.size)

    def _attend(
        self, layer: _Layer, normed: Any, cos: Any, sin: Any, used: Any, mask: Any, asked: int
    ) -> Any:
        """``[asked, heads * size]``, the last ``asked`` rows, all of them or one.

        Writes the keys and values of every row to the end of ``used``.
        """
        import torch

        shape, rows = self._shape, normed.shape[0]
        query, new = self._heads(layer, normed, cos, sin)
        used.narrow(3, used.shape[3] - rows, rows).copy_(new.unsqueeze(2).permute(1, 2, 3, 0, 4))
        keys, values = used.unbind(0)
        query = query.narrow(0, rows - asked, asked)
        attention = torch.nn.functional.scaled_dot_product_attention
        if asked == 1:
            # The heads of a group are rows of one query: nothing to repeat, nothing to mask.
            mixed = attention(query.reshape(1, shape.kv_heads, -1, shape.size), keys, values)
        else:
            mixed = attention(
                query.transpose(0, 1).unsqueeze(0),
                _repeated(keys, shape.groups),
                _repeated(values, shape.groups),
                attn_mask=mask,
                is_causal=mask is None,
            ).transpose(1, 2)
        return mixed.reshape(asked, -1)

    def _normed(self, hidden: Any, weight: Any) -> Any:
        import torch

        # The weight is applied after rounding, as the model does.
        wide = hidden.float()
        if hidden.dim() == 2 and hidden.shape[0] == 1:
            row = wide[0]
            scale = (float(row.dot(row)) / row.shape[0] + self._eps) ** -0.5
            return hidden.mul(scale).mul_(weight)
        wide = torch.nn.functional.rms_norm(wide, hidden.shape[-1:], None, self._eps)
        return wide.to(hidden.dtype).mul_(weight)

    def _angles(self, start: int, end: int) -> tuple[Any, Any]:
        """Cosine and sine ``[rows, 1, size]``; the sine's sign is that of the turned half."""
        self._reach(end)
        return self._cos[start:end], self._sin[start:end]

    def _angles_at(self, positions: Sequence[int]) -> tuple[Any, Any]:
        self._reach(max(positions) + 1)
        at = list(positions)
        return self._cos[at], self._sin[at]

    def _reach(self, end: int) -> None:
        if end > self._cos.shape[0]:
            import torch

            positions = torch.arange(-(-end // _BLOCK) * _BLOCK)[None]
            cos, sin = self._rotary(self._embedding, positions)
            sin = sin[0].clone()
            sin[:, : self._shape.size // 2].neg_()
            self._cos, self._sin = cos[0][:, None], sin[:, None]


def _layer(
    layer: Any, name: str, shape: _Shape, stack: Stack, four_bit: FourBitLayout | None
) -> _Layer:
    import torch

    def linear(block: str, *names: str) -> Adapted:
        parent = getattr(layer, block)
        parts = [(f"{name}.{block}.{own}", getattr(parent, own).out_features) for own in names]
        return Adapted(joined(parent, names, four_bit), parts, stack)

    attention = layer.self_attn
    head_norm = None
    if hasattr(attention, "q_norm"):
        query = attention.q_norm.weight.expand(shape.heads, -1)
        key = attention.k_norm.weight.expand(shape.kv_heads, -1)
        head_norm = torch.cat([query, key])
    return _Layer(
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        linear("self_attn", "q_proj", "k_proj", "v_proj"),
        linear("self_attn", "o_proj"),
        linear("mlp", "gate_proj", "up_proj"),
        linear("mlp", "down_proj"),
        head_norm,
    )


def _repeated(heads: Any, groups: int) -> Any:
    """Each of ``[1, kv_heads, ...]`` ``groups`` times, as queries are ordered."""
    if groups == 1:
        return heads
    batch, count, length, size = heads.shape
    return heads.unsqueeze(2).expand(batch, count, groups, length, size).flatten(1, 2)


def is_plain_llama(model: Any, device: str) -> bool:
    """Whether this is a model of a known class without unusual features, all on one ``device``.

    ``device``: its type, as in ``torch.device``.
    """
    kind, config = type(model), model.config
    if kind.__name__ not in _CLASSES or not kind.__module__.startswith("transformers.models."):
        return False
    places = {str(p) for p in (getattr(model, "hf_device_map", None) or {"": device}).values()}
    if model.device.type != device or len(places) > 1:
        return False
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        config.hidden_act == "silu"
        and rotary in _ROTARY
        and set(layers) == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or "layer_types" in config.to_dict())
        and config.get_text_config() is config
        and model.model.embed_tokens.weight.dtype == model.dtype
    )
