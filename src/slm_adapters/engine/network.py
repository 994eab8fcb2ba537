"""What the decoder asks of a network: steps over caches; here with transformers' forward."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any, Protocol

from .prefixes import KeysAndValues
from .quiet import no_cast_notes

__all__ = ["Network", "TransformersNetwork", "best_network"]


class Network(Protocol):
    """A loaded model as the worker runs it; every call comes from one thread, in inference mode.

    A cache is one sequence's state. It is the network's own, changes in place and knows its
    adapter, so sequences of different adapters may share a ``decode``.
    """

    #: Whether a cache can be cut after any token. Otherwise what ``layers_of`` gives is a
    #: snapshot, of use only where it was taken.
    croppable: bool
    #: The most sequences one ``decode`` takes; 1: no true batching.
    rows: int

    def new_cache(self, layers: KeysAndValues, adapter: str | None = None) -> Any:
        """A cache that begins with ``layers`` (empty: with nothing); they are never written to."""

    def step(self, tokens: Sequence[int], cache: Any) -> Any:
        """Read a piece of one sequence: the logits of its last token, ``[vocabulary]``."""

    def decode(self, tokens: Sequence[int], caches: Sequence[Any]) -> Any:
        """Read one token for each of n sequences: logits ``[n, vocabulary]``.

        Where ``rows > 1``, a call that raised can be made again: no cache has moved.
        """

    def layers_of(self, cache: Any) -> KeysAndValues:
        """What ``new_cache`` needs to begin where ``cache`` is now."""

    def release(self, cache: Any) -> None:
        """The sequence is over; its memory may be used again."""


def best_network(model: Any) -> Network:
    """The lean step where it fits this model exactly, else the model's own forward."""
    from .lean_llama import LeanLlama

    own = TransformersNetwork(model)
    return LeanLlama.of(model, own) or own


class TransformersNetwork:
    """The model's own forward and the KV cache its architecture asks for, row after row."""

    rows = 1

    def __init__(self, model: Any) -> None:
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        int8 = getattr(model, "is_loaded_in_8bit", False)
        self._hushed = no_cast_notes if int8 else contextlib.nullcontext
        self.croppable = _full_attention_only(self.new_cache([]))

    def new_cache(self, layers: KeysAndValues, adapter: str | None = None) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self._model.config)
        for layer, (keys, values) in zip(cache.layers, layers, strict=False):
            # The layer's own update concatenates, so the kept tensors are never written to.
            layer.dtype, layer.device = keys.dtype, keys.device
            layer.keys, layer.values, layer.is_initialized = keys, values, True
        return cache

    def step(self, tokens: Sequence[int], cache: Any) -> Any:
        import torch

        ids = torch.tensor([tokens], device=self._model.device)
        with self._hushed():
            out = self._model(
                input_ids=ids, past_key_values=cache, use_cache=True, **self._last_only
            )
        return out.logits[0, -1]

    def decode(self, tokens: Sequence[int], caches: Sequence[Any]) -> Any:
        import torch

        rows = zip(tokens, caches, strict=True)
        return torch.stack([self.step([token], cache) for token, cache in rows])

    def layers_of(self, cache: Any) -> KeysAndValues:
        return [(layer.keys, layer.values) for layer in cache.layers]

    def release(self, cache: Any) -> None:
        """The tensors go with the cache."""


def _full_attention_only(cache: Any) -> bool:
    from transformers.cache_utils import DynamicLayer

    # The exact class: sliding and hybrid layers inherit from it but cannot be cut (T45).
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
