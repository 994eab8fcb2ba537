"""Run the demo: every ticket through every framework, before and after the swap, recorded."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..calls import Call, run
from ..engine.loader import load_engine
from ..errors import RequestError, SLMAdaptersError
from ..store.database import CallStore
from .desk import Choice, Desk, open_desk
from .figures import FLOW_NAMES
from .report import Report, make_report
from .spans import KeptSpans, SpanNode, trees
from .standin import STAND_IN
from .summary import STAGES, Flow, Stage
from .tickets import Ticket, generate, order_database, read, write

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from ..engine.loader import Quantization

__all__ = ["DemoError", "Progress", "Settings", "run_demo", "tickets_for"]

logger = logging.getLogger("slm_adapters.demo")

STORE = "demo-calls.db"
#: A real LLM that fails on this many first tickets will fail on all of them.
_GIVE_UP_AFTER = 3


class DemoError(SLMAdaptersError):
    """The demo cannot go on; the message says what to change."""

    reason = "demo"


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run. ``llm``: None for the stand-in. ``folder``: tickets to read, or to write."""

    output: Path
    folder: Path | None = None
    count: int = 250
    seed: int = 0
    flows: tuple[Flow, ...] = ("crewai", "langgraph")
    llm: str | None = None
    slm: Any = "bundled"
    quantization: Quantization = "nf4"
    workers: int = 2
    otlp: str | None = None


class Progress(Protocol):
    """What the runner tells while it works."""

    def start(self, title: str, total: int) -> None:
        """A stage of one framework begins."""

    def advance(self) -> None:
        """One more ticket is done."""


def tickets_for(settings: Settings) -> tuple[list[Ticket], int | None]:
    """The tickets and the seed they come from; None for a folder the user brought.

    The tickets go through the folder either way. Raises ``RequestError`` for a folder without any.
    """
    folder = settings.folder or settings.output / "tickets"
    own = settings.folder is not None and folder.is_dir() and any(folder.iterdir())
    if not own:
        write(folder, generate(settings.count, seed=settings.seed, split="heldout"))
    try:
        tickets = read(folder)[: settings.count]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} holds no tickets that can be read ({type(error).__name__}): name an empty "
            "or new folder to have tickets generated there, or one that the demo wrote."
        ) from error
    if not tickets:
        raise RequestError(f"{folder} holds no tickets: name an empty or new folder.")
    return tickets, None if own else settings.seed


def run_demo(settings: Settings, progress: Progress) -> Report:
    """Run everything and compute the report; raises ``SLMAdaptersError``."""
    started = time.monotonic()
    choice = Choice(settings.llm, settings.slm, settings.quantization, settings.workers)
    choice.check_key()
    tickets, seed = tickets_for(settings)
    engine = load_engine(settings.slm, quantization=settings.quantization)
    failed: Counter[str] = Counter()
    kept = KeptSpans(settings.otlp)
    with contextlib.closing(_new_store(settings.output)) as store, contextlib.ExitStack() as open_:
        recording = {"store": store, "tracer_provider": kept.provider, "app": "slm-adapters demo"}
        orders = order_database(tickets)
        progress.start("Starting " + " and ".join(FLOW_NAMES[f] for f in settings.flows), 0)
        desks: dict[Flow, Desk] = {}
        for flow in settings.flows:
            desks[flow] = open_desk(flow, choice, tickets, orders, recording)
            open_.callback(desks[flow].close)
        # Loaded before any clock runs; both frameworks find it by name.
        progress.start(f"Loading {engine.name}", 0)
        engine.warm_up()
        for stage in STAGES:
            if stage == "after":
                kept.start()
            for flow, desk in desks.items():
                title = f"{FLOW_NAMES[flow]}, {_TITLES[stage]}"
                progress.start(title, len(tickets))
                with desk.swapped() if stage == "after" else contextlib.nullcontext():
                    failed[title] = _work_through(desk, flow, stage, tickets, choice, progress)
        calls = list(store)
    kept.export()
    return make_report(
        calls,
        tickets,
        llm=settings.llm or STAND_IN,
        slm=engine.name,
        traces=_shown(calls, tickets, kept.spans),
        failed=+failed,
        seed=seed,
        workers=settings.workers,
        wall_s=time.monotonic() - started,
    )


_TITLES = {"before": "all roles on the LLM", "after": "two roles on the SLM"}


def _work_through(
    desk: Desk,
    flow: Flow,
    stage: Stage,
    tickets: Sequence[Ticket],
    choice: Choice,
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
        progress.advance()

    # The first tickets one by one: a wrong key should cost three calls, not all of them.
    for ticket in tickets[:_GIVE_UP_AFTER]:
        one(ticket)
    if len(failed) == min(_GIVE_UP_AFTER, len(tickets)):
        raise _gave_up(choice, failed[-1])
    pool = ThreadPoolExecutor(choice.workers)
    try:
        list(pool.map(one, tickets[_GIVE_UP_AFTER:]))
    finally:
        # After Ctrl-C: the tickets under way end, the others do not start.
        pool.shutdown(cancel_futures=True)
    return len(failed)


def _gave_up(choice: Choice, error: Exception) -> DemoError:
    who = choice.llm or "the support desk"
    return DemoError(
        f"{who} failed on each of the first tickets ({type(error).__name__}): look into demo.log "
        "in the output folder."
    )


def _new_store(output: Path) -> CallStore:
    for suffix in ("", "-wal", "-shm"):
        (output / f"{STORE}{suffix}").unlink(missing_ok=True)
    return CallStore(output / STORE)


def _shown(
    calls: Sequence[Call], tickets: Sequence[Ticket], spans: Sequence[ReadableSpan]
) -> dict[str, list[SpanNode]]:
    """Per framework, the spans of the first ticket with an order, after the swap."""
    chosen = next((ticket for ticket in tickets if ticket.order), tickets[0])
    shown: dict[str, list[SpanNode]] = {}
    for call in calls:
        labels = call.attributes
        if call.run_id == chosen.id and labels.get("stage") == "after" and call.trace_id:
            shown.setdefault(str(labels["flow"]), trees(spans, call.trace_id))
    return shown
