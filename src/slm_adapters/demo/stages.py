"""One framework's part of the demo: every ticket before the swap, then every ticket after it."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from ..calls import Call, run
from ..engine.loader import load_engine
from ..store.database import CallStore
from .desk import Desk, open_desk
from .report import peak_memory_mib
from .settings import STORE, DemoError, Progress, Settings
from .spans import KeptSpans, SpanNode, trees
from .summary import STAGES, Flow, Stage
from .tickets import Ticket, order_database

__all__ = ["FlowResult", "run_flow"]

logger = logging.getLogger("slm_adapters.demo")

#: A desk that fails on this many first tickets will fail on all of them.
_GIVE_UP_AFTER: Final = 3
_TITLES: Final[dict[Stage, str]] = {
    "before": "all roles on the LLM",
    "after": "two roles on the SLM",
}


@dataclass(frozen=True, slots=True)
class FlowResult:
    """What one framework's run leaves beside the calls in the store."""

    flow: Flow
    trace: list[SpanNode]
    failed: Mapping[str, int]
    peak_mib: float | None


def run_flow(
    flow: Flow, settings: Settings, tickets: Sequence[Ticket], progress: Progress
) -> FlowResult:
    """Run both stages of one framework, recording into the output folder's store."""
    failed: Counter[str] = Counter()
    kept = KeptSpans(settings.otlp)
    with contextlib.closing(CallStore(settings.output / STORE)) as store:
        recording = {"store": store, "tracer_provider": kept.provider, "app": "slm-adapters demo"}
        progress.start(flow, "starting", 0)
        desk = open_desk(flow, settings, tickets, order_database(tickets), recording)
        with contextlib.closing(desk):
            # Loaded before any clock runs; the desk's SLM finds it by name.
            engine = load_engine(settings.slm, quantization=settings.quantization)
            progress.start(flow, f"loading {engine.name}", 0)
            engine.warm_up()
            for stage in STAGES:
                if stage == "after":
                    kept.start()
                progress.start(flow, _TITLES[stage], len(tickets))
                with desk.swapped() if stage == "after" else contextlib.nullcontext():
                    count = _work_through(desk, flow, stage, tickets, settings, progress)
                failed[_TITLES[stage]] += count
        calls = list(store.calls())
    kept.export()
    shown = _trace_id(calls, flow, next((t for t in tickets if t.order), tickets[0]))
    trace = trees(kept.spans, shown) if shown else []
    return FlowResult(flow, trace, +failed, peak_memory_mib())


def _work_through(
    desk: Desk,
    flow: Flow,
    stage: Stage,
    tickets: Sequence[Ticket],
    settings: Settings,
    progress: Progress,
) -> int:
    """Answer every ticket; returns how many ended in an error. All of the first three: give up."""
    failed: list[Exception] = []

    def one(ticket: Ticket) -> None:
        try:
            with run(ticket.id, flow=flow, stage=stage):
                desk.answer(ticket)
        except Exception as error:
            logger.info("%s %s %s failed", flow, stage, ticket.id, exc_info=True)
            failed.append(error)
        progress.advance(flow)

    # The first tickets one by one: a wrong key should cost three calls, not all of them.
    for ticket in tickets[:_GIVE_UP_AFTER]:
        one(ticket)
    if len(failed) == min(_GIVE_UP_AFTER, len(tickets)):
        who = settings.llm or "the support desk"
        raise DemoError(
            f"{who} failed on each of the first tickets ({type(failed[-1]).__name__}): look into "
            "demo.log in the output folder."
        )
    pool = ThreadPoolExecutor(settings.workers)
    try:
        list(pool.map(one, tickets[_GIVE_UP_AFTER:]))
    finally:
        # After Ctrl-C: the tickets under way end, the others do not start.
        pool.shutdown(cancel_futures=True)
    return len(failed)


def _trace_id(calls: Sequence[Call], flow: Flow, ticket: Ticket) -> str | None:
    """The trace of this ticket after the swap."""
    for call in calls:
        labels = call.attributes
        if (labels.get("flow"), labels.get("stage"), call.run_id) == (flow, "after", ticket.id):
            return call.trace_id
    return None
