"""How the next token is chosen from its logits."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Chooser", "Confidence", "Sampling", "choose"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen; ``temperature=0`` is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None


class Chooser:
    """One reply's way of choosing, with random numbers of its own."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self.greedy = sampling.temperature <= 0
        self._sampling = sampling
        if not self.greedy:
            import torch

            self._random = torch.Generator(device=device)
            seed = time.time_ns() if sampling.seed is None else sampling.seed
            self._random.manual_seed(seed)

    def draw(self, logits: Any) -> Any:
        """Temperature, then top-k, then top-p, then one draw: the order ``generate`` uses."""
        import torch

        sampling, logits = self._sampling, logits.float() / self._sampling.temperature
        if sampling.top_k and sampling.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
        if sampling.top_p < 1.0:
            ordered, order = logits.sort(descending=False)
            unlikely = ordered.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
            unlikely[-1] = False
            logits = logits.masked_fill(unlikely.scatter(0, order, unlikely), -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=self._random)


class Confidence:
    """How probable a reply's tokens were to the model itself, before bans, masks and temperature.

    The geometric mean of the probabilities, and the lowest of them.
    """

    def __init__(self) -> None:
        self._sum = self._lowest = 0.0
        self._count = 0

    def note(self, logits: Any, token: int) -> None:
        """A token was chosen from ``logits``, ``[vocabulary]``."""
        logits = logits.float()
        value = float(logits[token] - logits.logsumexp(-1))
        self._sum, self._count = self._sum + value, self._count + 1
        self._lowest = min(self._lowest, value)

    @property
    def mean(self) -> float:
        return math.exp(self._sum / max(self._count, 1))

    @property
    def lowest(self) -> float:
        return math.exp(self._lowest)


def allowed_only(logits: Any, mask: Any, banned: Collection[int]) -> Any:
    """Logits where what ``mask`` forbids and what is ``banned`` cannot be chosen."""
    import torch

    if mask is not None:
        logits = logits.masked_fill(~mask.to(logits.device), -torch.inf)
    if banned:
        logits = logits.clone() if mask is None else logits
        logits[list(banned)] = -torch.inf
    return logits


def choose(logits: Sequence[Any], choosers: Sequence[Chooser]) -> list[int]:
    """A token for each row; the greedy ones in one operation, all in one transfer."""
    import torch

    if all(chooser.greedy for chooser in choosers):
        rows = logits[0][None] if len(logits) == 1 else torch.stack(list(logits))
        return list(rows.argmax(-1).tolist())
    drawn = [
        row.argmax(-1, keepdim=True) if chooser.greedy else chooser.draw(row)
        for row, chooser in zip(logits, choosers, strict=True)
    ]
    return list(torch.cat(drawn).tolist())
