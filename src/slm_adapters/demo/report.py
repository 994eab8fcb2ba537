"""What a run of the demo comes to: everything the terminal and the page show, computed once."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..calls import Call
from .figures import percent
from .judge import REPLY_CHECKS, Answer, expected, problem
from .roles import LOOKUP, REPLY, ROLES, TRIAGE
from .spans import SpanNode
from .standin import STAND_IN
from .summary import Moved, RoleRow, answers, by_role, moved
from .tickets import Ticket

__all__ = ["SWAPPED", "Example", "Report", "make_report", "peak_memory_mib"]

#: The roles that the SLM takes over.
SWAPPED: Final = (TRIAGE.name, LOOKUP.name)

_EMPTY: Final = Answer()


@dataclass(frozen=True, slots=True)
class RoleAnswer:
    """One role's answer to an example ticket; ``problem`` is None when it is right."""

    role: str
    text: str
    looked_up: tuple[str, ...]
    problem: str | None
    expected: str


@dataclass(frozen=True, slots=True)
class Example:
    """A ticket with what the roles made of it after the swap."""

    flow: str
    ticket: Ticket
    answers: tuple[RoleAnswer, ...]

    @property
    def right(self) -> bool:
        """Whether the swapped roles were right."""
        return all(a.problem is None for a in self.answers if a.role in SWAPPED)


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one run. ``wall_s`` in seconds, ``peak_mib`` in MiB (None where unknown)."""

    llm: str
    slm: str
    tickets: int
    japanese: int
    seed: int | None
    processes: int
    workers: int
    rows: list[RoleRow]
    moved: list[Moved]
    traces: Mapping[str, list[SpanNode]]
    examples: list[Example]
    failed: Mapping[str, int]
    wall_s: float
    peak_mib: float | None

    @property
    def flows(self) -> list[str]:
        """The frameworks that ran."""
        return list(dict.fromkeys(row.flow for row in self.rows))

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the figures rightly."""
        notes = [
            "Triage and order look-up are correct when their JSON equals the ticket's truth, and "
            "the look-up also called the tool with the right order id, or not at all without one.",
            f"Reply writer: {REPLY_CHECKS}.",
            "Intervals are Wilson score intervals at 95 %. Latency is per model call; the look-up "
            "makes two calls for a ticket with an order.",
        ]
        if self.llm == STAND_IN:
            notes.insert(
                0,
                f"* “{STAND_IN}” is no model: no API key was given, so a script plays the large "
                "LLM. It reads triage and look-up from the tickets' truth, so it is right by "
                "construction; its latency is no model's latency, and its tokens are estimated at "
                "four bytes each. Run with --llm gpt-4.1-mini to compare with a real one.",
            )
        return notes

    def verdict(self, flow: str) -> str:
        """How right the swapped roles are in this framework, in a sentence."""
        shares = [
            f"{row.role.lower()} for {row.correct.right} of {row.correct.n} "
            f"({percent(row.correct.value)})"
            for row in self.rows
            if row.flow == flow and row.stage == "after" and row.role in SWAPPED and row.correct
        ]
        return f"After the swap, right answers: {' and '.join(shares)} tickets."

    @property
    def machine(self) -> str:
        """Where it ran, as far as it matters for the figures."""
        python = ".".join(map(str, sys.version_info[:2]))
        cores = f"{os.cpu_count()} cores, " if os.cpu_count() else ""
        apart = f"{self.processes} processes, " if self.processes > 1 else ""
        at_a_time = f"{self.workers} ticket(s) at a time in each framework"
        return f"{cores}{platform.machine()}, Python {python}, {apart}{at_a_time}"


def make_report(
    calls: Iterable[Call],
    tickets: Sequence[Ticket],
    *,
    llm: str,
    slm: str,
    traces: Mapping[str, list[SpanNode]],
    failed: Mapping[str, int],
    seed: int | None,
    processes: int,
    workers: int,
    wall_s: float,
    peak_mib: float | None,
) -> Report:
    """Compute everything from the records and the tickets' truth."""
    calls = list(calls)
    rows = by_role(calls, tickets)
    return Report(
        llm=llm,
        slm=slm,
        tickets=len(tickets),
        japanese=sum(ticket.language == "ja" for ticket in tickets),
        seed=seed,
        processes=processes,
        workers=workers,
        rows=rows,
        moved=moved(calls),
        traces=traces,
        examples=_examples(calls, tickets, rows[0].flow if rows else ""),
        failed=failed,
        wall_s=wall_s,
        peak_mib=peak_mib,
    )


def peak_memory_mib() -> float | None:
    """The process's peak resident memory."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _examples(calls: Sequence[Call], tickets: Sequence[Ticket], flow: str) -> list[Example]:
    """Two right ones per language, and up to four wrong ones: as many as possible, unchosen."""
    given = answers(call for call in calls if call.attributes.get("stage") == "after")
    shown = [_example(flow, ticket, given) for ticket in tickets]
    wrong = [example for example in shown if not example.right][:4]
    right = [
        example
        for language in ("en", "ja")
        for example in [e for e in shown if e.right and e.ticket.language == language][:2]
    ]
    return [*right, *wrong]


def _example(
    flow: str, ticket: Ticket, given: Mapping[tuple[str, str, str, str], Answer]
) -> Example:
    found = {role.name: given.get((flow, "after", role.name, ticket.id), _EMPTY) for role in ROLES}
    return Example(
        flow,
        ticket,
        tuple(
            RoleAnswer(
                name,
                answer.text,
                answer.looked_up,
                problem(name, ticket, answer),
                "" if name == REPLY.name else expected(name, ticket),
            )
            for name, answer in found.items()
        ),
    )
