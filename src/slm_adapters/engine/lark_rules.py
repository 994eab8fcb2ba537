"""Rules of one grammar in llguidance's Lark dialect, as they are collected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["Rules", "alternatives", "regex"]

#: Separators as chat templates write them, or without spaces; nothing a model could repeat.
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class Rules:
    """Named rules, and text as a rule sees it.

    ``tokens``: text -> id of the tokens that are no ordinary text to the grammar engine; a rule
    must name these by id.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens = tokens
        self._split = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
        self._rules: dict[str, str] = {}
        self._count = 0

    def __str__(self) -> str:
        return "".join(f"{head}: {body}\n" for head, body in self._rules.items())

    def add(self, head: str, body: str) -> str:
        """Define ``head``, with options in brackets if any; returns its name."""
        self._rules[head] = body
        return head.partition("[")[0]

    def new(self, body: str, *, kind: str = "r", options: str = "") -> str:
        """A rule (``kind="T"``: a terminal) with a name of its own."""
        self._count += 1
        return self.add(f"{kind}{self._count}{options}", body)

    def text(self, text: str) -> str:
        """Exactly ``text``; empty text is nothing."""
        if not self._tokens:
            return _quoted(text) if text else ""
        parts: list[str] = []
        at = 0
        for hit in self._split.finditer(text):
            parts += [_quoted(text[at : hit.start()])] if hit.start() > at else []
            parts.append(f"<[{self._tokens[hit.group()]}]>")
            at = hit.end()
        parts += [_quoted(text[at:])] if text[at:] else []
        return " ".join(parts)

    def json(self, schema: Any, **options: Any) -> str:
        """JSON that fits ``schema``."""
        schema = dict(schema) if isinstance(schema, dict) else {"anyOf": [schema]}
        schema["x-guidance"] = {**_COMPACT, **options}
        return self.new(f"%json {json.dumps(schema)}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def alternatives(options: list[str]) -> str:
    """One of these bodies."""
    return "(" + " | ".join(option or '""' for option in options) + ")"


def regex(pattern: str) -> str:
    """A regular expression as Lark writes it."""
    return "/" + pattern.replace("/", r"\/").replace("\n", r"\n") + "/"
