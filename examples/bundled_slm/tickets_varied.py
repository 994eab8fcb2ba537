"""Training tickets with far more wordings than the demo's, from ``phrases.toml``.

With few sentences a small model learns each sentence by heart. Three things keep it reading: many
phrases, numbers named in frames that order ids and all other numbers share (so that only the noun
tells them apart), and noise: dropped, swapped and misspelled words.
"""

from __future__ import annotations

import random
import re
import tomllib
from pathlib import Path

import values

from slm_adapters.demo import wordings
from slm_adapters.demo.tickets import CATEGORIES, PRIORITIES, Language, OrderRecord, Ticket, fill

PHRASES: dict[str, dict[str, list[str]]] = {
    language: {name: block.strip().splitlines() for name, block in blocks.items()}
    for language, blocks in tomllib.loads(
        Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8")
    ).items()
}
ORDER_NOUNS = {
    "en": "order|order number|order id|order code|order reference|purchase order",
    "ja": "注文番号|注文|オーダー番号|注文ID|注文No.|ご注文番号|オーダー",
}
OTHER_NOUNS = {
    "en": "invoice|invoice number|tracking number|tracking|tracking code|customer number|customer id|serial number|"
    "model number|model|case|case number|ticket|reference|parcel|coupon|article number|member id|account number|"
    "receipt|delivery note|bank reference|part number|label|phone|tel|zip",
    "ja": "請求書|請求書番号|追跡番号|会員番号|お客様番号|製造番号|型番|受付番号|問い合わせ番号|荷物番号|商品番号|クーポン|電話|郵便番号|"
    "領収書|口座番号|部品番号|伝票番号",
}
# {n} is the noun, {x} the number.
FRAMES = {
    "en": (
        "[my|the|our|your|this] {n} [is|was|reads|says|shows|=] {x}.", "{n}: {x}", "{n} {x}", "{n} {x}.", "({n} {x})",
        "{n} - {x}", "{n} = {x}", "[about|regarding|concerning|re|for|see also] {n} {x}.", "{n} is {x}, [please check|by the way|I think].",
        "[it is|this is|we talk about|I mean] {n} {x}.", "[you find|I see|there is] {n} {x} [in my mail|on the paper|in the app].",
        "[my|the] {n} [should be|must be|has to be|would be] {x}.", "{x} is [my|the] {n}.", "{x} ({n})", "[on the label|in the mail|on the paper] "
        "[is|stands|I see] {n} {x}.", "with {n} {x}.", "[here is|here comes|I send you|take] [my|the] {n}: {x}[.|]",
        "[the|a] {n} [with|of] the number {x}.", "the {n} in my [mail|app|list] is {x}.", "[look at|check|open] {n} {x} [please|in your list|].",
        "{n} [called|named|numbered] {x}.", "[just for you|for your files|as a note], [the|] {n}[:| is] {x}.", "number of the {n}: {x}",
        "the number of [my|the] {n} [is|was] {x}.", "{n} [nr.|num.|#|nbr.] {x}[.|]", "[for|of|in|about] {n} [nr.|num.|#] {x}.",
        "I [mean|write about|ask about] [my|the] {n} [nr. |num. |#|]{x}.", "the {n} [goes by|runs under|carries|bears] [the number|] {x}.",
    ),
    "ja": (
        "{n}は{x}です。", "{n}: {x}", "{n}:{x}", "{n} {x}", "({n} {x})", "{n}は{x}[になります|でした|と書いてあります|だと思います]。", "{n}が{x}です。",
        "{x}が{n}です。", "{n}「{x}」[です|の件|]。", "[こちらの|私の|下記の]{n}[は|:]{x}[です|]。", "{n}{x}[です|の件です|について]。", "{n}={x}",
        "[ちなみに|参考までに|念のため]、{n}は{x}です。", "{x}という{n}[です|になります|の件です|で買いました|のものです]。", "{x}、これが{n}です。", "{x}が[私の|今回の|該当の]{n}[です|でした]。",
        "{x}([これが|上が|]{n})", "{x}[番の|の]{n}です。", "「{x}」という{n}[がありました|を受け取りました|の連絡が来ました]。", "{n}[には|に]{x}とあります。", "{n}の[欄|所]に{x}とあります。",
    ),
}  # fmt: skip
SETTLED = {
    "en": (
        "[another|a different|one more|a second|an earlier|the previous] [order|order number|purchase], {x}, [is fine|is done|came|was good|is another matter].",
        "[not|I do not mean|this is not about] [order|the order] {x}.", "order {x} [is fine|arrived|is done|was perfect|is another story|came on time].",
        "[my|our] [old|last|other|earlier|previous] order {x} [is fine|was fine|is settled|is not meant|was okay|went well].",
        "[forget|ignore|leave out|never mind] [order|the order|the older order] {x}[, that one is fine|].",
    ),
    "ja": (
        "[別の|他の|前の|もう一つの|古い][注文|注文番号]{x}は[大丈夫です|届きました|関係ないです|問題ないです|解決済みです]。", "注文{x}[ではありません|は届いています|は別件です]。",
        "[注文|注文番号]{x}の[こと|件]では[ないです|ありません]。",
    ),
}  # fmt: skip
_WORD = re.compile(r"[a-z]{2,}")
_KANA = re.compile(r"[ぁ-ん]")


def varied_ticket(rng: random.Random) -> Ticket:
    """A training ticket in words that the demo's generator does not have."""
    language: Language = "ja" if rng.random() < 0.35 else "en"
    category, priority = rng.choice(CATEGORIES), rng.choice(PRIORITIES)
    around = wordings.AROUND[language]["train"]
    named = rng.random() < 0.65
    inline = named and rng.random() < 0.2
    slots = _slots(rng, language, inline)
    body = _sentences(rng, language, category, priority, slots)
    inline = inline and any(slots["id"] in line for line in body)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        line = _numbered(rng, language, OTHER_NOUNS, values.identifier(rng))
        body.insert(rng.randint(0, len(body)), line)
    if named and rng.random() < 0.2:
        line = fill(rng, rng.choice(SETTLED[language]), {"x": values.identifier(rng)})
        body.insert(rng.randint(0, len(body)), line)

    subject = _subject(rng, language, category, slots)
    tail = [fill(rng, rng.choice(around["bye"]), slots)] if rng.random() < 0.8 else []
    if named and not inline:
        subject = _place_order(rng, language, slots, subject, body, tail)
    if rng.random() < 0.15:
        tail.append(fill(rng, rng.choice(around["quote"]), slots))
    joint = rng.choice(("", "\n") if language == "ja" else (" ", " ", "\n"))
    lines = [x[:1].upper() + x[1:] if rng.random() < 0.8 else x for x in body]
    parts = [_hello(rng, language, slots), joint.join(lines), *tail]
    head = "件名: " if language == "ja" else "Subject: "
    text = f"{head}{subject[:1].upper() + subject[1:]}\n\n" + "\n".join(p for p in parts if p)
    order = _record(rng, slots) if named else None
    return Ticket("varied", text + "\n", category, priority, language, order)


def _slots(rng: random.Random, language: str, inline: bool) -> dict[str, str]:
    around = wordings.AROUND[language]["train"]
    name = values.name(rng, language)
    thing = "[this|the new|my new] {item}" if language == "en" else "その{item}"
    slots = {
        "item": values.item(rng, language),
        "name": name,
        "first": name.split()[0],
        "last": name.split()[-1],
        "id": values.identifier(rng),
        "other": values.identifier(rng),
        "phone": values.phone(rng),
        "email": values.email(rng),
        "date": values.date(rng, language),
        "amount": values.amount(rng, language),
        "zip": values.shaped(rng, "99999"),
        "ref": rng.choice(around["ref" if inline else "noref"]),
        "comma": rng.choice((",", "", "!", ":")),
    }
    slots["thing"] = fill(rng, rng.choice((*around["thing"], thing)), slots)
    return slots


def _sentences(
    rng: random.Random, language: str, category: str, priority: str, slots: dict[str, str]
) -> list[str]:
    """The problem, its urgency, and small talk."""
    phrases, around = PHRASES[language], wordings.AROUND[language]["train"]
    problems = phrases[category] + list(wordings.PROBLEMS[language][category]["train"]["body"])
    body = rng.sample(problems, rng.choice((1, 1, 1, 2, 2, 3)))
    urgency = phrases[priority] + [line for line in around[priority] if line]
    if category == "damaged" and priority == "high" and rng.random() < 0.5:
        urgency = phrases["danger"] + list(around["danger"])
    if priority != "normal":
        body.insert(rng.randint(0, len(body)), rng.choice(urgency))
    if rng.random() < 0.4:
        body.append(rng.choice(phrases["normal"] + list(around["normal"])))
    if rng.random() < 0.4:
        body.insert(0, rng.choice(phrases["opening"] + list(around["opening"])))
    return [_noisy(rng, language, fill(rng, line, slots), slots) for line in body if line]


def _place_order(
    rng: random.Random,
    language: str,
    slots: dict[str, str],
    subject: str,
    body: list[str],
    tail: list[str],
) -> str:
    """Name the order in the body, after the signature, or in the subject, which is returned."""
    line = _numbered(rng, language, ORDER_NOUNS, slots["id"])
    if rng.random() < 0.35:
        line = fill(rng, rng.choice(wordings.AROUND[language]["train"]["order"]), slots)
    place = rng.random()
    if place < 0.65:
        body.insert(rng.randint(0, len(body)), line)
    elif place < 0.82:
        return subject + rng.choice((" - ", " ", ", ", " (")) + line.rstrip(".。")
    else:
        tail.append(line)
    return subject


def _hello(rng: random.Random, language: str, slots: dict[str, str]) -> str:
    if rng.random() < 0.3:
        return rng.choice(wordings.AROUND[language]["train"]["hello"])
    hello = fill(rng, rng.choice(PHRASES[language]["hello"]), slots)
    return hello[:1].upper() + hello[1:]


def _record(rng: random.Random, slots: dict[str, str]) -> OrderRecord:
    status = rng.choice(wordings.STATUSES)
    eta = f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    return {
        "order_id": slots["id"],
        "customer": slots["name"],
        "item": slots["item"],
        "quantity": rng.randint(1, 3),
        "status": status,
        "carrier": rng.choice(wordings.CARRIERS),
        "eta": None if status in ("cancelled", "returned") else eta,
    }


def _subject(rng: random.Random, language: str, category: str, slots: dict[str, str]) -> str:
    """About the problem, or saying nothing: the body must then be read."""
    draw = rng.random()
    if draw < 0.35:
        line = rng.choice(PHRASES[language]["subject"])
    elif draw < 0.65:
        line = rng.choice(PHRASES[language][category]).rstrip(".。?")
    else:
        line = rng.choice(wordings.PROBLEMS[language][category]["train"]["subject"])
    return _noisy(rng, language, fill(rng, line, slots), slots).strip()


def _numbered(rng: random.Random, language: str, nouns: dict[str, str], number: str) -> str:
    noun = rng.choice(nouns[language].split("|"))
    if language == "en" and rng.random() < 0.2:
        noun = _typo(rng, noun)
    return fill(rng, rng.choice(FRAMES[language]), {"n": noun, "x": number})


def _noisy(rng: random.Random, language: str, line: str, slots: dict[str, str]) -> str:
    """Some lines lose or swap words, or get typos; values stay whole."""
    if rng.random() < 0.55 or any(slots[k] in line for k in ("id", "other")):
        return line
    if language == "ja":
        return (
            _KANA.sub(lambda m: "" if rng.random() < 0.1 else m[0], line)
            if slots["item"] not in line
            else line
        )
    words = line.split(" ")
    kind = rng.random()
    if kind < 0.45:
        words = [w for w in words if rng.random() > 0.15 or not _WORD.fullmatch(w)]
    elif kind < 0.75 and len(words) > 3:
        at = rng.randrange(len(words) - 1)
        words[at], words[at + 1] = words[at + 1], words[at]
    else:
        words = [_typo(rng, w) if _WORD.fullmatch(w) and rng.random() < 0.2 else w for w in words]
    return " ".join(words) or line


def _typo(rng: random.Random, word: str) -> str:
    at = rng.randrange(len(word))
    return rng.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at : at + 1] * 2 + word[at + 1 :],
            word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :],
        )
    )
