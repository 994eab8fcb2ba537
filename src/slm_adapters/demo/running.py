"""Run the demo and compute its report."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ..engine.loader import load_engine
from ..store.database import CallStore
from .desk import check_key
from .figures import FLOW_NAMES
from .processes import side_by_side
from .report import Report, make_report, peak_memory_mib
from .settings import STORE, Progress, Settings, tickets_for
from .stages import FlowResult, run_flow
from .standin import STAND_IN
from .tickets import Ticket

__all__ = ["run_demo"]


def run_demo(settings: Settings, progress: Progress) -> Report:
    """Run every framework and compute the report; raises ``SLMAdaptersError``.

    Frameworks run side by side where there are cores for it and the SLM is the bundled one, small
    enough to be in memory twice; else one after the other in this process.
    """
    started = time.monotonic()
    check_key(settings)
    tickets, seed = tickets_for(settings)
    engine = load_engine(settings.slm, quantization=settings.quantization)
    _remove_old_store(settings.output)
    apart = len(settings.flows) > 1 and settings.slm == "bundled" and (os.cpu_count() or 1) > 1
    results = (side_by_side if apart else _one_after_another)(settings, tickets, progress)
    with CallStore(settings.output / STORE) as store:
        calls = list(store)
    return make_report(
        calls,
        tickets,
        llm=settings.llm or STAND_IN,
        slm=engine.name,
        traces={result.flow: result.trace for result in results},
        failed={
            f"{FLOW_NAMES[result.flow]}, {stage}": count
            for result in results
            for stage, count in result.failed.items()
        },
        seed=seed,
        processes=len(results) if apart else 1,
        workers=settings.workers,
        wall_s=time.monotonic() - started,
        peak_mib=_peak(results) if apart else peak_memory_mib(),
    )


def _one_after_another(
    settings: Settings, tickets: Sequence[Ticket], progress: Progress
) -> list[FlowResult]:
    return [run_flow(flow, settings, tickets, progress) for flow in settings.flows]


def _peak(results: Sequence[FlowResult]) -> float | None:
    """The sum of all processes' peaks, this one's included."""
    peaks = [peak_memory_mib(), *(result.peak_mib for result in results)]
    return None if None in peaks else sum(peak for peak in peaks if peak)


def _remove_old_store(output: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (output / f"{STORE}{suffix}").unlink(missing_ok=True)
