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

from .lean_linear import Linear, joined
from .prefixes import KeysAndValues

if TYPE_CHECKING:
    from .network import TransformersNetwork

__all__ = ["LeanCache", "LeanLlama"]

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
    inner: int

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
    """Keys and values ``[1, kv_heads, capacity, size]`` per layer, ``length`` of them in use."""

    __slots__ = ("keys", "length", "values")

    def __init__(self, keys: list[Any], values: list[Any], length: int) -> None:
        self.keys, self.values, self.length = keys, values, length

    def reserve(self, length: int) -> None:
        """Make room for ``length`` tokens."""
        if length <= self.keys[0].shape[2]:
            return
        room = -(-length // _BLOCK) * _BLOCK
        for buffers in (self.keys, self.values):
            for index, old in enumerate(buffers):
                buffers[index] = old.new_empty(1, old.shape[1], room, old.shape[3])
                buffers[index][:, :, : self.length] = old[:, :, : self.length]


class LeanLlama:
    """One model's lean forward; ``Network`` of the decoder."""

    croppable = True

    def __init__(self, model: Any) -> None:
        """``model``: one that ``_fits``. Its whole weights become views of joined ones."""
        config, body = model.config, model.model
        attention = body.layers[0].self_attn
        size = int(attention.head_dim)
        self._shape = _Shape(
            config.num_attention_heads, config.num_key_value_heads, size, config.intermediate_size
        )
        self._eps = float(config.rms_norm_eps)
        self._embedding = body.embed_tokens.weight
        self._norm = body.norm.weight
        self._head = joined([model.lm_head])
        self._rotary = body.rotary_emb
        self._cos = self._sin = self._embedding.new_empty(0, 1, size)
        self._layers = [_layer(layer, self._shape) for layer in body.layers]

    @classmethod
    def of(cls, model: Any, own: TransformersNetwork) -> LeanLlama | None:
        """The lean forward, or None where the model's own is the right one.

        Proves itself on a few tokens; ``own`` gives what they should come to.
        """
        import torch

        if not _fits(model):
            return None
        try:
            with torch.inference_mode():
                # First the model's own: bitsandbytes lays 4-bit weights out in a first forward.
                expected, _ = own.step(_PROOF, own.new_cache([]))
                lean = cls(model)
                _, cache = lean.step(_PROOF[:-1], lean.new_cache([]))
                logits, _ = lean.step(_PROOF[-1:], cache)
                limit = (0.05 if logits.dtype.itemsize < 4 else 1e-3) * float(expected.abs().max())
                close = float((logits - expected).abs().max()) <= limit
        except Exception as error:  # an architecture that only looked familiar
            logger.debug("no lean forward for %s: %r", type(model).__name__, error)
            return None
        if not close:
            logger.debug("no lean forward for %s: other logits", type(model).__name__)
        return lean if close else None

    def new_cache(self, layers: KeysAndValues) -> LeanCache:
        shape, weight = self._shape, self._embedding
        length = layers[0][0].shape[2] if layers else 0
        size = (1, shape.kv_heads, length // _BLOCK * _BLOCK + _BLOCK, shape.size)
        keys = [weight.new_empty(size) for _ in self._layers]
        values = [weight.new_empty(size) for _ in self._layers]
        for own_keys, own_values, (kept_keys, kept_values) in zip(
            keys, values, layers, strict=False
        ):
            own_keys[:, :, :length] = kept_keys
            own_values[:, :, :length] = kept_values
        return LeanCache(keys, values, length)

    def layers_of(self, cache: LeanCache) -> KeysAndValues:
        end = cache.length
        return [
            (keys[:, :, :end], values[:, :, :end])
            for keys, values in zip(cache.keys, cache.values, strict=True)
        ]

    def step(self, tokens: Sequence[int], cache: LeanCache) -> tuple[Any, LeanCache]:
        import torch

        start, end = cache.length, cache.length + len(tokens)
        cache.reserve(end)
        cos, sin = self._angles(start, end)
        mask = None
        if start and len(tokens) > 1:
            mask = torch.ones(len(tokens), end, dtype=torch.bool).tril_(start)
        hidden = torch.nn.functional.embedding(torch.tensor(tokens), self._embedding)
        for index, layer in enumerate(self._layers):
            keys = cache.keys[index].narrow(2, 0, end)
            values = cache.values[index].narrow(2, 0, end)
            normed = self._normed(hidden, layer.before_attention)
            hidden.add_(self._attend(layer, normed, cos, sin, keys, values, mask))
            normed = self._normed(hidden, layer.before_mlp)
            gate_up = layer.gate_up(normed)
            inner = self._shape.inner
            gate = torch.nn.functional.silu(gate_up.narrow(1, 0, inner))
            hidden.add_(layer.down(gate.mul_(gate_up.narrow(1, inner, inner))))
        cache.length = end
        return self._head(self._normed(hidden[-1:], self._norm))[0], cache

    def _attend(
        self, layer: _Layer, normed: Any, cos: Any, sin: Any, keys: Any, values: Any, mask: Any
    ) -> Any:
        """``[rows, hidden]`` after attention; writes the rows' keys and values to their places."""
        import torch

        shape, rows, total = self._shape, normed.shape[0], keys.shape[2]
        rotated_heads = shape.heads + shape.kv_heads
        heads = layer.qkv(normed).view(rows, rotated_heads + shape.kv_heads, shape.size)
        query_key = heads.narrow(1, 0, rotated_heads)
        if layer.head_norm is not None:
            query_key = self._normed(query_key, layer.head_norm)
        turned = query_key.roll(shape.size // 2, -1).mul_(sin)
        query_key = (query_key * cos).add_(turned)
        written = query_key.narrow(1, shape.heads, shape.kv_heads)
        keys.narrow(2, total - rows, rows).copy_(written.transpose(0, 1))
        written = heads.narrow(1, rotated_heads, shape.kv_heads)
        values.narrow(2, total - rows, rows).copy_(written.transpose(0, 1))
        query = query_key.narrow(1, 0, shape.heads)
        attention = torch.nn.functional.scaled_dot_product_attention
        if rows == 1:
            # The heads of a group are rows of one query: nothing to repeat, nothing to mask.
            grouped = query.view(1, shape.kv_heads, shape.groups, shape.size)
            mixed = attention(grouped, keys, values)
        else:
            mixed = attention(
                query.transpose(0, 1).unsqueeze(0),
                _repeated(keys, shape.groups),
                _repeated(values, shape.groups),
                attn_mask=mask,
                is_causal=mask is None,
            ).transpose(1, 2)
        return layer.out(mixed.reshape(rows, shape.heads * shape.size))

    def _normed(self, hidden: Any, weight: Any) -> Any:
        wide = hidden.float()
        scale = wide.pow(2).mean(-1, keepdim=True).add_(self._eps).rsqrt_()
        return (wide * scale).to(hidden.dtype).mul_(weight)

    def _angles(self, start: int, end: int) -> tuple[Any, Any]:
        """Cosine and sine ``[rows, 1, size]``; the sine's sign is that of the turned half."""
        if end > self._cos.shape[0]:
            import torch

            positions = torch.arange(-(-end // _BLOCK) * _BLOCK)[None]
            cos, sin = self._rotary(self._embedding, positions)
            sin = sin[0].clone()
            sin[:, : self._shape.size // 2].neg_()
            self._cos, self._sin = cos[0][:, None], sin[:, None]
        return self._cos[start:end], self._sin[start:end]


def _layer(layer: Any, shape: _Shape) -> _Layer:
    import torch

    attention, mlp = layer.self_attn, layer.mlp
    head_norm = None
    if hasattr(attention, "q_norm"):
        query = attention.q_norm.weight.expand(shape.heads, -1)
        key = attention.k_norm.weight.expand(shape.kv_heads, -1)
        head_norm = torch.cat([query, key])
    return _Layer(
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        joined([attention.q_proj, attention.k_proj, attention.v_proj]),
        joined([attention.o_proj]),
        joined([mlp.gate_proj, mlp.up_proj]),
        joined([mlp.down_proj]),
        head_norm,
    )


def _repeated(heads: Any, groups: int) -> Any:
    """Each of ``[1, kv_heads, ...]`` ``groups`` times, as queries are ordered."""
    if groups == 1:
        return heads
    batch, count, length, size = heads.shape
    return heads.unsqueeze(2).expand(batch, count, groups, length, size).flatten(1, 2)


def _fits(model: Any) -> bool:
    """Whether this is a plain model of a known class, on a CPU, without unusual features."""
    kind, config = type(model), model.config
    if kind.__name__ not in _CLASSES or not kind.__module__.startswith("transformers.models."):
        return False
    if model.device.type != "cpu" or getattr(model, "hf_device_map", None) not in (
        None,
        {"": "cpu"},
    ):
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
