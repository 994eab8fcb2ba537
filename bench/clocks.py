"""Times of interleaved rounds on two clocks, and the ratios of their medians."""

from __future__ import annotations

import statistics
import time


class Clock:
    """Milliseconds by name, on both clocks."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.rows: dict[str, dict[str, list[float]]] = {"wall": {}, "cpu": {}}

    def add(self, name: str, wall: float, cpu: float) -> None:
        self.rows["wall"].setdefault(name, []).append(wall * 1e3)
        self.rows["cpu"].setdefault(name, []).append(cpu * 1e3)

    def time(self, name: str, work, per: int = 1):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.add(name, (time.perf_counter() - wall) / per, (time.process_time() - cpu) / per)
        return result

    def median(self, name: str) -> float:
        return statistics.median(self.rows[self.of][name])

    def report(self, title: str) -> None:
        print(f"\n{title}; ms: min / median / max")
        for name in self.rows["wall"]:
            line = f"  {name:38s}"
            for label in ("wall", "cpu"):
                row = self.rows[label][name]
                line += f"  {label} {min(row):8.2f} /{statistics.median(row):8.2f} /{max(row):8.2f}"
            print(line, flush=True)

    def ratio(self, text: str, slow: str, fast: str, times: float = 1.0) -> None:
        """Of medians; the spread is the slowest against the fastest round."""
        a, b = self.rows[self.of][slow], self.rows[self.of][fast]
        middle = statistics.median(a) / statistics.median(b) * times
        print(
            f"  {text}: {middle:.2f} ({min(a) / max(b) * times:.2f}..{max(a) / min(b) * times:.2f})"
        )
