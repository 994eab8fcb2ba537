"""The page's two plots as inline SVG whose colours follow the page's light or dark theme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from . import figures
from .figures import FLOW_NAMES
from .summary import RoleRow, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["correctness_plot", "latency_plot"]

#: Drawn in these colours, shown in the page's own: theme colours cannot be known here.
_THEME: Final = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)",
                 "#040404": "var(--llm)", "#050505": "var(--slm)"}  # fmt: skip
_INK, _MUTED, _LINE, _LLM, _SLM = _THEME
#: For a range that may hold a single power of ten; in seconds.
_TICKS: Final = [digit * 10.0**power for power in range(-5, 3) for digit in (1, 2, 5)]
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.left": False,
    "ytick.labelcolor": _INK,
}


def latency_plot(rows: Sequence[RoleRow]) -> str:
    """Per row: p5 to p95 as a line, p25 to p75 as a bar, p50 as a mark; the SLM's in colour."""

    def draw(axes: Axes, y: float, row: RoleRow, colour: str) -> None:
        marks = [percentile(row.latencies_s, q) for q in (5, 25, 50, 75, 95)]
        low, first, middle, third, high = (mark or 1e-6 for mark in marks)
        axes.plot([low, high], [y, y], color=colour, linewidth=1.5, solid_capstyle="butt")
        axes.barh(y, third - first, left=first, height=0.5, color=colour, linewidth=0)
        axes.plot([middle, middle], [y - 0.36, y + 0.36], color=_INK, linewidth=1.6)
        label = f"{figures.latency(row.stats.p50_s)} / {figures.latency(row.stats.p95_s)}"
        axes.annotate(
            label, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )

    def finish(axes: Axes) -> None:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        if high / low < 100:
            axes.set_xticks([t for t in _TICKS if low <= t <= high])
        axes.xaxis.set_major_formatter(lambda value, _: figures.latency(value).replace(".0 ", " "))
        axes.minorticks_off()
        axes.set_xlabel("time per model call, logarithmic; at the right p50 / p95")

    shown = [row for row in rows if row.latencies_s and row.stage != "fallback"]
    return _plot("latency", shown, draw, finish)


def correctness_plot(rows: Sequence[RoleRow]) -> str:
    """Per row: the share of right answers as a dot, its 95 % interval as a line."""

    def draw(axes: Axes, y: float, row: RoleRow, colour: str) -> None:
        share = row.correct
        assert share is not None, "only rows with a share are drawn"
        axes.plot([share.low * 100, share.high * 100], [y, y], color=colour, linewidth=2.2)
        axes.plot([share.value * 100], [y], "o", color=colour, markersize=6.5, clip_on=False)
        axes.annotate(
            figures.percent(share.value), (1.02, y), xycoords=("axes fraction", "data"),
            va="center", fontsize=8.5,
        )  # fmt: skip

    def finish(axes: Axes) -> None:
        lowest = min((row.correct.low for row in shown if row.correct), default=0.0) * 100
        axes.set_xlim(max(0.0, lowest - 5), 100)
        axes.set_xlabel("answers that are right, in percent, with 95 % intervals")

    shown = [row for row in rows if row.correct]
    return _plot("correctness", shown, draw, finish)


def _plot(
    name: str,
    rows: Sequence[RoleRow],
    draw: Callable[[Axes, float, RoleRow, str], None],
    finish: Callable[[Axes], None],
) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    places, headings = _places(rows)
    bottom = max([*places, *headings.values()], default=0.0) + 0.8
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.4, 0.9 + 0.25 * bottom), layout="constrained")
        axes = figure.subplots()
        for y, row in zip(places, rows, strict=True):
            draw(axes, y, row, _SLM if row.local else _LLM)
        names = [f"{FLOW_NAMES[row.flow]}, {row.stage}" for row in rows]
        axes.set_yticks([*places, *headings.values()], [*names, *headings])
        for label in axes.get_yticklabels()[len(rows) :]:
            label.set_fontweight("bold")
        axes.set_ylim(bottom, -0.6)
        finish(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue())


def _places(rows: Sequence[RoleRow]) -> tuple[list[float], dict[str, float]]:
    """Where each row goes, under a heading per role."""
    order = list(dict.fromkeys(row.role for row in rows))
    counts = {role: sum(row.role == role for row in rows) for role in order}
    headings: dict[str, float] = {}
    y = 0.0
    for role in order:
        headings[role] = y
        y += counts[role] + 1.4
    taken = dict.fromkeys(order, 0)
    places = []
    for row in rows:
        taken[row.role] += 1
        places.append(headings[row.role] + taken[row.role])
    return places, headings


def _inline(svg: str) -> str:
    """An ``<svg>`` element to put into HTML: no prolog, no fixed size, themed colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    for drawn, shown in _THEME.items():
        svg = svg.replace(drawn, shown)
    return svg.strip()
