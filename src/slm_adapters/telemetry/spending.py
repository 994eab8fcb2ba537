"""What a call cost: money from a price table the user gives, energy from the machine's counters.

Neither is ever guessed: without a price, an exact token count or a readable counter there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..messages import Usage

__all__ = ["EnergyMeter", "Prices", "Spent", "cost"]

#: Model name, or the beginning of one -> US dollars per million input and output tokens and,
#: if they are priced apart, cached input tokens.
Prices = Mapping[str, tuple[float, float] | tuple[float, float, float]]

_POWERCAP = Path("/sys/class/powercap")


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


class EnergyMeter:
    """Joules counted by the processor (RAPL) and NVIDIA's GPUs (NVML), where readable.

    The counters are the machine's: what else ran during a call is in its figure.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._packages = [path for path in powercap.glob("*-rapl:?") if _joules(path) is not None]

    def read(self) -> dict[str, float]:
        """Joules so far, by source; sources that cannot be read are absent."""
        found: dict[str, float] = {}
        packages = [_joules(path) for path in self._packages]
        if packages and None not in packages:
            found["rapl"] = sum(value for value in packages if value is not None)
        gpus = _gpu_joules()
        if gpus is not None:
            found["nvml"] = gpus
        return found

    def spent(self, since: Mapping[str, float], device: Any) -> tuple[float, str] | None:
        """Joules since a reading, and the source that fits the device the model ran on."""
        source = "nvml" if str(device or "").startswith("cuda") else "rapl"
        now = self.read()
        if source not in now or source not in since or now[source] < since[source]:
            return None  # unreadable, or the counter began again
        return now[source] - since[source], source


def _joules(package: Path) -> float | None:
    try:
        return int((package / "energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _gpu_joules() -> float | None:
    """Of all GPUs, if the program itself has NVIDIA's library loaded and initialized."""
    nvml = sys.modules.get("pynvml")
    if nvml is None:
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return float(sum(map(nvml.nvmlDeviceGetTotalEnergyConsumption, handles))) / 1e3
    except Exception:
        # No driver, an old card, not initialized: then there is no figure.
        return None
