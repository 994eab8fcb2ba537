"""How much memory a model takes, before it is loaded and after.

Before, from its config alone: shapes on the meta device, no weights.

The model's own classes are built without numbers, and its own forward fills a cache without
computing, so every architecture counts its layers itself: full, sliding, convolutional, recurrent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .quiet import quiet

__all__ = ["CacheShape", "Skeleton", "held_bytes"]

#: bitsandbytes: one float32 scale per so many 4-bit weights, and a table of 16 per layer.
_BLOCK, _SCALE, _TABLE = 64, 4, 16 * 4
#: Two lengths no sliding window is shorter than.
_SHORT, _LONG = 2, 4


@dataclass(frozen=True, slots=True)
class CacheShape:
    """One layer's state after n tokens: ``fixed + per_token * min(n, longest)`` bytes."""

    fixed: int
    per_token: int
    longest: int | None = None

    def nbytes(self, tokens: int) -> int:
        kept = tokens if self.longest is None else min(tokens, self.longest)
        return self.fixed + self.per_token * kept


class Skeleton:
    """A model without numbers; ``dtype``: that of whole weights and of the cache."""

    def __init__(self, config: Any, dtype: str, *, trust_remote_code: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        self._config = config
        # Initializing is most of the work, also where there is nothing to write to.
        with torch.device("meta"), no_init_weights(), quiet():
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
            ).eval()
        self._model.tie_weights()

    @property
    def parameters(self) -> int:
        """Shared ones once."""
        return sum(int(parameter.numel()) for parameter in self._model.parameters())

    def weights(self, quantization: str) -> int:
        """Bytes of all weights, held as ``"none"`` (whole), ``"int8"`` or ``"nf4"``."""
        whole = sum(int(p.nbytes) for p in (*self._model.parameters(), *self._model.buffers()))
        if quantization == "none":
            return whole
        return whole + sum(
            _quantized(layer, quantization) - int(layer.weight.nbytes)
            for _, layer in self.linears()
        )

    def adapter(self, rank: int) -> int:
        """Bytes of one LoRA adapter on every linear layer."""
        size: int = self._model.dtype.itemsize
        return sum(
            rank * (layer.in_features + layer.out_features) * size for _, layer in self.linears()
        )

    def linears(self) -> Iterator[tuple[str, Any]]:
        """The layers that quantization replaces and adapters sit on: all but the output."""
        import torch

        head = self._model.get_output_embeddings()
        for name, layer in self._model.named_modules():
            if isinstance(layer, torch.nn.Linear) and layer is not head:
                yield name, layer

    def cache(self, tokens: int) -> int:
        """Bytes of one sequence's keys, values and states after so many tokens."""
        return sum(layer.nbytes(tokens) for layer in self.cache_layers)

    @cached_property
    def cache_layers(self) -> list[CacheShape]:
        """What each layer keeps, seen after two short forwards."""
        pairs = zip(self._cache_after(_SHORT), self._cache_after(_LONG), strict=True)
        return [_shape(before, after) for before, after in pairs]

    def cache_tokens(self, room: int, window: int) -> int:
        """The most tokens up to ``window`` whose cache fits in ``room`` bytes."""
        fits, too_many = 0, window + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self.cache(middle) <= room:
                fits = middle
            else:
                too_many = middle
        return fits

    def _cache_after(self, tokens: int) -> list[Any]:
        import torch
        from transformers import DynamicCache

        cache = DynamicCache(config=self._config)
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        with torch.inference_mode(), quiet():
            self._model(input_ids=ids, past_key_values=cache, use_cache=True)
        return list(cache.layers)


def held_bytes(model: Any) -> int:
    """Bytes of a loaded model's weights, with the scales and tables of quantized ones."""
    return sum({_place(tensor): int(tensor.nbytes) for tensor in _held(model)}.values())


def _held(model: Any) -> Iterator[Any]:
    """Every tensor of the weights; some more than once."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        weight, state = getattr(module, "weight", None), getattr(module, "state", None)
        # The scales of int8, which a first forward takes over.
        yield from _tensors([getattr(weight, "SCB", None), getattr(state, "SCB", None)])
        four_bit = getattr(weight, "quant_state", None)
        while four_bit is not None:
            yield from _tensors(vars(four_bit))
            four_bit = four_bit.state2  # of scales that are quantized themselves


def _place(tensor: Any) -> int:
    """Where a tensor is, as far as it says so: oneDNN's own layouts do not."""
    return id(tensor) if tensor.is_mkldnn else int(tensor.data_ptr())


def _quantized(layer: Any, quantization: str) -> int:
    count = int(layer.weight.numel())
    if quantization == "int8":
        return count + int(layer.out_features) * _SCALE
    return count // 2 + -(-count // _BLOCK) * _SCALE + _TABLE


def _shape(before: Any, after: Any) -> CacheShape:
    first, second = _tensor_bytes(vars(before)), _tensor_bytes(vars(after))
    per_token = (second - first) // (_LONG - _SHORT)
    window = getattr(after, "sliding_window", None)
    # A sliding layer keeps what the next token still looks at.
    longest = window - 1 if isinstance(window, int) else None
    return CacheShape(first - per_token * _SHORT, per_token, longest)


def _tensor_bytes(value: Any) -> int:
    return sum(int(tensor.nbytes) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from _tensors(item)
