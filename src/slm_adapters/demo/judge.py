"""Whether a role's answer to a ticket is right, read from the recorded calls and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..calls import Call, ToolCall
from .roles import LOOKUP, REPLY, TOOL_NAME, TRIAGE, expected_lookup, expected_triage, same_answer
from .standin import STATUS_WORDS
from .tickets import Ticket

__all__ = ["REPLY_CHECKS", "Answer", "answer_of", "expected", "is_right", "problem"]

#: What "correct" means for a reply; printed wherever the figure is.
REPLY_CHECKS: Final = (
    "simple checks only: the ticket's language, and the order id and status when it has an order"
)

_JAPANESE = re.compile(r"[぀-ヿ]")
#: English words that say a status; the status itself always counts.
_ENGLISH_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "processing": ("process",),
    "packed": ("pack",),
    "shipped": ("ship",),
    "in transit": ("transit", "on its way", "on the way"),
    "delivered": ("deliver",),
    "cancelled": ("cancel",),
    "returned": ("return",),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one role made of one ticket: its last text, and the order ids it looked up."""

    text: str = ""
    looked_up: tuple[str, ...] = ()


def answer_of(calls: Iterable[Call]) -> Answer:
    """Join the calls of one role on one ticket; they may come in any order."""
    text, looked_up = "", []
    for call in sorted(calls, key=lambda call: call.started_ns):
        for reply in call.replies[:1]:
            tools = (tool for tool in reply.message.tool_calls if tool.name == TOOL_NAME)
            looked_up += [_order_id(tool) for tool in tools]
            text = reply.message.text or text
    return Answer(text.strip(), tuple(looked_up))


def expected(role: str, ticket: Ticket) -> str:
    """The right answer of triage and look-up; what is checked of a reply."""
    if role == TRIAGE.name:
        return expected_triage(ticket)
    return expected_lookup(ticket) if role == LOOKUP.name else REPLY_CHECKS


def is_right(role: str, ticket: Ticket, answer: Answer) -> bool:
    """Whether ``answer`` has no ``problem``."""
    return problem(role, ticket, answer) is None


def problem(role: str, ticket: Ticket, answer: Answer) -> str | None:
    """What is wrong with an answer in a few words, None when it is right."""
    if not answer.text:
        return "no answer"
    if role == REPLY.name:
        return _reply_problem(ticket, answer.text)
    if not same_answer(answer.text, expected(role, ticket)):
        return _wrong_fields(answer.text, expected(role, ticket))
    if role == LOOKUP.name:
        return _look_up_problem(ticket, answer.looked_up)
    return None


def _wrong_fields(text: str, wanted: str) -> str:
    try:
        given, right = json.loads(text), json.loads(wanted)
    except ValueError:
        return "not JSON"
    if not isinstance(given, dict) or given.keys() != right.keys():
        return "not the expected fields"
    return "wrong " + ", ".join(key for key in right if given[key] != right[key])


def _look_up_problem(ticket: Ticket, looked_up: Sequence[str]) -> str | None:
    wanted = {ticket.order_id} if ticket.order_id else set()
    if set(looked_up) == wanted:
        return None
    return "looked up another id" if looked_up else "did not call the tool"


def _reply_problem(ticket: Ticket, text: str) -> str | None:
    if bool(_JAPANESE.search(text)) != (ticket.language == "ja"):
        return "wrong language"
    if ticket.order is None:
        return None
    if ticket.order["order_id"] not in text:
        return "does not name the order"
    status = ticket.order["status"]
    words = (status, *_ENGLISH_WORDS.get(status, ()), *STATUS_WORDS.get(status, ()))
    return None if any(word in text.lower() for word in words) else "does not name the status"


def _order_id(tool: ToolCall) -> str:
    try:
        return str(tool.parsed().get("order_id"))
    except ValueError:
        return tool.arguments
