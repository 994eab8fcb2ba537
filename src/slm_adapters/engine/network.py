"""What the decoder asks of a network: steps over caches; here with transformers' forward."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from ..errors import AdapterError
from .adapters import Adapter, Adapters
from .prefixes import KeysAndValues
from .quiet import no_cast_notes

__all__ = ["Network", "TransformersNetwork", "networks"]

logger = logging.getLogger("slm_adapters.load")

#: Tokens that show whether a model can go on from its cache.
_PROOF = (1, 5, 2, 7, 3, 4, 9, 8, 6, 11, 2, 5)


class Network(Protocol):
    """A loaded model as the worker runs it; every call comes from one thread, in inference mode.

    A cache is one sequence's state. It is the network's own, changes in place and knows its
    adapter, so sequences of different adapters may share a ``decode``.
    """

    #: Whether a cache can be cut after any token. Otherwise what ``layers_of`` gives is a
    #: snapshot, of use only where it was taken.
    croppable: bool
    #: Whether a prompt may be read in pieces; without it there is nothing to reuse either.
    resumable: bool
    #: The most sequences one ``decode`` takes; 1: no true batching.
    rows: int

    def new_cache(self, layers: KeysAndValues | Any, adapter: str | None = None) -> Any:
        """A cache that begins with ``layers`` (empty: with nothing); they are never written to.

        ``adapter``: the key of one in the ``Adapters`` that the network was made with.
        """

    def step(self, tokens: Sequence[int], cache: Any) -> Any:
        """Read a piece of one sequence: the logits of its last token, ``[vocabulary]``."""

    def decode(self, tokens: Sequence[int], caches: Sequence[Any]) -> Any:
        """Read one token for each of n sequences: logits ``[n, vocabulary]``.

        Where ``rows > 1``, a call that raised can be made again: no cache has moved.
        """

    def layers_of(self, cache: Any) -> KeysAndValues | Any:
        """What ``new_cache`` needs to begin where ``cache`` is now.

        Croppable: views of the cache. Otherwise a snapshot of its own, with ``nbytes``.
        """

    def release(self, cache: Any) -> None:
        """The sequence is over; its memory may be used again."""


def networks(model: Any, adapters: Adapters | None = None) -> tuple[Network, Future[Any] | None]:
    """The forward to begin with: one of ours where it fits this model exactly, else its own.

    And a faster one that follows once its kernels are compiled, or None.
    """
    from .cuda_start import start
    from .lean_llama import LeanLlama

    own = TransformersNetwork(model, adapters)
    lean = LeanLlama.of(model, own, adapters)
    if lean is not None:
        return lean, None
    return own, start(model, own, adapters)


class _Sequence:
    """One sequence's cache and adapter; as a snapshot, with its size."""

    __slots__ = ("adapter", "state")

    def __init__(self, state: Any, adapter: Adapter | None) -> None:
        self.state, self.adapter = state, adapter

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(vars(layer)) for layer in self.state.layers)


class TransformersNetwork:
    """The model's own forward and the KV cache its architecture asks for, row after row."""

    rows = 1

    def __init__(self, model: Any, adapters: Adapters | None = None) -> None:
        self._model, self._adapters = model, adapters
        parameters = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        int8 = getattr(model, "is_loaded_in_8bit", False)
        self._hushed = no_cast_notes if int8 else contextlib.nullcontext
        self._hooks = AdapterHooks(model)
        self.croppable = _full_attention_only(self.new_cache([]).state)
        self.resumable = self.croppable or self._resumes()

    def new_cache(self, layers: KeysAndValues | Any, adapter: str | None = None) -> _Sequence:
        from transformers import DynamicCache

        used = self._adapters.find(adapter) if adapter and self._adapters else None
        if isinstance(layers, _Sequence):
            return _Sequence(copy.deepcopy(layers.state), used)
        cache = DynamicCache(config=self._model.config)
        for layer, (keys, values) in zip(cache.layers, layers, strict=False):
            # The layer's own update concatenates, so the kept tensors are never written to.
            layer.dtype, layer.device = keys.dtype, keys.device
            layer.keys, layer.values, layer.is_initialized = keys, values, True
        return _Sequence(cache, used)

    def step(self, tokens: Sequence[int], cache: _Sequence) -> Any:
        import torch

        ids = torch.tensor([tokens], device=self._model.device)
        with self._hushed(), self._hooks.using(cache.adapter):
            out = self._model(
                input_ids=ids, past_key_values=cache.state, use_cache=True, **self._last_only
            )
        return out.logits[0, -1]

    def decode(self, tokens: Sequence[int], caches: Sequence[_Sequence]) -> Any:
        import torch

        rows = zip(tokens, caches, strict=True)
        return torch.stack([self.step([token], cache) for token, cache in rows])

    def layers_of(self, cache: _Sequence) -> KeysAndValues | Any:
        if self.croppable:
            return [(layer.keys, layer.values) for layer in cache.state.layers]
        return _Sequence(copy.deepcopy(cache.state), None)

    def release(self, cache: _Sequence) -> None:
        """The tensors go with the cache."""

    def _resumes(self) -> bool:
        """Whether several tokens read after others come to what they come to in one piece.

        Recurrent layers of some models take up their state only when a single token is read.
        """
        import torch

        try:
            with torch.inference_mode():
                expected = self.step(_PROOF, self.new_cache([]))
                cache = self.new_cache([])
                self.step(_PROOF[:6], cache)
                self.step(_PROOF[6:9], cache)
                logits = self.step(_PROOF[9:], self.new_cache(self.layers_of(cache)))
        except Exception as error:  # an architecture with a cache of its own
            logger.debug("%s reads prompts whole: %r", type(self._model).__name__, error)
            return False
        limit = (0.05 if logits.dtype.itemsize < 4 else 1e-3) * float(expected.abs().max())
        return float((logits - expected).abs().max()) <= limit


class AdapterHooks:
    """An adapter's part of the forward of any model: hooks on its linear layers.

    They do nothing while no adapter is in use, so the base answers as before.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._active: Adapter | None = None
        self._hooked: set[str] = set()
        self._ran: set[str] = set()
        self._proved: weakref.WeakSet[Adapter] = weakref.WeakSet()

    @contextlib.contextmanager
    def using(self, adapter: Adapter | None) -> Iterator[None]:
        """A forward with ``adapter``; raises ``AdapterError`` if a layer was passed over."""
        if adapter is None:
            yield
            return
        for name in adapter.layers.keys() - self._hooked:
            hook = partial(self._added, name)
            self._model.get_submodule(name).register_forward_hook(hook)
            self._hooked.add(name)
        self._active = adapter
        try:
            yield
        finally:
            self._active = None
        if adapter not in self._proved:
            self._prove(adapter)

    def _added(self, name: str, module: Any, given: tuple[Any, ...], out: Any) -> Any:
        lora = self._active.layers.get(name) if self._active is not None else None
        if lora is None:
            return None
        self._ran.add(name)
        rows = given[0].to(lora.down.dtype)
        return out + (rows @ lora.down.T @ lora.up).to(out.dtype)

    def _prove(self, adapter: Adapter) -> None:
        """A model may use a layer's weights without calling it, as fused kernels do."""
        idle = adapter.layers.keys() - self._ran
        if idle:
            raise AdapterError(
                f"adapter {adapter.name} changes {min(idle)}, which this model computes without "
                "calling it: train the adapter on other layers."
            )
        self._proved.add(adapter)


def _full_attention_only(cache: Any) -> bool:
    from transformers.cache_utils import DynamicLayer

    # The exact class: sliding and hybrid layers inherit from it but cannot be cut (T45).
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _nbytes(value: Any) -> int:
    """Of all tensors in there."""
    if isinstance(value, dict):
        return sum(_nbytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_nbytes(item) for item in value)
    return getattr(value, "nbytes", 0)
