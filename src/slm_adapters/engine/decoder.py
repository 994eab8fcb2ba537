"""Forward steps of one model: prompts piece by piece with prefix reuse, then token by token.

How a step is computed, and over which cache, is the network's business. Everything here is for
one thread at a time: the scheduler's worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from ..errors import GenerationError
from .adapters import Adapters
from .network import Network, networks
from .prefixes import PrefixCache, SnapshotCache
from .sampling import Chooser, Sampling, allowed_only, choose
from .threads import one_thread, suits_one_thread

__all__ = ["Decoder", "Generation"]

#: Prompt tokens per forward: small enough on a CPU that running replies hardly notice.
_CPU_ROWS, _GPU_ROWS = 128, 1024
#: A message border closer to the last cut than this is not worth a forward of its own.
_FEWEST_ROWS = 32


class Generation:
    """One reply in the making: its prompt as far as it is read, cache and next logits."""

    def __init__(self, prompt: list[int], chooser: Chooser, adapter: str | None = None) -> None:
        self.prompt, self.chooser, self.adapter = prompt, chooser, adapter
        self.cache: Any = None
        self.cuts: list[int] = []
        #: Positions after which a snapshot is kept.
        self.wanted: set[int] = set()
        self.position = self.cached_tokens = 0
        #: Logits of the next token; valid until the network's next step.
        self.logits: Any = None
        self.retried = False

    @property
    def is_read(self) -> bool:
        """Whether the whole prompt is, so that a token can be chosen."""
        return self.position == len(self.prompt)


class Decoder:
    """Runs one loaded model."""

    def __init__(
        self,
        model: Any,
        *,
        borders: Collection[int] = (),
        prefix_budget: int = 0,
        network: Network | None = None,
        coming: Future[Network | None] | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """``borders``: token ids that end a message; ``prefix_budget``: bytes, 0 for no reuse.

        ``network``: instead of the model's best; ``coming``: what follows it, if anything does.
        ``adapters``: what ``begin(adapter=...)`` names.
        """
        self.model = model
        self.device = model.device
        self._borders = frozenset(borders)
        self.piece = _CPU_ROWS if self.device.type == "cpu" else _GPU_ROWS
        self.network: Network
        self._coming: Future[Network | None] | None
        self.network, self._coming = (network, coming) if network else networks(model, adapters)
        self._threads: Callable[[], AbstractContextManager[None]] = nullcontext
        if suits_one_thread(model):
            self._threads = one_thread
        #: The row of each in the last step.
        self._advanced: dict[Generation, int] = {}
        self._stepped = 0
        self.prefixes: PrefixCache | SnapshotCache | None = None
        if prefix_budget and self.network.resumable:
            kind = PrefixCache if self.network.croppable else SnapshotCache
            self.prefixes = kind(prefix_budget)

    def computing(self) -> AbstractContextManager[Any]:
        """The modes all steps run in; never around code of the caller's."""
        import torch

        stack = ExitStack()
        stack.enter_context(torch.inference_mode())
        if self.device.type == "cuda":
            stack.enter_context(torch.cuda.device(self.device))
        stack.enter_context(self._threads())
        return stack

    @property
    def can_improve(self) -> bool:
        """Whether the network that was to come is there."""
        return self._coming is not None and self._coming.done()

    def improve(self, generations: Iterable[Generation]) -> None:
        """Go over to the network that was to come; the running ``generations`` go along."""
        import torch

        network = self._coming.result() if self._coming is not None else None
        if network is None:
            self._coming = None
            return
        running = [generation for generation in generations if generation.cache is not None]
        try:
            caches = [
                network.new_cache(self.network.layers_of(generation.cache), generation.adapter)
                for generation in running
            ]
        except torch.OutOfMemoryError:
            # For a moment both hold what was read: later there may be fewer replies.
            self.free()
            return
        for generation, cache in zip(running, caches, strict=True):
            self.network.release(generation.cache)
            generation.cache = cache
        self.network, self._coming, self._advanced = network, None, {}

    def begin(
        self, prompt: list[int], sampling: Sampling, adapter: str | None = None
    ) -> Generation:
        """A reply of which nothing is computed yet."""
        return Generation(prompt, Chooser(sampling, self.device), adapter)

    def read(self, generation: Generation) -> int:
        """Read the next piece of the prompt; how many tokens it had.

        Out of memory, it forgets the kept prefixes and begins once more; then it raises
        ``GenerationError``.
        """
        import torch

        try:
            return self._read(generation)
        except torch.OutOfMemoryError as error:
            self.end(generation)
            self.free()
            if generation.retried:
                raise GenerationError(
                    f"{len(generation.prompt)} prompt tokens do not fit in the memory of "
                    f"{self.device}: shorten the prompt, or give the model a fallback=."
                ) from error
            generation.retried, generation.position = True, 0
            return 0

    def _read(self, generation: Generation) -> int:
        prompt = generation.prompt
        if generation.cache is None:
            self._open(generation)
        start = generation.position
        end = next((cut for cut in generation.cuts if cut > start), len(prompt))
        generation.logits = self.network.step(prompt[start:end], generation.cache)
        generation.position = end
        self._keep(generation)
        return end - start

    def _open(self, generation: Generation) -> None:
        prompt, adapter = generation.prompt, generation.adapter
        cached, state = 0, []
        if self.network.resumable:
            generation.cuts = self._cuts(prompt)
        if self.prefixes is not None:
            cached, state = self.prefixes.longest(prompt, generation.cuts, adapter)
        if isinstance(self.prefixes, SnapshotCache):
            generation.wanted = self.prefixes.wanted(
                prompt, generation.cuts, self._borders, adapter
            )
        generation.cache = self.network.new_cache(state, adapter)
        generation.position = generation.cached_tokens = cached

    def _keep(self, generation: Generation) -> None:
        """Remember what was read, for prompts that begin alike."""
        prompt, cuts, adapter = generation.prompt, generation.cuts, generation.adapter
        if isinstance(self.prefixes, SnapshotCache):
            if generation.position in generation.wanted:
                snapshot = self.network.layers_of(generation.cache)
                self.prefixes.keep(prompt[: generation.position], snapshot, adapter)
            return
        is_new = cuts and generation.is_read and generation.cached_tokens < cuts[-1]
        if self.prefixes is not None and is_new:
            layers = self.network.layers_of(generation.cache)
            self.prefixes.keep(prompt, cuts, layers, adapter)

    def advance(self, generations: Sequence[Generation], tokens: Sequence[int]) -> None:
        """Read one chosen token for each; their next logits are there afterwards."""
        logits = self.network.decode(tokens, [generation.cache for generation in generations])
        for generation, row in zip(generations, logits, strict=True):
            generation.logits = row
        self._advanced = {generation: row for row, generation in enumerate(generations)}
        self._stepped = len(generations)

    def choose(
        self,
        generations: Sequence[Generation],
        masks: Sequence[Any] | None = None,
        bans: Sequence[Collection[int]] | None = None,
    ) -> list[int]:
        """The next token of each. ``masks``: bool ``[vocabulary]`` or None; ``bans``: ids."""
        if not any(bans or ()) and all(mask is None for mask in masks or ()):
            known = self._likeliest(generations)
            if known is not None:
                return known
        everything = [None] * len(generations)
        rows = [
            allowed_only(generation.logits, mask, ban or ())
            for generation, mask, ban in zip(
                generations, masks or everything, bans or everything, strict=True
            )
        ]
        return choose(rows, [generation.chooser for generation in generations])

    def _likeliest(self, generations: Sequence[Generation]) -> list[int] | None:
        """What greedy replies go on with, where the last step has found it already."""
        likeliest = getattr(self.network, "likeliest", None)
        if likeliest is None:
            return None
        rows = [self._advanced.get(g) if g.chooser.greedy else None for g in generations]
        if None in rows:
            return None
        tokens = likeliest(self._stepped)
        return [tokens[row] for row in rows if row is not None]

    def end(self, generation: Generation) -> None:
        """The reply is over, or given up."""
        cache, generation.cache, generation.logits = generation.cache, None, None
        self._advanced.pop(generation, None)
        if cache is not None:
            self.network.release(cache)

    def free(self) -> None:
        """Forget what can be computed again, for lack of memory."""
        import torch

        if self.prefixes is not None:
            self.prefixes.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _cuts(self, prompt: list[int]) -> list[int]:
        """Where the prefill is split: after a message, or every ``piece`` tokens.

        Whether to cut depends only on the tokens before, so prompts that begin alike are cut
        alike. The last token is never before a cut: its logits are needed.
        """
        cuts: list[int] = []
        last, borders, rows = 0, self._borders, self.piece
        for position in range(1, len(prompt)):
            length = position - last
            if length == rows or (length >= _FEWEST_ROWS and prompt[position - 1] in borders):
                cuts.append(position)
                last = position
        return cuts
