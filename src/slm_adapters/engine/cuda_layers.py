"""What a Llama is made of in the CUDA forward: its measures, layers and rotary angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cuda_launch import Launcher
    from .cuda_linear import Linear

__all__ = ["Layer", "Shape", "angles", "layer_of"]

#: Positions at most, for models that claim more than fits in memory.
_WINDOW = 1 << 18


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    heads: int
    kv_heads: int
    size: int
    hidden: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, size: int) -> Shape:
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
class Layer:
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    #: Norm weights of a query's and a key's head (Qwen3), or None.
    query_norm: Any
    key_norm: Any


def layer_of(layer: Any, launcher: Launcher) -> Layer:
    """Of one decoder layer of a model; its weights are laid out anew, in place."""
    from .cuda_linear import ADD, GATE, PLAIN, linear

    attention, mlp = layer.self_attn, layer.mlp
    norm, norm2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    own = hasattr(attention, "q_norm")
    return Layer(
        linear(attention, ["q_proj", "k_proj", "v_proj"], PLAIN, norm, launcher),
        linear(attention, ["o_proj"], ADD, None, launcher),
        linear(mlp, ["gate_proj", "up_proj"], GATE, norm2, launcher),
        linear(mlp, ["down_proj"], ADD, None, launcher),
        attention.q_norm.weight if own else None,
        attention.k_norm.weight if own else None,
    )


def angles(model: Any, size: int) -> tuple[Any, Any]:
    """Cosine and sine of the rotary angles ``[window, size / 2]``."""
    import torch

    window = min(int(getattr(model.config, "max_position_embeddings", 0) or 4096), _WINDOW)
    weight = model.model.embed_tokens.weight
    positions = torch.arange(window, device=weight.device)[None]
    cos, sin = model.model.rotary_emb(weight, positions)
    return cos[0, :, : size // 2].contiguous(), sin[0, :, : size // 2].contiguous()
