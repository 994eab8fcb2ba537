"""``slm-adapters fit``, as a person or a program reads it."""

from __future__ import annotations

import dataclasses
import json

from rich.console import Console
from rich.table import Table

from .engine.fit import Fit, Row

__all__ = ["print_fit", "print_json"]

_KINDS = {
    "full": "that keep every token",
    "sliding": "with a sliding window",
    "state": "with a state of fixed size",
}


def print_json(found: Fit, console: Console) -> None:
    """All figures, sizes in bytes; each row with its ``total``."""
    data = dataclasses.asdict(found)
    for row, made in zip(data["rows"], found.rows, strict=True):
        row["total"] = made.total
    console.print_json(json.dumps(data))


def print_fit(found: Fit, *, rank: int, adapters: int, console: Console) -> None:
    """A table with a row per way to hold the weights, and what to type."""
    kinds = ", ".join(f"{count} {_KINDS[kind]}" for kind, count in found.layers.items())
    console.print(
        f"[bold]{found.model}[/]: {_count(found.parameters)} parameters, built for "
        f"{found.window:,} tokens; layers: {kinds}",
        highlight=False,
    )
    console.print(f"{found.device}: {_size(found.free)} free\n", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    names = ["Weights", f"{adapters} adapters", "Cache, 1k tokens", "whole window", "Together"]
    for name in names if adapters else [names[0], *names[2:]]:
        table.add_column(name, justify="right")
    table.add_column("Verdict", no_wrap=True)
    for row in found.rows:
        cells = [
            f"{row.held_as}{' *' if row.automatic else ''}",
            _size(row.weights),
            *([_size(row.adapters)] if adapters else []),
            _size(1000 * row.cache_per_token),
            _size(row.cache_at_window),
            _size(row.total),
            _verdict(row, found),
        ]
        table.add_row(*cells)
    console.print(table, highlight=False)
    one = f"One adapter of rank {rank}: {_size(found.adapter)}."
    console.print(f"\n{one} {_advice(found)}", highlight=False)


def _verdict(row: Row, found: Fit) -> str:
    if not row.window:
        return "[red]does not fit[/]"
    if row.window < found.window:
        return f"[yellow]up to {row.window:,} tokens[/]"
    return "[green]fits[/]"


def _advice(found: Fit) -> str:
    chosen = next((row for row in found.rows if row.automatic), None)
    if chosen is not None and chosen.window:
        return f'* SLM("{found.model}") chooses this here.'
    smaller = max(found.rows, key=lambda row: row.window)
    if not smaller.window:
        return "Nothing fits: take a smaller model or a machine with more memory."
    if smaller.held_as in ("nf4", "int8"):
        return f'Ask for what fits: SLM("{found.model}", quantization="{smaller.held_as}").'
    return f'SLM("{found.model}") fits.'


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _size(nbytes: int) -> str:
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.2f} GB"
    return f"{nbytes / 1e6:.1f} MB"
