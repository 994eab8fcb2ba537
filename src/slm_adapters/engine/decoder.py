"""Forward steps of one model: prefill with prefix reuse, then a token at a time.

How a step is computed, and over which cache, is the network's business; prefix reuse and split
prefills are for networks whose cache can be cut anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ..errors import GenerationError
from .network import best_network
from .prefixes import PrefixCache
from .scheduler import FairLock, Patience
from .threads import one_thread, suits_one_thread

__all__ = ["Decoder", "Generation", "Sampling"]

#: Prompt tokens per forward: small enough on a CPU to look at cancel and deadline in between.
_CPU_ROWS, _GPU_ROWS = 128, 1024
#: A message border closer to the last cut than this is not worth a forward of its own.
_FEWEST_ROWS = 32


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; ``temperature=0`` is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None


class Decoder:
    """Runs one loaded model; generations may interleave, forwards never overlap."""

    def __init__(
        self, model: Any, *, borders: Collection[int] = (), prefix_budget: int = 0
    ) -> None:
        """``borders``: token ids that end a message; ``prefix_budget``: bytes, 0 for no reuse."""
        self.model = model
        self.device = model.device
        self.lock = FairLock()
        self._borders = frozenset(borders)
        self._rows = _CPU_ROWS if self.device.type == "cpu" else _GPU_ROWS
        self.network = best_network(model)
        self.croppable = self.network.croppable
        self._threads = one_thread if suits_one_thread(model) else nullcontext
        self.prefixes = PrefixCache(prefix_budget) if prefix_budget and self.croppable else None

    def start(self, prompt: list[int], sampling: Sampling, patience: Patience) -> Generation:
        """Read the prompt; the result is ready to choose its first token.

        Out of memory, it forgets the kept prefixes and tries once more; then it raises
        ``GenerationError``.
        """
        import torch

        try:
            return self._read(prompt, sampling, patience)
        except torch.OutOfMemoryError:
            self._free()
        try:
            return self._read(prompt, sampling, patience)
        except torch.OutOfMemoryError as error:
            self._free()
            raise GenerationError(
                f"{len(prompt)} prompt tokens do not fit in the memory of {self.device}: "
                "shorten the prompt, or give the model a fallback=."
            ) from error

    def _free(self) -> None:
        import torch

        if self.prefixes is not None:
            self.prefixes.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _read(self, prompt: list[int], sampling: Sampling, patience: Patience) -> Generation:
        cuts = self._cuts(prompt) if self.croppable else []
        cache, cached = self._reuse(prompt, cuts)
        logits, position = None, cached
        for end in [cut for cut in cuts if cut > cached] + [len(prompt)]:
            logits = self.forward(prompt[position:end], cache, patience)
            position = end
        if self.prefixes is not None and cuts and cached < cuts[-1]:
            self.prefixes.keep(prompt, cuts, self.network.layers_of(cache))
        return Generation(self, cache, logits, sampling, patience, cached)

    def forward(self, tokens: Sequence[int], cache: Any, patience: Patience) -> Any:
        """One step: the logits of the last token, ``[vocabulary]``."""
        import torch

        patience.check()
        self.lock.acquire(patience)
        try:
            # Per step, not around the loop: a generator must not leak the mode to its consumer.
            with torch.inference_mode(), self._threads():
                return self.network.step(tokens, cache)
        finally:
            self.lock.release()

    def _cuts(self, prompt: list[int]) -> list[int]:
        """Where the prefill is split: after a message, or every ``_rows`` tokens.

        Whether to cut depends only on the tokens before, so prompts that begin alike are cut
        alike. The last token is never before a cut: its logits are needed.
        """
        cuts: list[int] = []
        last, borders, rows = 0, self._borders, self._rows
        for position in range(1, len(prompt)):
            length = position - last
            if length == rows or (length >= _FEWEST_ROWS and prompt[position - 1] in borders):
                cuts.append(position)
                last = position
        return cuts

    def _reuse(self, prompt: list[int], cuts: list[int]) -> tuple[Any, int]:
        if self.prefixes is None:
            return self.network.new_cache([]), 0
        cached, layers = self.prefixes.longest(prompt, cuts)
        return self.network.new_cache(layers), cached


class Generation:
    """One reply in the making: its cache, the logits of the next token, its random numbers."""

    def __init__(
        self,
        decoder: Decoder,
        cache: Any,
        logits: Any,
        sampling: Sampling,
        patience: Patience,
        cached_tokens: int,
    ) -> None:
        self._decoder, self._cache, self._logits = decoder, cache, logits
        self._sampling, self._patience = sampling, patience
        self.cached_tokens = cached_tokens
        self._random = _generator(decoder.device, sampling)

    def choose(self, banned: Collection[int] = ()) -> int:
        """The next token's id; ``banned`` ids are never chosen."""
        import torch

        logits = self._logits
        with torch.inference_mode():
            if banned:
                logits = logits.clone()
                logits[list(banned)] = -torch.inf
            if self._random is None:
                return int(logits.argmax())
            return _sample(logits.float(), self._sampling, self._random)

    def is_finite(self) -> bool:
        """Whether the next token's logits are numbers."""
        return bool(self._logits.isfinite().all())

    def advance(self, token: int) -> None:
        """Read the chosen token; raises when the caller's patience is over."""
        import torch

        try:
            self._logits = self._decoder.forward([token], self._cache, self._patience)
        except torch.OutOfMemoryError as error:
            raise GenerationError(
                f"the reply outgrew the memory of {self._decoder.device}: lower max_tokens, "
                "or give the model a fallback=."
            ) from error


def _generator(device: Any, sampling: Sampling) -> Any:
    if sampling.temperature <= 0:
        return None
    import torch

    generator = torch.Generator(device=device)
    generator.manual_seed(time.time_ns() if sampling.seed is None else sampling.seed)
    return generator


def _sample(logits: Any, sampling: Sampling, generator: Any) -> int:
    """Temperature, then top-k, then top-p, then one draw: the order ``generate`` uses."""
    import torch

    logits = logits / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1.0:
        ordered, order = logits.sort(descending=False)
        unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        unlikely[-1] = False
        logits = logits.masked_fill(unlikely.scatter(0, order, unlikely), -torch.inf)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
