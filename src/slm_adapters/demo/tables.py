"""The demo on a terminal: tables and span trees, made of what ``report`` holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from . import figures
from .figures import FLOW_NAMES
from .spans import SpanNode
from .summary import CallStats, Moved, RoleRow

__all__ = ["calls_table", "fallback_lines", "moved_line", "role_table", "span_tree"]


def role_table(rows: Sequence[RoleRow], flow: str, *, scripted: str | None = None) -> Table:
    """One framework's roles; the latency of the model named ``scripted`` gets a star.

    Two lines per row, so that it fits a terminal of 80 columns.
    """
    table = Table(
        title=FLOW_NAMES[flow],
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Role\nstage", no_wrap=True)
    table.add_column("Model", overflow="fold", min_width=8)
    for name in ("Calls", "Tokens in\nand out", "Latency\np50, p95", "Correct\n95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Fell\nback", justify="right", no_wrap=True, min_width=4)
    for row in rows:
        if row.flow == flow:
            if row.stage == "before":
                table.add_section()
            table.add_row(*_cells(row, scripted))
    return table


def fallback_lines(rows: Iterable[RoleRow]) -> list[str]:
    """Why the SLM handed over, one sentence per role that it happened to."""
    return [
        f"{FLOW_NAMES[row.flow]}, {row.role}: fell back {figures.fallbacks(row.stats.fallbacks)}"
        for row in rows
        if row.stats.fallbacks
    ]


def _cells(row: RoleRow, scripted: str | None) -> list[str | Text]:
    stats, correct = row.stats, row.correct
    right = ""
    if correct is not None:
        share = f"{correct.right}/{correct.n} {figures.percent(correct.value)}"
        right = f"{share}\n{figures.interval(correct)}"
    star = "*" if scripted in stats.models else ""
    return [
        Text.assemble((row.role, "bold" if row.stage == "before" else ""), "\n", row.stage),
        escape(figures.models(stats)),
        f"{stats.calls:,}",
        f"{stats.input_tokens:,}\n{stats.output_tokens:,}",
        Text(
            f"{figures.latency(stats.p50_s)}{star}\n{figures.latency(stats.p95_s)}{star}",
            style="dim" if star else "",
        ),
        right,
        str(sum(count for _, count in stats.fallbacks)),
    ]


def moved_line(moved: Moved, slm: str) -> str:
    """What the SLM took over in one framework, in a sentence."""
    return (
        f"{FLOW_NAMES[moved.flow]}: {slm} now answers {moved.slm_calls:,} of {moved.calls:,} calls "
        f"({figures.percent(moved.calls_share)}). The LLM's tokens went from "
        f"{moved.llm_tokens_before:,} to {moved.llm_tokens_after:,} "
        f"({figures.percent(moved.tokens_share)} moved)."
    )


def span_tree(title: str, roots: Iterable[SpanNode]) -> Tree:
    """One trace, as a tree."""
    tree = Tree(Text(title, style="bold"))
    for root in roots:
        _grow(tree, root)
    return tree


def _grow(tree: Tree, node: SpanNode) -> None:
    label = Text(node.name, style="red" if node.failed else "")
    facts = [node.kind, figures.latency(node.duration_s), *node.details]
    label.append("  " + ", ".join(facts), style="dim")
    branch = tree.add(label)
    for child in node.children:
        _grow(branch, child)


def calls_table(rows: Iterable[tuple[str, str, CallStats]]) -> Table:
    """The calls of any store, per role and model."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Role", overflow="fold")
    table.add_column("Model", overflow="fold")
    for name in ("Calls", "Failed", "Tokens in", "out", "p50", "p95", "Fell\nback"):
        table.add_column(name, justify="right", no_wrap="back" not in name)
    for role, model, stats in rows:
        table.add_row(
            escape(role),
            escape(model),
            f"{stats.calls:,}",
            f"{stats.failed:,}",
            f"{stats.input_tokens:,}",
            f"{stats.output_tokens:,}",
            figures.latency(stats.p50_s),
            figures.latency(stats.p95_s),
            figures.fallbacks(stats.fallbacks),
        )
    return table
