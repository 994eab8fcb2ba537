"""The demo's three roles as plain texts, and the tool that the second one calls.

The bundled model takes over ``TRIAGE`` and ``LOOKUP``; ``REPLY`` stays on the large model. The same
texts serve a CrewAI crew (role, goal, backstory, description, expected output) and a LangGraph
agent (system prompt, with the ticket as the user's message).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from slm_adapters.demo.tickets import OrderRecord, Ticket


@dataclass(frozen=True, slots=True)
class Role:
    """One role. ``instructions`` says what to do, ``expected_output`` what to hand back."""

    name: str
    goal: str
    backstory: str
    instructions: str
    expected_output: str

    @property
    def description(self) -> str:
        """A CrewAI task description; CrewAI fills in ``{ticket}``."""
        return f"{self.instructions}\n\nTicket:\n{{ticket}}"

    @property
    def system_prompt(self) -> str:
        """A LangGraph system prompt; the ticket is the user's message."""
        return f"You are {self.name}. {self.instructions}\n\nAnswer with: {self.expected_output}"


TRIAGE: Final = Role(
    name="Triage",
    goal="Sort every support ticket correctly",
    backstory="You read the incoming tickets of an online shop.",
    instructions=(
        "Triage this support ticket.\n"
        "category: delivery (parcel late, lost, or its address), return (send back, exchange, "
        "cancel, refund), damaged (broken, faulty or wrong item), billing (charge, payment, "
        "invoice, discount), account (login, password, profile), question (about a product, "
        "nothing is wrong).\n"
        "priority: high (urgent, dangerous, or needed by tomorrow), low (the customer is in no "
        "hurry), normal (anything else).\n"
        "language: en or ja.\n"
        "order_id: id of the order that the ticket is about, copied exactly, or null."
    ),
    expected_output="One line of JSON with the keys category, priority, language, order_id.",
)

LOOKUP: Final = Role(
    name="Order look-up",
    goal="Find the order behind a support ticket",
    backstory="You have access to the orders of an online shop.",
    instructions=(
        "Look up the order that this support ticket is about: call lookup_order with its order id, "
        "copied exactly. Call nothing if the ticket names no order id."
    ),
    expected_output=(
        "One line of JSON with the keys order_id, item, status, eta, copied from the tool's "
        "result; all null if there is no order."
    ),
)

REPLY: Final = Role(
    name="Reply writer",
    goal="Write replies that solve the customer's problem",
    backstory="You answer the tickets of an online shop, friendly and to the point.",
    instructions=(
        "Write the reply to this support ticket, in the language of the ticket. Use its triage and "
        "the order that was looked up, and promise nothing that they do not say."
    ),
    expected_output="The text of the reply, ready to send, at most 120 words.",
)

ROLES: Final = (TRIAGE, LOOKUP, REPLY)

TOOL_NAME: Final = "lookup_order"
TOOL_DESCRIPTION: Final = "Look up an order by its id. Returns the order as JSON, or null."
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": TOOL_NAME,
        "description": TOOL_DESCRIPTION,
        "parameters": {
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
            "type": "object",
        },
    },
}


def lookup_order(orders: Mapping[str, OrderRecord], order_id: str) -> str:
    """What the tool returns: the whole record as JSON, ``null`` for an unknown id."""
    return json.dumps(orders.get(order_id), ensure_ascii=False)


def expected_triage(ticket: Ticket) -> str:
    """The right answer of ``TRIAGE``, in the form the model is trained to give."""
    return _compact(
        {
            "category": ticket.category,
            "priority": ticket.priority,
            "language": ticket.language,
            "order_id": ticket.order_id,
        }
    )


def expected_lookup(ticket: Ticket) -> str:
    """The right final answer of ``LOOKUP``."""
    keys = ("order_id", "item", "status", "eta")
    record = ticket.order
    return _compact({key: record[key] if record else None for key in keys})  # type: ignore[literal-required]


def same_answer(answer: str, expected: str) -> bool:
    """Whether two answers are the same JSON value; spaces and key order do not count."""
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except ValueError:
        return False


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
