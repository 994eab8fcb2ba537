"""``slm-adapters demo`` and ``slm-adapters calls``, as a person sees them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..errors import RequestError
from ..store.database import CallStore
from . import page
from .figures import FLOW_NAMES
from .quiet import quiet
from .report import Report
from .running import run_demo
from .settings import LOG, Settings
from .standin import STAND_IN
from .summary import calls_per_role_and_model
from .tables import calls_table, fallback_lines, moved_line, role_table, span_tree

__all__ = ["show_calls", "show_demo"]


def show_demo(settings: Settings, console: Console) -> Report:
    """Run the demo, print its figures, and write its page into ``settings.output``."""
    page.check_extras()
    _make_writable(settings.output)
    _introduce(settings, console)
    with (
        _bars(console) as bars,
        quiet(settings.output / LOG, (progress := _Bars(bars)).warn, _threads(settings)),
    ):
        report = run_demo(settings, progress)
        path = settings.output / "report.html"
        page.write(report, path)
    _print(report, console)
    console.print(f"\nPage: {path}", highlight=False, soft_wrap=True)
    return report


def show_calls(location: str, role: str | None, console: Console) -> None:
    """Print the calls of a store per role and model."""
    if "://" not in location and not _is_store(Path(location).expanduser()):
        raise RequestError(
            f"{location} is no call store: name the file that was given as store= to a "
            "CallRecorder."
        )
    with CallStore(location) as store:
        rows = calls_per_role_and_model(store.calls(role=role) if role else store)
    if not rows:
        which = f"no call of a role {role!r}" if role else "no call"
        console.print(f"{location} holds {which} yet.", highlight=False, soft_wrap=True)
        return
    console.print(calls_table(rows))


def _is_store(path: Path) -> bool:
    """Looked at read-only: ``CallStore`` would make its table in any SQLite file."""
    if not path.is_file():
        return False
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as db:
            query = "SELECT 1 FROM sqlite_master WHERE name = 'calls'"
            return db.execute(query).fetchone() is not None
    except sqlite3.Error:
        return False


def _threads(settings: Settings) -> dict[str, str]:
    # The bundled model is too small for several threads: they would wait for each other, and for
    # the frameworks, longer than they compute.
    return {"OMP_NUM_THREADS": "1"} if settings.slm == "bundled" else {}


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).write_text("", encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"cannot write into {folder} ({error.strerror}): name another folder with --output."
        ) from error


def _introduce(settings: Settings, console: Console) -> None:
    console.print(
        "A support desk of three roles works through generated tickets: first all roles on a large "
        "LLM, then triage and order look-up on a small local model, with the same agent code."
    )
    if settings.llm is None:
        console.print(
            f'[bold yellow]No --llm given:[/] the LLM is "{STAND_IN}", a script that knows the '
            "right answers. It is no model, and its latency is no model's latency.\n"
        )
    else:
        console.print(f"The large LLM is {escape(settings.llm)}; its calls cost money.\n")


class _Bars:
    """The runner's progress as one bar per stage and framework."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def start(self, flow: str, title: str, total: int) -> None:
        """A stage begins; without a total (loading a model), the bar only moves."""
        before = self._tasks.get(flow)
        if before is not None and self._bars.tasks[before].total is None:
            self._bars.update(before, visible=False)
        text = f"{FLOW_NAMES[flow]}, {title}"
        self._tasks[flow] = self._bars.add_task(text, total=total or None)

    def advance(self, flow: str) -> None:
        """One more ticket is done."""
        self._bars.advance(self._tasks[flow])

    def warn(self, text: str) -> None:
        """A warning, above the bars."""
        self._bars.console.print(f"[yellow]Warning:[/] {escape(text)}", highlight=False)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _print(report: Report, console: Console) -> None:
    scripted = STAND_IN if report.llm == STAND_IN else None
    for flow in report.flows:
        console.print()
        console.print(role_table(report.rows, flow, scripted=scripted))
    for line in fallback_lines(report.rows):
        console.print(line, highlight=False)
    for note in report.notes:
        console.print(note, style="dim", highlight=False)
    for title, count in report.failed.items():
        text = f"{title}: {count} ticket(s) ended in an error and count as wrong; see demo.log."
        console.print(text, style="yellow", highlight=False)
    console.print()
    for moved in report.moved:
        console.print(moved_line(moved, report.slm), style="bold", highlight=False)
        console.print(report.verdict(moved.flow), highlight=False)
    for flow, roots in report.traces.items():
        console.print()
        console.print(span_tree(f"One ticket as spans, {FLOW_NAMES[flow]}, after the swap", roots))
    memory = f", peak memory {report.peak_mib:,.0f} MiB" if report.peak_mib else ""
    console.print(f"\n{report.wall_s:.0f} s{memory}, {report.machine}", highlight=False)
