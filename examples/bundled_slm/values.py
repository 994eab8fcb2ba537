"""Random values for training tasks: names, ids, dates, amounts and words that never repeat.

A model that saw a fixed list of names learns the list. Most values here are therefore invented on
the spot, so that copying from the input is the only way to get them right.
"""

from __future__ import annotations

import random
import re
from functools import cache

from slm_adapters.demo import wordings
from slm_adapters.demo.tickets import Split, random_date, shaped

_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh st th tr".split()
_NUCLEI = "a e i o u a e i o u ai ea ee io ou".split()
_CODAS = ["", "", "", *"n r l s t m k d nd rt st ck ll x".split()]
_KATAKANA = "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワンガギグゲゴジズダデドバビブベボパピプペポー"
_CITIES = {
    "en": "London Paris Berlin Madrid Oslo Lyon Boston Denver Austin Dublin Leeds Milan Vienna Prague "
    "Lisbon Toronto Sydney Auckland Seattle Chicago Munich Zurich Geneva Bristol York".split(),
    "ja": "東京 大阪 京都 札幌 福岡 名古屋 横浜 神戸 仙台 広島 金沢 那覇 新潟 長野 静岡 岡山 松山 熊本 奈良 千葉".split(),
}
_HELDOUT_CITIES = {
    "en": "Trondheim Valparaiso Gdansk Tallinn Ljubljana Reykjavik Halifax Wellington".split(),
    "ja": "函館 盛岡 倉敷 高知 別府 小樽 松江 宇都宮".split(),
}
_ADJECTIVES = "red blue black white green small large light heavy soft portable wireless folding steel".split()


@cache
def _kanji() -> tuple[list[str], list[str]]:
    """JIS level 1 and level 2 kanji."""

    def level(first: int, last: int) -> list[str]:
        codes = (
            bytes((row + 160, cell + 160))
            for row in range(first, last + 1)
            for cell in range(1, 95)
        )
        return [text for code in codes if (text := code.decode("euc_jp", "ignore"))]

    return level(16, 47), level(48, 83)


@cache
def _heldout_shapes() -> re.Pattern[str]:
    shapes = [s for kind in ("order", "other") for s in wordings.SHAPES["heldout"][kind]]
    return re.compile("|".join(re.escape(_shape_of(shape)) for shape in shapes))


def _shape_of(text: str) -> str:
    return re.sub(r"[A-Z]", "A", re.sub(r"[0-9]", "9", text))


def word(rng: random.Random) -> str:
    """An invented lower-case word."""
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)
        for _ in range(rng.choice((1, 2, 2, 3)))
    )


def kanji(rng: random.Random, count: int) -> str:
    """Random kanji, mostly common ones."""
    return "".join(rng.choice(_kanji()[rng.random() < 0.15]) for _ in range(count))


def katakana(rng: random.Random) -> str:
    """An invented katakana word."""
    letters = rng.sample(_KATAKANA, 3) if rng.random() < 0.3 else _KATAKANA
    return rng.choice(_KATAKANA[:-1]) + "".join(
        rng.choice(letters) for _ in range(rng.randint(1, 6))
    )


def hiragana(rng: random.Random) -> str:
    """An invented hiragana word."""
    return "".join(chr(rng.randint(0x3042, 0x3093)) for _ in range(rng.randint(2, 6)))


def identifier(rng: random.Random, split: Split = "train") -> str:
    """An id of a random shape; the held-out shapes never occur in training."""
    if split == "heldout":
        return shaped(rng, rng.choice(wordings.SHAPES["heldout"][rng.choice(("order", "other"))]))
    while True:
        if rng.random() < 0.3:
            return shaped(rng, rng.choice(wordings.SHAPES["train"][rng.choice(("order", "other"))]))
        parts = [
            rng.choice(
                ("9", "99", "999", "9999", "99999", "A", "AA", "AAA", "A9", "9A", "99A", "A99")
            )
            for _ in range(rng.choice((1, 2, 2, 3, 3, 4)))
        ]
        shape = rng.choice(("-", "-", "-", "", "/", ".", "_")).join(parts)
        if 4 <= len(shape) <= 14 and "9" in shape and not _heldout_shapes().fullmatch(shape):
            digits, letters = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            if rng.random() < 0.2:  # ids full of repeats, the hard case of copying
                digits, letters = "".join(rng.sample(digits, 2)), "".join(rng.sample(letters, 2))
            return "".join(
                rng.choice(digits) if c == "9" else rng.choice(letters) if c == "A" else c
                for c in shape
            )


def name(rng: random.Random, language: str, split: Split = "train") -> str:
    """A person's full name."""
    names = wordings.NAMES[language][split]
    first, last = rng.choice(names["first"]), rng.choice(names["last"])
    if split == "train" and rng.random() < 0.6:
        if language == "ja":
            first, last = kanji(rng, rng.choice((1, 2, 2, 3))), kanji(rng, rng.choice((1, 2, 2, 3)))
        else:
            first, last = word(rng).capitalize(), word(rng).capitalize()
    if language == "ja":
        return last + rng.choice(("", "", " ")) + first
    return f"{first} {last}"


def item(rng: random.Random, language: str, split: Split = "train") -> str:
    """A product."""
    known = rng.choice(wordings.ITEMS[language][split])
    if split == "heldout" or rng.random() < 0.45:
        return known
    if language == "ja":
        return rng.choice(
            (
                katakana(rng),
                katakana(rng),
                hiragana(rng),
                katakana(rng) + known,
                kanji(rng, 2),
                kanji(rng, 3),
            )
        )
    return rng.choice(
        (
            f"{rng.choice(_ADJECTIVES)} {known}",
            f"{word(rng)} {known.split()[-1]}",
            f"{word(rng)} {word(rng)}",
            word(rng),
            f"{word(rng).capitalize()} {rng.randint(1, 900)}",
            f"{word(rng).capitalize()} {known}",
        )
    )


def city(rng: random.Random, language: str, split: Split = "train") -> str:
    """A town."""
    if split == "heldout":
        return rng.choice(_HELDOUT_CITIES[language])
    if rng.random() < 0.5:
        return rng.choice(_CITIES[language])
    return kanji(rng, 2) + rng.choice("市町村") if language == "ja" else word(rng).capitalize()


def company(rng: random.Random, language: str, split: Split = "train") -> str:
    """A company."""
    if language == "ja":
        stem = rng.choice((katakana(rng), kanji(rng, 2)))
        return rng.choice(("株式会社{}", "{}商事", "{}工業", "有限会社{}", "{}株式会社")).format(
            stem
        )
    stem = name(rng, "en", split).split()[-1]
    return stem + rng.choice((" Ltd", " Inc", " & Sons", " Group", " Foods", " Logistics", " GmbH"))


def phone(rng: random.Random, split: Split = "train") -> str:
    """A phone number."""
    return shaped(rng, rng.choice(wordings.SHAPES[split]["phone"]))


def email(rng: random.Random, split: Split = "train") -> str:
    """A mail address."""
    user = name(rng, "en", split).lower().replace(" ", rng.choice((".", "_", "")))
    host = rng.choice(
        ("example.com", "mail.example", "example.org", f"{word(rng)}.com", f"{word(rng)}.example")
    )
    return f"{user}{rng.choice(('', rng.randint(1, 99)))}@{host}"


def amount(rng: random.Random, language: str) -> str:
    """A sum of money as people write it."""
    value = rng.choice((rng.randint(2, 99), rng.randint(100, 999), rng.randint(1000, 90000)))
    if language == "ja":
        return rng.choice((f"{value * 10:,}円", f"{value * 10}円"))
    cents = rng.choice(("", ".00", ".50", ".99", f".{rng.randint(10, 98)}"))
    return rng.choice(("$", "€", "£", "USD ", "EUR ")) + f"{value:,}{cents}"


def date(rng: random.Random, language: str) -> str:
    """A date in one of many notations."""
    if rng.random() < 0.5:
        return random_date(rng, language)
    year, month, day = rng.randint(2019, 2030), rng.randint(1, 12), rng.randint(1, 28)
    if language == "ja":
        return rng.choice(
            (f"{year}年{month}月{day}日", f"{year}-{month:02}-{day:02}", f"{year}/{month}/{day}")
        )
    return rng.choice(
        (f"{year}-{month:02}-{day:02}", f"{month}/{day}/{year}", f"{day}.{month}.{year}")
    )


def clock(rng: random.Random) -> str:
    """A time of day."""
    return f"{rng.randint(0, 23)}:{rng.choice(('00', '15', '30', '45'))}"


def value(rng: random.Random, kind: str, language: str, split: Split = "train") -> str:
    """One value of a named kind."""
    makers = {
        "name": lambda: name(rng, language, split),
        "item": lambda: item(rng, language, split),
        "city": lambda: city(rng, language, split),
        "company": lambda: company(rng, language, split),
        "id": lambda: identifier(rng, split),
        "phone": lambda: phone(rng, split),
        "email": lambda: email(rng, split),
        "amount": lambda: amount(rng, language),
        "date": lambda: date(rng, language),
        "time": lambda: clock(rng),
        "count": lambda: str(rng.randint(1, 99)),
        "word": lambda: katakana(rng) if language == "ja" else word(rng),
    }
    return makers[kind]()
