"""What a call cost, by a price table the user gives, and the sums of the calls inside a span.

Never guessed: without a price or an exact token count there is no cost.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..messages import Usage

__all__ = ["Prices", "Spent", "cost"]

#: Model name, or the beginning of one -> US dollars per million input and output tokens and,
#: if they are priced apart, cached input tokens.
Prices = Mapping[str, tuple[float, float] | tuple[float, float, float]]


def cost(prices: Prices, models: tuple[str | None, ...], usage: Usage | None) -> float | None:
    """US dollars of one call; ``models`` are its names, the most specific first."""
    if usage is None or usage.source == "estimated":
        return None
    for model in models:
        price = _price(prices, model) if model else None
        if price is not None:
            cached = usage.cached_tokens or 0 if len(price) > 2 else 0
            paid = (usage.input_tokens - cached) * price[0] + usage.output_tokens * price[1]
            return (paid + cached * price[-1]) / 1e6
    return None


class Spent:
    """Tokens of the calls inside a span; not ``exact`` when one of them had no counts."""

    __slots__ = ("calls", "exact", "input", "output", "tools")

    def __init__(self) -> None:
        self.input = self.output = 0
        #: What an agent did itself, without the agents it delegated to.
        self.calls = self.tools = 0
        self.exact = True

    def add(self, usage: Usage | None) -> None:
        if usage is None:
            self.exact = False
        else:
            self.input += usage.input_tokens
            self.output += usage.output_tokens


def _price(prices: Prices, model: str) -> tuple[float, ...] | None:
    """The entry of this name, else of its longest beginning; ``openai/`` and the like may lead."""
    while model:
        beginnings = [name for name in prices if model.startswith(name)]
        if beginnings:
            return prices[max(beginnings, key=len)]
        model = model.partition("/")[2]
    return None
