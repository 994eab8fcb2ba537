"""What ``instructions.py`` counted last: what each integration adds, with intervals, and the table."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
from pathlib import Path

import peers

RESULTS = Path(__file__).resolve().parent / "results"
PLAIN, OURS, FLOOR = "none", "slm-adapters", "floor-otel"
#: Not sampled, what a program pays for an integration that is on all the time.
UNSAMPLED = (f"{FLOOR}:unsampled", f"{OURS}:unsampled")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One that is counted, and its target, in ``unit``: as where that was set."""

    name: str
    #: What runs it, beside others of the same framework.
    script: str
    framework: str
    #: Of the model, in one operation.
    model_calls: int
    #: Operations counted in a process, and those before them that are left out: their code is being
    #: translated.
    counted: int
    skipped: int
    #: ``ms`` or ``µs``; how many of it are a millisecond; decimals of a million instructions.
    unit: str
    per_ms: int
    digits: int
    target: float
    #: Where the target was set: what the cheapest integration with spans and tokens of model calls
    #: added, and what the untraced operation took.
    cheapest: float
    untraced: float
    #: What others are also given as a multiple of.
    beside: tuple[str, ...] = ()
    #: Make no span here at all.
    without: tuple[str, ...] = ()

    @property
    def names(self):
        """Integrations, and ours and the floor unsampled."""
        found = [n for n, peer in peers.PEERS.items() if self.framework in peer[1]]
        return [*(n for n in found if n not in self.without), *UNSAMPLED]

    @property
    def limit(self):
        """The most of what the cheapest integration adds."""
        return self.target / self.cheapest

    @property
    def path(self):
        return RESULTS / f"instructions-{self.name}.json"

    def load(self):
        """What was counted last, or None."""
        return Counts(self, json.loads(self.path.read_text())) if self.path.exists() else None


def _litellm(name, untraced):
    return Operation(
        name, "completions.py", "litellm", 1, 12, 3, "µs", 1000, 3,
        target=150, cheapest=283, untraced=untraced, beside=("floor-handler",),
    )  # fmt: skip


OPERATIONS = {
    "kickoff": Operation(
        "kickoff", "kickoffs.py", "crewai", 2, 4, 2, "ms", 1, 2,
        target=1.0, cheapest=1.4, untraced=39.4, without=("mlflow",),
    ),
    "completion": _litellm("completion", 1225),
    "acompletion": _litellm("acompletion", 1933),
}  # fmt: skip


class Counts:
    """The counts of one operation. Everything is in instructions unless it says otherwise."""

    def __init__(self, operation, data):
        self.operation, self.data, self.counted = operation, data, data["counted"]

    def has(self, *names):
        """Whether these were counted, and an integration to compare with."""
        return {PLAIN, *names} <= self.counted.keys() and bool(self.rivals())

    def settled(self, names, of, times=4000):
        """``of`` the medians of ``names``, and its 95 % bootstrap interval over processes."""
        seeded = random.Random(0)
        processes = [self.counted[name]["instructions"] for name in names]

        def middle(some):
            return statistics.median(x for process in some for x in process)

        drawn = sorted(
            of(*(middle(seeded.choices(some, k=len(some))) for some in processes))
            for _ in range(times)
        )
        return of(*map(middle, processes)), drawn[times // 40], drawn[-times // 40]

    def plain(self):
        """The untraced operation's."""
        return self.settled((PLAIN,), lambda none: none, times=40)[0]

    def added(self, name):
        """Beyond the untraced operation, and their 95 % interval."""
        return self.settled((name, PLAIN), lambda traced, none: traced - none)

    def ratio(self, name, other):
        """What ``name`` adds as a multiple of what ``other`` adds, and its 95 % interval."""
        names = (name, other, PLAIN)
        return self.settled(names, lambda a, b, none: (a - none) / (b - none))

    def rivals(self):
        """Other integrations whose model calls all have spans with tokens, the cheapest first."""
        found = [
            name
            for name, made in self.counted.items()
            if not name.startswith((OURS, "floor", PLAIN, "noop"))
            and made["spans"][2] == self.operation.model_calls
        ]
        return sorted(found, key=lambda name: self.added(name)[0])

    def rate(self):
        """Instructions per CPU ms of the untraced operation at its median, and at the quartiles."""
        fast, middle, slow = statistics.quantiles(self.data["plain_ms"], n=4)
        return self.plain() / middle, self.plain() / slow, self.plain() / fast

    def millions(self, name):
        """What is added, and its interval, as text."""
        value, low, high = (f"{x / 1e6:.{self.operation.digits}f}" for x in self.added(name))
        return f"{value} ({low}…{high})"

    def table(self):
        """As markdown."""
        op = self.operation
        beside = (name for name in op.beside if name in self.counted)
        against, per_unit = [*beside, *self.rivals()[:2]], self.rate()[0] / op.per_ms
        head = ["integration", "added, million instructions (95 %)", f"of the {op.name}",
                f"{op.unit} at its rate", "spans: all, model calls, with tokens",
                *(f"x {name}" for name in against)]  # fmt: skip
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, made in self.counted.items():
            if name == PLAIN:
                continue
            value = self.added(name)[0]
            cells = [
                name.replace(":", ", "),
                self.millions(name),
                f"{value / self.plain():.1%}",
                f"{value / per_unit:.{2 if op.per_ms == 1 else 0}f}",
                ", ".join(map(str, made["spans"])) if "unsampled" not in name else "–",
                *(f"{self.ratio(name, other)[0]:.2f}" for other in against),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, self._how()])

    def _how(self):
        op, ms = self.operation, self.data["plain_ms"]
        middle, slow, fast = (x / 1e6 for x in self.rate())
        return (
            f"\nThe untraced {op.name}: {self.plain() / 1e6:.{op.digits - 1}f} million instructions, "
            f"{statistics.median(ms) * op.per_ms:,.0f} {op.unit} of CPU ({len(ms)} of them, "
            f"without Valgrind): {middle:.2f} million a ms, {slow:.2f}…{fast:.2f} between the "
            f"quartiles. Counted {self.data['when']}, {self.data['machine']}."
        )
