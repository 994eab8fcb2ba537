"""The scripted stand-in for a large LLM, used when no API key is given.

It is not a model. Triage and look-up are answered from the tickets' truth, so it is right by
construction; the reply is a form letter filled with what the look-up of the flow handed over, so a
wrong look-up shows in it. Its speed says nothing about any model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..calls import Message, ToolCall, Usage
from ..errors import RequestError
from .roles import LOOKUP, REPLY, TOOL_NAME, TRIAGE, expected_lookup, expected_triage
from .tickets import Ticket

__all__ = ["STAND_IN", "STATUS_WORDS", "StandIn", "estimated_usage", "unusable_llm"]

STAND_IN: Final = "stand-in"

#: How an order status may be said in a Japanese reply; the stand-in uses the first.
STATUS_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "processing": ("処理中", "準備中", "手配中"),
    "packed": ("梱包済み", "梱包", "発送準備"),
    "shipped": ("発送済み", "発送", "出荷"),
    "in transit": ("輸送中", "配送中", "配達中"),
    "delivered": ("配達済み", "お届け済み", "配達完了", "配送済み"),
    "cancelled": ("キャンセル済み", "キャンセル", "取り消し"),
    "returned": ("返品済み", "返品", "返送"),
}

_OBJECT = re.compile(r"\{[^{}]*\}")


class StandIn:
    """Answers chats of the demo's roles: ``StandIn(tickets).answer(messages)``."""

    def __init__(self, tickets: Iterable[Ticket]) -> None:
        # Longest first: a short ticket may be contained in a long one.
        self._tickets = sorted(tickets, key=lambda ticket: -len(ticket.text))

    def answer(self, messages: Sequence[Message]) -> Message:
        """The assistant's message; raises ``ValueError`` for a chat that is not the demo's."""
        prompt = "\n".join(message.text for message in messages)
        ticket = self._ticket(prompt)
        head = messages[0].text
        if head.startswith(f"You are {TRIAGE.name}."):
            return Message("assistant", expected_triage(ticket))
        if head.startswith(f"You are {LOOKUP.name}."):
            return _look_up(ticket, messages)
        if head.startswith(f"You are {REPLY.name}."):
            return Message("assistant", _reply(ticket, prompt))
        raise ValueError("the stand-in plays the demo's roles only: use a real LLM instead.")

    def _ticket(self, prompt: str) -> Ticket:
        for ticket in self._tickets:
            if ticket.text.strip() in prompt:
                return ticket
        raise ValueError("the stand-in knows the demo's tickets only: use a real LLM instead.")


def estimated_usage(messages: Sequence[Message], answer: Message) -> Usage:
    """Tokens at four bytes each: an estimate, because the stand-in has no tokenizer."""
    asked = sum(len(message.text.encode()) for message in messages)
    calls = "".join(call.name + call.arguments for call in answer.tool_calls)
    given = len((answer.text + calls).encode())
    return Usage(max(1, asked // 4), max(1, given // 4), source="estimated")


def unusable_llm(framework: str, name: str, error: Exception) -> RequestError:
    """The framework's own reason why it cannot make the real LLM, as one sentence."""
    reason = str(error).strip().splitlines()[0].rstrip(".") or type(error).__name__
    return RequestError(
        f"{framework} cannot use --llm {name} ({reason}): correct the name, or leave --llm out to "
        "use the scripted stand-in."
    )


def _look_up(ticket: Ticket, messages: Sequence[Message]) -> Message:
    asked = any(message.role == "tool" for message in messages)
    if ticket.order_id is None or asked:
        return Message("assistant", expected_lookup(ticket))
    arguments = json.dumps({"order_id": ticket.order_id})
    call = ToolCall(f"call_{ticket.id}", TOOL_NAME, arguments)
    return Message("assistant", None, tool_calls=(call,))


def _reply(ticket: Ticket, prompt: str) -> str:
    order = _found_order(prompt.replace(ticket.text.strip(), ""))
    japanese = ticket.language == "ja"
    if not order.get("order_id"):
        return _JA_WITHOUT if japanese else _EN_WITHOUT
    if japanese:
        status = STATUS_WORDS.get(str(order["status"]), (str(order["status"]),))[0]
        eta = f"お届け予定日は{order['eta']}です。" if order.get("eta") else ""
        return _JA_WITH.format(**{**order, "status": status}, arrival=eta)
    eta = f" The expected date is {order['eta']}." if order.get("eta") else ""
    return _EN_WITH.format(**order, arrival=eta)


def _found_order(prompt: str) -> dict[str, Any]:
    """The look-up's JSON in the reply writer's prompt; empty when there is none."""
    for text in reversed(_OBJECT.findall(prompt)):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if {"order_id", "item", "status", "eta"} <= value.keys():
            return dict(value)
    return {}


_EN_WITH = (
    "Thank you for writing to us. Your order {order_id} ({item}) has the status: {status}."
    "{arrival} We will look into your request and write to you again."
)
_EN_WITHOUT = (
    "Thank you for writing to us. We will look into your request and write to you again. "
    "If it is about an order, please send us its order id."
)
_JA_WITH = (
    "お問い合わせありがとうございます。ご注文{order_id}({item})は現在「{status}」です。"
    "{arrival}内容を確認のうえ、改めてご連絡いたします。"
)
_JA_WITHOUT = (
    "お問い合わせありがとうございます。内容を確認のうえ、改めてご連絡いたします。"
    "ご注文に関する場合は、注文番号をお知らせください。"
)
