"""Frameworks side by side, one process each: a small model keeps one core busy, not two."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import MissingExtraError, ModelNotFoundError, RequestError, SLMAdaptersError
from .figures import FLOW_NAMES
from .quiet import quiet
from .settings import LOG, DemoError, Progress, Settings
from .stages import FlowResult, run_flow
from .summary import Flow
from .tickets import Ticket

__all__ = ["side_by_side"]

#: How often a silent process is checked for life, in seconds.
_GLANCE_S = 1.0


def side_by_side(
    settings: Settings, tickets: Sequence[Ticket], progress: Progress
) -> list[FlowResult]:
    """Run every framework in a process of its own; raises what the first failing one raises."""
    results: dict[Flow, FlowResult] = {}
    warned: set[str] = set()
    with _started(settings, tickets) as (processes, messages):
        while len(results) < len(settings.flows):
            try:
                kind, flow, *rest = messages.get(timeout=_GLANCE_S)
            except queue.Empty:
                _check_alive(processes, results)
                continue
            if kind == "done":
                results[flow] = rest[0]
            elif kind == "error":
                raise (RequestError if rest[0] else DemoError)(rest[1])
            elif kind == "warn" and rest[0] not in warned:
                warned.add(rest[0])
                progress.warn(rest[0])
            elif kind == "start":
                progress.start(flow, *rest)
            elif kind == "advance":
                progress.advance(flow)
    return [results[flow] for flow in settings.flows]


@contextlib.contextmanager
def _started(
    settings: Settings, tickets: Sequence[Ticket]
) -> Iterator[tuple[dict[Flow, BaseProcess], Any]]:
    # Spawned: torch's threads and open databases do not survive a fork.
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    processes: dict[Flow, BaseProcess] = {
        flow: context.Process(
            target=_work, args=(flow, settings, list(tickets), messages), daemon=True
        )
        for flow in settings.flows
    }
    try:
        for process in processes.values():
            process.start()
        yield processes, messages
        for process in processes.values():
            process.join()
    finally:
        for process in processes.values():
            if process.is_alive():
                process.terminate()
        messages.close()


def _check_alive(processes: dict[Flow, BaseProcess], results: dict[Flow, FlowResult]) -> None:
    for flow, process in processes.items():
        if flow not in results and not process.is_alive() and process.exitcode:
            raise DemoError(
                f"the process of {FLOW_NAMES[flow]} died (exit code {process.exitcode}), often "
                "for want of memory: run one framework at a time with --framework."
            )


class _Messages:
    """A ``Progress`` at the other end of a queue."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages

    def start(self, flow: Flow, title: str, total: int) -> None:
        self._messages.put(("start", flow, title, total))

    def advance(self, flow: Flow) -> None:
        self._messages.put(("advance", flow))

    def warn(self, text: str) -> None:
        self._messages.put(("warn", None, text))


def _work(flow: Flow, settings: Settings, tickets: list[Ticket], messages: Any) -> None:
    # Ctrl-C reaches the whole group: the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = _Messages(messages)
    with quiet(settings.output / LOG, progress.warn):
        try:
            messages.put(("done", flow, run_flow(flow, settings, tickets, progress)))
        except SLMAdaptersError as error:
            # As text: not every exception can be rebuilt from its arguments.
            wrong_input = isinstance(error, MissingExtraError | ModelNotFoundError | RequestError)
            messages.put(("error", flow, wrong_input, str(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
