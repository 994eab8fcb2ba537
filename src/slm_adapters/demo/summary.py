"""Figures about recorded calls: pure functions from ``Call``s to rows of a table.

Both ``slm-adapters demo`` and ``slm-adapters calls`` print what is computed here, from the call
store alone.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..calls import Call
from ..engine.engine import ChatEngine
from ..telemetry import semconv
from .judge import Answer, answer_of, is_right
from .roles import ROLES
from .tickets import Ticket

__all__ = [
    "FLOWS",
    "STAGES",
    "CallStats",
    "Moved",
    "RoleRow",
    "Share",
    "by_role",
    "calls_per_role_and_model",
    "fallback_reason",
    "moved",
    "percentile",
    "stats",
    "wilson",
]

Stage = Literal["before", "after"]
Flow = Literal["crewai", "langgraph"]
STAGES: tuple[Stage, ...] = ("before", "after")
FLOWS: tuple[Flow, ...] = ("crewai", "langgraph")

#: Framework, stage, role.
Place = tuple[str, str, str]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class CallStats:
    """Figures of a group of calls. Latencies are those of answered calls, in seconds.

    ``fallbacks``: how often the SLM handed over, by reason.
    """

    calls: int
    failed: int
    input_tokens: int
    output_tokens: int
    p50_s: float | None
    p95_s: float | None
    fallbacks: tuple[tuple[str, int], ...]
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """``right`` of ``n`` with its Wilson 95 % interval, all as numbers from 0 to 1."""

    right: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.right / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class RoleRow:
    """One role in one framework at one stage.

    ``stage`` is before, after, or fallback: the LLM's calls for a swapped role. Those belong to
    the answers counted under after, so their ``correct`` is None. ``local``: the SLM's calls.
    """

    flow: str
    stage: str
    role: str
    stats: CallStats
    correct: Share | None
    latencies_s: tuple[float, ...]
    local: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """How much of a flow the SLM took over. Tokens are the LLM's, before and after the swap."""

    flow: str
    slm_calls: int
    calls: int
    llm_tokens_before: int
    llm_tokens_after: int

    @property
    def calls_share(self) -> float:
        """Share of the calls after the swap that the SLM answered."""
        return self.slm_calls / self.calls if self.calls else 0.0

    @property
    def tokens_share(self) -> float:
        """Share of the LLM's tokens that it no longer sees."""
        before = self.llm_tokens_before
        return 1 - self.llm_tokens_after / before if before else 0.0


def percentile(values: Sequence[float], q: float) -> float | None:
    """The ``q``-th percentile (0 to 100), interpolated linearly; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default; (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share(right: int, n: int) -> Share:
    """``right`` of ``n`` with its interval."""
    return Share(right, n, *wilson(right, n))


def fallback_reason(call: Call) -> str | None:
    """Why the SLM handed this call to its fallback; None when it did not."""
    reason = call.attributes.get(semconv.FALLBACK_REASON)
    return str(reason) if reason else None


def model_of(call: Call) -> str:
    """The model that was asked: what the program names; an answer may name a version of it."""
    return call.model or call.response_model or "unknown"


def stats(calls: Iterable[Call]) -> CallStats:
    """Figures of these calls; tokens a call does not report count as none."""
    calls = list(calls)
    usages = [call.usage for call in calls if call.usage is not None]
    latencies = _latencies(calls)
    reasons = Counter(reason for call in calls if (reason := fallback_reason(call)))
    return CallStats(
        calls=len(calls),
        failed=sum(call.outcome == "failed" for call in calls),
        input_tokens=sum(usage.input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        p50_s=percentile(latencies, 50),
        p95_s=percentile(latencies, 95),
        fallbacks=tuple(reasons.most_common()),
        models=tuple(sorted({model_of(call) for call in calls})),
    )


def calls_per_role_and_model(calls: Iterable[Call]) -> list[tuple[str, str, CallStats]]:
    """(role, model, figures) of any call store, the busiest role first."""
    groups = _grouped(calls, lambda call: (call.role or "(no role)", model_of(call)))
    rows = [(role, model, stats(group)) for (role, model), group in groups.items()]
    return sorted(rows, key=lambda row: (-row[2].calls, row[0], row[1]))


def by_role(calls: Iterable[Call], tickets: Sequence[Ticket]) -> list[RoleRow]:
    """The demo's table. A ticket that a role never answered counts as wrong."""
    groups = _grouped(calls, _place)
    ran = {place[:2] for place in groups}
    return [
        row
        for flow in FLOWS
        for role in ROLES
        for stage in STAGES
        if (flow, stage) in ran
        for row in _rows((flow, stage, role.name), groups, tickets)
    ]


def moved(calls: Iterable[Call]) -> list[Moved]:
    """Per framework, how much the SLM took over."""
    groups = _grouped(calls, _place)
    result = []
    for flow in FLOWS:
        before, after = (
            [c for place, group in groups.items() if place[:2] == (flow, stage) for c in group]
            for stage in STAGES
        )
        if after:
            # A call that fell back is one question, asked again: the LLM's own call counts.
            asked = [c for c in after if fallback_reason(c) is None]
            local = sum(is_local(c) and c.outcome == "finished" for c in asked)
            llm = [c for c in after if not is_local(c)]
            result.append(Moved(flow, local, len(asked), _tokens(before), _tokens(llm)))
    return result


def is_local(call: Call) -> bool:
    """Whether the call was put to a model in this process: the SLM."""
    return call.provider == ChatEngine.provider


def answers(calls: Iterable[Call]) -> dict[tuple[str, str, str, str], Answer]:
    """Each role's answer by (flow, stage, role, ticket id)."""
    groups = _grouped(calls, lambda call: (*_place(call), call.run_id or ""))
    return {place: answer_of(group) for place, group in groups.items()}


def _rows(
    place: Place, groups: Mapping[Place, list[Call]], tickets: Sequence[Ticket]
) -> list[RoleRow]:
    (flow, stage, role), calls = place, groups.get(place, [])
    per_ticket = _grouped(calls, lambda call: call.run_id)
    right = sum(is_right(role, t, answer_of(per_ticket.get(t.id, ()))) for t in tickets)
    correct = share(right, len(tickets))
    local = [call for call in calls if is_local(call)]
    if not local:
        return [RoleRow(flow, stage, role, stats(calls), correct, tuple(_latencies(calls)), False)]
    rows = [RoleRow(flow, stage, role, stats(local), correct, tuple(_latencies(local)), True)]
    rest = [call for call in calls if not is_local(call)]
    if rest:
        latencies = tuple(_latencies(rest))
        rows.append(RoleRow(flow, "fallback", role, stats(rest), None, latencies, False))
    return rows


def _latencies(calls: Iterable[Call]) -> list[float]:
    """Of answers given by the model itself: a call that fell back also waited for the fallback."""
    return [c.duration_s for c in calls if c.outcome == "finished" and not fallback_reason(c)]


def _place(call: Call) -> Place:
    labels = call.attributes
    return str(labels.get("flow", "")), str(labels.get("stage", "")), call.role or ""


def _tokens(calls: Iterable[Call]) -> int:
    return sum(call.usage.total_tokens for call in calls if call.usage is not None)


def _grouped(calls: Iterable[Call], key: Callable[[Call], Key]) -> dict[Key, list[Call]]:
    groups: defaultdict[Key, list[Call]] = defaultdict(list)
    for call in calls:
        groups[key(call)].append(call)
    return dict(groups)
