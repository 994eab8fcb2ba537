"""The demo's two roles as training and evaluation examples, exact and in many variations.

Half of the examples use the very texts and message shapes of the demo. The other half keeps the
work and changes everything else: labels, field names, order, definitions, tools, framing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import values
from chat import (
    Example,
    Message,
    Tool,
    call,
    compact,
    crew_messages,
    dumps,
    function_tool,
    graph_messages,
)
from tickets_varied import varied_ticket

from slm_adapters.demo import roles, wordings
from slm_adapters.demo.tickets import OrderRecord, Split, Ticket, generate

CATEGORY_LABELS = {
    "delivery": "delivery shipping logistics parcel shipment transport",
    "return": "return refund returns send_back exchange cancellation",
    "damaged": "damaged defect broken faulty quality defective",
    "billing": "billing payment invoice finance money charges",
    "account": "account login access profile user_account credentials",
    "question": "question product_question inquiry presales information advice",
}
CATEGORY_MEANINGS = {
    "delivery": (
        "parcel late, lost, or its address",
        "where the package is",
        "shipment problems and delivery address",
        "something has not arrived",
    ),
    "return": (
        "send back, exchange, cancel, refund",
        "customer wants to give it back",
        "returns, refunds, cancellations",
        "wants the money back or another size",
    ),
    "damaged": (
        "broken, faulty or wrong item",
        "the product does not work or parts are missing",
        "defects and wrong items",
        "arrived broken or stopped working",
    ),
    "billing": (
        "charge, payment, invoice, discount",
        "money that was charged, receipts",
        "problems with the payment",
        "invoices, cards and coupons",
    ),
    "account": (
        "login, password, profile",
        "cannot sign in, or change of user data",
        "user account and password",
        "access to the account",
    ),
    "question": (
        "about a product, nothing is wrong",
        "asks something before buying",
        "stock, size, warranty questions",
        "wants to know something about a product",
    ),
}
PRIORITY_LABELS = (
    ("high", "normal", "low"),
    ("urgent", "normal", "relaxed"),
    ("P1", "P2", "P3"),
    ("1", "2", "3"),
    ("high", "medium", "low"),
    ("A", "B", "C"),
    ("critical", "standard", "minor"),
    ("now", "soon", "later"),
)
PRIORITY_MEANINGS = (
    ("urgent, dangerous, or needed by tomorrow", "anything else", "the customer is in no hurry"),
    ("urgent, danger, or a deadline today or tomorrow", "all others", "it can wait"),
    ("cannot wait, or someone may get hurt", "no word about time", "customer has time"),
)
FIELD_NAMES = {
    "category": "category topic type label kind class department".split(),
    "priority": "priority urgency level prio importance".split(),
    "language": "language lang locale".split(),
    "order_id": "order_id order order_number orderId order_no id reference".split(),
}


def fresh_ticket(rng: random.Random, split: Split) -> Ticket:
    """A ticket; for training its names, products and ids are replaced by invented ones."""
    if split == "train" and rng.random() < 0.75:
        return varied_ticket(rng)
    ticket = generate(1, seed=rng.getrandbits(48), split=split)[0]
    if split == "heldout" or rng.random() < 0.3:
        return ticket
    text, order = ticket.text, ticket.order
    for table, make in ((wordings.NAMES, values.name), (wordings.ITEMS, values.item)):
        if rng.random() < 0.6:
            text, order = _replace(rng, ticket.language, text, order, table, make)
    if order and rng.random() < 0.7 and text.count(order["order_id"]) == 1:
        new = values.identifier(rng)
        text, order = text.replace(order["order_id"], new), {**order, "order_id": new}
    return Ticket(ticket.id, text, ticket.category, ticket.priority, ticket.language, order)


def _replace(
    rng: random.Random,
    language: str,
    text: str,
    order: OrderRecord | None,
    table: dict[str, Any],
    make: Callable[[random.Random, str], str],
) -> tuple[str, OrderRecord | None]:
    if table is wordings.ITEMS:
        known = [item for item in table[language]["train"] if item in text]
        old = max(known, key=len) if known else None
        if order:
            old = order["item"]
        if old:
            new = make(rng, language)
            text = text.replace(old, new).replace(old.capitalize(), new)
            if order:
                order = {**order, "item": new}
    elif order:
        new = make(rng, language)
        text = text.replace(order["customer"], new)
        order = {**order, "customer": new}
    return text, order


def triage_exact(rng: random.Random, ticket: Ticket, shape: str) -> Example:
    """The demo's triage, as CrewAI (``crew``) or LangGraph (``graph``) sends it."""
    role = roles.TRIAGE
    if shape == "crew":
        description = role.description.replace("{ticket}", ticket.text)
        messages = crew_messages(
            role.name, role.goal, role.backstory, description, role.expected_output
        )
    else:
        messages = graph_messages(role.system_prompt, ticket.text)
    messages.append({"role": "assistant", "content": roles.expected_triage(ticket)})
    return Example(f"triage ({shape})", ticket.language, messages)


def triage_by_schema(rng: random.Random, split: Split) -> Example:
    """The demo's triage with a schema: in the prompt as CrewAI writes it, or as a tool to call."""
    ticket = fresh_ticket(rng, split)
    answer = json.loads(roles.expected_triage(ticket))
    properties: dict[str, dict[str, Any]] = {
        "category": {"enum": list(CATEGORY_LABELS), "title": "Category", "type": "string"},
        "priority": {"enum": ["high", "normal", "low"], "title": "Priority", "type": "string"},
        "language": {"enum": ["en", "ja"], "title": "Language", "type": "string"},
        "order_id": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "Order Id"},
    }
    name = rng.choice(("Triage", "TriageResult", "TicketTriage", "Result"))
    if rng.random() < 0.5:
        schema = {
            "properties": properties,
            "required": list(properties),
            "title": name,
            "type": "object",
        }
        if rng.random() < 0.5:
            schema["additionalProperties"] = False
        example = triage_exact(rng, ticket, "crew")
        last = "\n\nProvide your complete response:"
        user = example.messages[1]["content"].removesuffix(last)
        user += (
            "\nFormat your final answer according to the following OpenAPI schema: "
            f"{json.dumps(schema, indent=2)}\n\nIMPORTANT: Preserve the original content exactly as-is. Do NOT rewrite, "
            "paraphrase, or modify the meaning of the content. Only structure it to match the schema format.\n\nDo not "
            "include the OpenAPI schema in the final output. Ensure the final output does not include any code block "
            f"markers like ```json or ```python.{last}"
        )
        messages = [example.messages[0], {"role": "user", "content": user}, example.messages[2]]
        return Example("triage by schema", ticket.language, messages)
    plain = {n: {k: v for k, v in p.items() if k != "title"} for n, p in properties.items()}
    tool = function_tool(
        name,
        rng.choice(("The triage of a ticket.", "", "Fill in the triage.")),
        parameters(rng, plain),
    )
    messages = graph_messages(roles.TRIAGE.system_prompt, ticket.text)
    return Example("triage by schema", ticket.language, [*messages, call(name, answer)], [tool])


def triage_varied(rng: random.Random, split: Split) -> Example:
    """Triage with other labels, fields, definitions and framing."""
    ticket = fresh_ticket(rng, split)
    others = [c for c in CATEGORY_LABELS if c != ticket.category]
    chosen = [ticket.category, *rng.sample(others, rng.randint(1, 5))]
    rng.shuffle(chosen)
    codes = rng.random() < 0.12
    labels = {
        c: values.identifier(rng)[:4] if codes else rng.choice(CATEGORY_LABELS[c].split())
        for c in chosen
    }
    if len(set(labels.values())) < len(labels):
        labels = {c: c for c in chosen}
    explained = codes or rng.random() < 0.75
    levels = dict(zip(("high", "normal", "low"), rng.choice(PRIORITY_LABELS), strict=True))
    meanings = dict(zip(("high", "normal", "low"), rng.choice(PRIORITY_MEANINGS), strict=True))
    tongues = rng.choice((("en", "ja"), ("en", "ja"), ("English", "Japanese"), ("EN", "JA")))
    truth = {
        "category": labels[ticket.category],
        "priority": levels[ticket.priority],
        "language": tongues[ticket.language == "ja"],
        "order_id": ticket.order_id,
    }
    level_order = rng.sample(("high", "normal", "low"), 3)
    describe = {
        "category": ", ".join(
            f"{labels[c]} ({rng.choice(CATEGORY_MEANINGS[c])})" if explained else labels[c]
            for c in chosen
        ),
        "priority": ", ".join(f"{levels[p]} ({meanings[p]})" for p in level_order),
        "language": f"{tongues[0]} or {tongues[1]}",
        "order_id": rng.choice(
            (
                "id of the order that the ticket is about, copied exactly, or null",
                "the order's id, or null",
                "exact id of the order; null if there is none",
            )
        ),
    }
    fields = rng.sample(list(truth), rng.choice((1, 2, 3, 4, 4)))
    if fields in (["category"], ["priority"]) and rng.random() < 0.7:
        intro = rng.choice(
            ("Classify this ticket", "Choose one label for the message", "Sort the mail below")
        )
        intro += f". Answer with the label only.\n{describe[fields[0]]}"
        return _framed(
            rng,
            "triage varied",
            ticket,
            intro,
            rng.choice(("One label.", "The label only.")),
            truth[fields[0]],
        )
    names = {f: f if rng.random() < 0.5 else rng.choice(FIELD_NAMES[f]) for f in fields}
    if len(set(names.values())) < len(names):
        names = {f: f for f in fields}
    joint = rng.choice(("\n", "\n", "\n- "))
    intro = rng.choice(
        (
            "Triage this support ticket.",
            "Read the customer's message and fill in the fields.",
            "Sort this mail.",
            "Classify the ticket as JSON.",
            "You handle incoming mail. Return JSON.",
            "Extract the fields.",
        )
    )
    intro += "".join(f"{joint}{names[f]}: {describe[f]}" for f in fields)
    answer = compact({names[f]: truth[f] for f in fields})
    expected = rng.choice(
        (
            "One line of JSON with the keys ",
            "JSON with ",
            "A JSON object: ",
            "Compact JSON with keys ",
        )
    )
    return _framed(
        rng, "triage varied", ticket, intro, expected + ", ".join(names.values()) + ".", answer
    )


def _framed(
    rng: random.Random, task: str, ticket: Ticket, intro: str, expected: str, answer: str
) -> Example:
    shape = rng.random()
    if shape < 0.4:
        messages = varied_crew(
            rng,
            f"{intro}\n\n{rng.choice(('Ticket', 'Message', 'Mail', 'Text'))}:\n{ticket.text}",
            expected,
        )
    elif shape < 0.75:
        messages = graph_messages(
            f"{intro}\n\n{rng.choice(('', 'Answer with: ', 'Output: '))}{expected}", ticket.text
        )
    else:
        user = rng.choice(
            (f"{intro}\n\n{expected}\n\n{ticket.text}", f"{ticket.text}\n\n{intro}\n\n{expected}")
        )
        messages = [{"role": "user", "content": user}]
    messages.append({"role": "assistant", "content": answer})
    return Example(task, ticket.language, messages)


ROLE_WORDS = (
    ("Clerk", "Keep the desk clean", "You work at a help desk."),
    ("Researcher", "Find the facts", "You are precise."),
    ("Assistant", "Help the team", "You support a small team."),
    ("Data entry", "Fill in forms without mistakes", ""),
    ("Dispatcher", "Send every message to the right place", "You know every department."),
    ("Analyst", "Turn text into data", "You have read thousands of mails."),
    ("Operator", "Use the right tool at the right time", "You run the tools of the company."),
)


def varied_crew(
    rng: random.Random,
    description: str,
    expected: str,
    *,
    context: str | None = None,
    tools: bool = False,
) -> list[Message]:
    """A CrewAI task under some other role."""
    role, goal, backstory = rng.choice(ROLE_WORDS)
    if rng.random() < 0.3:
        known = rng.choice(roles.ROLES)
        role, goal, backstory = known.name, known.goal, known.backstory
    return crew_messages(role, goal, backstory, description, expected, context=context, tools=tools)


def tool_result(rng: random.Random, record: dict[str, Any] | OrderRecord | None) -> str:
    """A tool's result in one of the forms that tools return."""
    if record is None:
        return rng.choice(("null", "null", "None", "not found", '{"error": "not found"}'))
    style = rng.random()
    if style < 0.55:
        return dumps(record)
    if style < 0.7:
        return compact(record)
    if style < 0.8:
        return str(record)
    if style < 0.9:
        return json.dumps(record, ensure_ascii=False, indent=2)
    return "\n".join(f"{key}: {dumps(v) if v is None else v}" for key, v in record.items())


EMPTY_ORDER = compact(dict.fromkeys(("order_id", "item", "status", "eta")))


def lookup_exact(
    rng: random.Random, ticket: Ticket, shape: str, *, varied_result: bool = False
) -> Example:
    """The demo's look-up: the call, the result, the answer; or the answer alone without an id."""
    role = roles.LOOKUP
    if shape == "crew":
        description = role.description.replace("{ticket}", ticket.text)
        context = roles.expected_triage(ticket)
        messages = crew_messages(
            role.name,
            role.goal,
            role.backstory,
            description,
            role.expected_output,
            context=context,
            tools=True,
        )
    else:
        messages = graph_messages(role.system_prompt, ticket.text)
    order = ticket.order
    if order is None:
        messages.append({"role": "assistant", "content": EMPTY_ORDER})
        return Example(
            f"look-up, no order ({shape})", ticket.language, messages, [crew_tool(shape)]
        )
    found = None if varied_result and rng.random() < 0.06 else order
    result = (
        tool_result(rng, found)
        if varied_result
        else roles.lookup_order({order["order_id"]: order}, order["order_id"])
    )
    messages += [
        call(roles.TOOL_NAME, {"order_id": order["order_id"]}),
        {"role": "tool", "tool_call_id": "call_1", "name": roles.TOOL_NAME, "content": result},
        {"role": "assistant", "content": roles.expected_lookup(ticket) if found else EMPTY_ORDER},
    ]
    return Example(f"look-up ({shape})", ticket.language, messages, [crew_tool(shape)])


def crew_tool(shape: str) -> Tool:
    """The look-up tool as each framework describes it."""
    if shape != "crew":
        return roles.TOOL
    parameters = {
        "properties": {"order_id": {"title": "Order Id", "type": "string"}},
        "required": ["order_id"],
        "type": "object",
        "additionalProperties": False,
    }
    return function_tool(roles.TOOL_NAME, roles.TOOL_DESCRIPTION, parameters)


ORDER_TOOLS = "lookup_order find_order get_order order_status fetch_order search_orders order_details query_order".split()
ORDER_ARGUMENTS = "order_id order_number id order_no orderId number reference".split()
ORDER_TEXTS = (
    "Look up an order by its id.",
    "Returns the order with this number.",
    "Order details.",
    "Find one order.",
    "Gets the status of an order.",
    roles.TOOL_DESCRIPTION,
)
OTHER_TOOLS = (
    ("refund_payment", "Refund a payment.", "payment_id"),
    ("send_email", "Send a mail to an address.", "address"),
    ("search_docs", "Search the manuals.", "query"),
    ("get_weather", "Weather of a city.", "city"),
    ("reset_password", "Send a new password to a user.", "user"),
    ("track_parcel", "Track a parcel.", "tracking_number"),
    ("find_customer", "Find a customer by phone number.", "phone"),
    ("check_stock", "How many are in stock.", "item"),
    ("get_invoice", "Get an invoice by its number.", "invoice_number"),
    ("close_ticket", "Close a ticket.", "ticket_id"),
)


def parameters(rng: random.Random, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A parameter schema in the style of one framework or another."""
    if rng.random() < 0.4:
        titled = {n: {"title": n.replace("_", " ").title(), **p} for n, p in properties.items()}
        return {
            "properties": titled,
            "required": list(properties),
            "type": "object",
            "additionalProperties": False,
        }
    if rng.random() < 0.5:
        return {"type": "object", "properties": properties, "required": list(properties)}
    return {"properties": properties, "required": list(properties), "type": "object"}


def lookup_varied(rng: random.Random, split: Split) -> Example:
    """The look-up with other tool names, parameters, distractor tools, fields and framing."""
    ticket = fresh_ticket(rng, split)
    name, argument = rng.choice(ORDER_TOOLS), rng.choice(ORDER_ARGUMENTS)
    tools = [
        function_tool(
            name, rng.choice(ORDER_TEXTS), parameters(rng, {argument: {"type": "string"}})
        )
    ]
    for other, text, parameter in rng.sample(OTHER_TOOLS, rng.choice((0, 0, 1, 2, 3, 4))):
        tools.append(function_tool(other, text, parameters(rng, {parameter: {"type": "string"}})))
    rng.shuffle(tools)
    keys = rng.sample(
        ("order_id", "item", "status", "eta", "customer", "carrier", "quantity"),
        rng.choice((1, 2, 3, 4, 4)),
    )
    intro = rng.choice(
        (
            f"Look up the order that this support ticket is about: call {name} with its order id, copied exactly. Call "
            "nothing if the ticket names no order id.",
            f"Find the order of this ticket with {name}. If there is no order number in the text, use no tool.",
            "Look up the order behind the message. No call if no order is named.",
            "Use the tools to find the customer's order. Without an order id, call nothing.",
        )
    )
    expected = rng.choice(
        (
            "One line of JSON with the keys {}, copied from the tool's result; all null if there is no order.",
            "JSON with the keys {} from the result of the tool, null without an order.",
            "{} as JSON, null if unknown.",
        )
    ).format(", ".join(keys))
    shape = rng.random()
    if shape < 0.5:
        context = rng.choice(
            (
                None,
                roles.expected_triage(ticket),
                compact({"category": ticket.category, "priority": ticket.priority}),
            )
        )
        messages = varied_crew(
            rng, f"{intro}\n\nTicket:\n{ticket.text}", expected, context=context, tools=True
        )
    elif shape < 0.8:
        messages = graph_messages(f"{intro}\n\n{expected}", ticket.text)
    else:
        messages = [{"role": "user", "content": f"{intro}\n{expected}\n\n{ticket.text}"}]
    empty = compact(dict.fromkeys(keys))
    order = ticket.order
    if order is None:
        messages.append({"role": "assistant", "content": empty})
        return Example("look-up varied", ticket.language, messages, tools)
    found = order if rng.random() > 0.07 else None
    answer = compact({key: order[key] for key in keys}) if found else empty  # type: ignore[literal-required]
    messages += [
        call(name, {argument: order["order_id"]}),
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "name": name,
            "content": tool_result(rng, found),
        },
        {"role": "assistant", "content": answer},
    ]
    return Example("look-up varied", ticket.language, messages, tools)


def demo_example(rng: random.Random, split: Split) -> Example:
    """One example of the demo's work."""
    shape = rng.choice(("crew", "crew", "graph"))
    kind = rng.random()
    if kind < 0.3:
        return triage_exact(rng, fresh_ticket(rng, split), shape)
    if kind < 0.6:
        return lookup_exact(rng, fresh_ticket(rng, split), shape, varied_result=rng.random() < 0.4)
    if kind < 0.65:
        return triage_by_schema(rng, split)
    return triage_varied(rng, split) if kind < 0.82 else lookup_varied(rng, split)
