"""Support tickets with their truth: generated deterministically, written to a folder, read back.

A ticket is composed from the phrases in ``wordings``: one category decides the problem sentences,
one priority the urgency sentence, and numbers that are no order ids are strewn around. The same
``(seed, split, index)`` always gives the same ticket.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypedDict

from slm_adapters.demo import wordings

Split = Literal["train", "heldout"]
Language = Literal["en", "ja"]

CATEGORIES: Final = ("delivery", "return", "damaged", "billing", "account", "question")
PRIORITIES: Final = ("high", "normal", "low")
JAPANESE_SHARE: Final = 0.3

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_LONG_WORD = re.compile(r"(?<![\w@.{-])[a-z]{5,}(?![\w@.}-])")


class OrderRecord(TypedDict):
    """What the shop's database knows about one order."""

    order_id: str
    customer: str
    item: str
    quantity: int
    status: str
    carrier: str
    eta: str | None


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ticket and its truth. ``order`` is None when the text names no order."""

    id: str
    text: str
    category: str
    priority: str
    language: Language
    order: OrderRecord | None

    @property
    def order_id(self) -> str | None:
        """The id that the text names for the order it is about."""
        return self.order["order_id"] if self.order else None


def generate(n: int, *, seed: int = 0, split: Split = "heldout") -> list[Ticket]:
    """Compose ``n`` tickets; the first ``k`` of them do not depend on ``n``."""
    return [_compose(random.Random(f"{seed}/{split}/{i}"), split, i) for i in range(n)]


def order_database(tickets: Iterable[Ticket]) -> dict[str, OrderRecord]:
    """All orders of these tickets by id: the data behind the look-up tool."""
    return {t.order["order_id"]: t.order for t in tickets if t.order}


def write(folder: Path | str, tickets: Sequence[Ticket]) -> None:
    """Write one ``<id>.txt`` per ticket and the truths into ``truth.jsonl``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for ticket in tickets:
        (folder / f"{ticket.id}.txt").write_text(ticket.text, encoding="utf-8", newline="\n")
        truth = asdict(ticket)
        del truth["text"]
        lines.append(json.dumps(truth, ensure_ascii=False) + "\n")
    (folder / "truth.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def read(folder: Path | str) -> list[Ticket]:
    """Read what ``write`` wrote, in the same order."""
    folder = Path(folder)
    tickets = []
    for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        truth = json.loads(line)
        text = (folder / f"{truth['id']}.txt").read_text(encoding="utf-8")
        tickets.append(Ticket(text=text, **truth))
    return tickets


def pick(rng: random.Random, template: str) -> str:
    """Resolve every ``[a|b]`` of a template."""
    while match := _CHOICE.search(template):
        choice = rng.choice(match[1].split("|"))
        template = template[: match.start()] + choice + template[match.end() :]
    return template


def fill(rng: random.Random, template: str, values: dict[str, str]) -> str:
    """Resolve a template's choices and ``{slots}``; what fills a slot may hold more of both."""
    text = pick(rng, template)
    while _SLOT.search(text):
        text = pick(rng, _SLOT.sub(lambda m: values[m[1]], text))
    return text


def shaped(rng: random.Random, shape: str) -> str:
    """A number of this shape: ``9`` becomes a digit, a lone or repeated ``A`` capital letters."""
    return re.sub(
        r"9|(?<![B-Z])A(?![B-Z])",
        lambda m: rng.choice("0123456789" if m[0] == "9" else "ABCDEFGHJKLMNPQRSTUVWXYZ"),
        shape,
    )


def random_date(rng: random.Random, language: str) -> str:
    """A date the way people write it."""
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    if language == "ja":
        return rng.choice((f"{month}月{day}日", f"{month}/{day}"))
    name = wordings.MONTHS[month - 1]
    return rng.choice((f"{day} {name}", f"{name} {day}", f"{month:02}/{day:02}"))


def _compose(rng: random.Random, split: Split, index: int) -> Ticket:
    language: Language = "ja" if rng.random() < JAPANESE_SHARE else "en"
    category = rng.choice(CATEGORIES)
    priority = rng.choice(PRIORITIES)
    values = _values(rng, split, language)
    around = wordings.AROUND[language][split]
    problem = wordings.PROBLEMS[language][category][split]

    # Accounts and questions are often about no order; most other tickets name one.
    named = rng.random() < (0.35 if category in ("account", "question") else 0.85)
    place = rng.choice(("ref", "sentence", "sentence", "subject", "end")) if named else ""
    values["ref"] = rng.choice(around["ref" if place == "ref" else "noref"])
    values["thing"] = rng.choice(around["thing"])

    body = [rng.choice(around["opening"]), *rng.sample(problem["body"], rng.choice((1, 1, 2)))]
    if place == "ref" and not any("{ref}" in line for line in body):
        place = "sentence"
        values["ref"] = rng.choice(around["noref"])
    if place == "sentence":
        body.insert(rng.randint(1, len(body)), rng.choice(around["order"]))
    _add_numbers(rng, split, language, body, named)
    _add_priority(rng, around, body, category, priority)
    lines = [fill(rng, line, values) for line in body]

    subject = fill(rng, rng.choice(problem["subject"]), values).strip()
    if place == "subject":
        subject += " - " + fill(rng, rng.choice(around["order"]), values).rstrip(".。")
    tail = [fill(rng, rng.choice(around["bye"]), values)]
    if place == "end":
        tail.append(fill(rng, rng.choice(around["order"]), values))
    if rng.random() < 0.15:
        tail.append(fill(rng, rng.choice(around["quote"]), values))
    text = _paragraph(rng, language, lines)
    parts = [fill(rng, rng.choice(around["hello"]), values), text, *tail]
    head = "件名: " if language == "ja" else "Subject: "
    text = f"{head}{_sentence(subject)}\n\n" + "\n".join(part for part in parts if part) + "\n"
    order = _order(rng, values) if named else None
    return Ticket(f"{split}-{index:05}", text, category, priority, language, order)


def _add_numbers(
    rng: random.Random, split: Split, language: Language, body: list[str], named: bool
) -> None:
    """Numbers that are no order id, and orders that the ticket is not about."""
    around = wordings.AROUND[language][split]
    noise = rng.sample(around["other"], rng.choice((0, 0, 1, 1, 2)))
    if named and rng.random() < 0.12:
        noise.append(rng.choice(around["otherorder"]))
    for line in noise:
        # Drawn per line: two numbers in one ticket must not be the same number.
        number = fill(rng, "{other}", _values(rng, split, language))
        body.insert(rng.randint(1, len(body)), line.replace("{other}", number))


def _add_priority(
    rng: random.Random, around: wordings.Table, body: list[str], category: str, priority: str
) -> None:
    """The sentence that decides the priority; a normal ticket has none."""
    if priority == "normal":
        body.append(rng.choice(around["normal"]))
        return
    urgency = around[priority]
    if category == "damaged" and priority == "high" and rng.random() < 0.5:
        urgency = around["danger"]
    body.insert(rng.randint(1, len(body)), rng.choice(urgency))
    if rng.random() < 0.3:
        body.append(rng.choice([line for line in around["normal"] if "{" not in line]))


def _paragraph(rng: random.Random, language: Language, lines: list[str]) -> str:
    if language == "ja":
        return rng.choice(("", "\n")).join(line for line in lines if line)
    text = rng.choice((" ", " ", "\n")).join(_sentence(line) for line in lines if line)
    return _mistype(rng, text) if rng.random() < 0.3 else text


def _values(rng: random.Random, split: Split, language: Language) -> dict[str, str]:
    names, shapes = wordings.NAMES[language][split], wordings.SHAPES[split]
    first, last = rng.choice(names["first"]), rng.choice(names["last"])
    user = f"{first}.{last}".lower() if language == "en" else f"user{rng.randint(10, 9999)}"
    amount = rng.randint(5, 400)
    return {
        "first": first,
        "last": last,
        "name": rng.choice((f"{last}{first}", f"{last} {first}"))
        if language == "ja"
        else f"{first} {last}",
        "email": f"{user}@{rng.choice(('example.com', 'mail.example', 'example.org'))}",
        "item": rng.choice(wordings.ITEMS[language][split]),
        "id": shaped(rng, rng.choice(shapes["order"])),
        "other": shaped(rng, rng.choice(shapes["other"])),
        "phone": shaped(rng, rng.choice(shapes["phone"])),
        "zip": shaped(rng, "999-9999" if language == "ja" else "99999"),
        "date": random_date(rng, language),
        "amount": f"{amount * 100:,}円"
        if language == "ja"
        else rng.choice("$€£") + f"{amount}.{rng.choice(('00', '50', '99'))}",
    }


def _order(rng: random.Random, values: dict[str, str]) -> OrderRecord:
    status = rng.choice(wordings.STATUSES)
    return {
        "order_id": values["id"],
        "customer": values["name"],
        "item": values["item"],
        "quantity": rng.choice((1, 1, 1, 2, 3)),
        "status": status,
        "carrier": rng.choice(wordings.CARRIERS),
        "eta": None
        if status in ("cancelled", "returned")
        else f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    }


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _mistype(rng: random.Random, text: str) -> str:
    """Swap or drop one letter in one or two longer words; never in names, ids or addresses."""
    for _ in range(rng.choice((1, 2))):
        words = list(_LONG_WORD.finditer(text))
        if not words:
            break
        at = rng.choice(words).start() + rng.randint(1, 3)
        dropped = text[at + 1 :] if rng.random() < 0.5 else text[at + 1] + text[at] + text[at + 2 :]
        text = text[:at] + dropped
    return text
