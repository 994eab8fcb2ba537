"""From tokens to the text a caller may see, piece by piece.

Each class takes pieces and returns what is decided so far: tokens to characters, thinking
removed, stop strings honoured, possible tool calls held back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .tool_formats import TRIGGERS

__all__ = ["Detokenizer", "HoldBack", "StopScanner", "ThinkFilter"]

_UNDECIDED = "\ufffd"
#: Tokens after which bytes that form no character are given up as they are.
_LONGEST_WAIT = 64


class Detokenizer:
    """Token ids to text; a character split over several tokens appears when it is whole."""

    def __init__(self, decode: Callable[[list[int]], str], silent: frozenset[int]) -> None:
        """``silent``: ids that are never text, such as the end of a message."""
        self._decode, self._silent = decode, silent
        self._ids: list[int] = []
        self._seen = ""

    def feed(self, token: int) -> str:
        """The text this token completes; empty inside a character."""
        if token in self._silent:
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(_UNDECIDED) and len(self._ids) < _LONGEST_WAIT:
            return ""
        new = text[len(self._seen) :]
        # The last token stays as context: some decoders drop a leading space without it.
        self._ids = self._ids[-1:]
        self._seen = self._decode(self._ids)
        return new

    def flush(self) -> str:
        """What is left at the end, without a character that was cut in half."""
        text = self._decode(self._ids) if self._ids else ""
        return text[len(self._seen) :].rstrip(_UNDECIDED)


class StopScanner:
    """Ends the text before the first stop string, however it is split over pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        held = self._held + text
        hits = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if hits:
            self.stopped, self._held = True, ""
            return held[: min(hits)]
        keep = open_end(held, self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


class ThinkFilter:
    """Takes one ``<think>...</think>`` block at the start of a reply out of its text."""

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self, *, thinking: bool = False) -> None:
        """``thinking``: the prompt already opened the block."""
        self.thinking = thinking
        self._read = self._inside if thinking else self._start
        self._held = self._thought = self._space = ""
        self._begun = False

    def feed(self, text: str) -> str:
        """The text outside the block."""
        return self._read(text)

    def thought(self) -> str:
        """What is new of the text inside, without white space around it."""
        new, self._thought = self._thought, ""
        return new

    def flush(self) -> str:
        """Text that only looked like the start of a block, or like its end."""
        held, self._held = self._held, ""
        if self.thinking:
            self._think(held)
        return "" if self.thinking else held

    def _start(self, text: str) -> str:
        self._held += text
        begun = self._held.lstrip()
        if begun.startswith(self._OPEN):
            self.thinking, self._held, self._read = True, "", self._inside
            return self._inside(begun[len(self._OPEN) :])
        if self._OPEN.startswith(begun):
            return ""
        self._read = self._plain
        return self.flush()

    def _inside(self, text: str) -> str:
        self._held += text
        end = self._held.find(self._CLOSE)
        if end < 0:
            sure = len(self._held) - open_end(self._held, (self._CLOSE,))
            self._think(self._held[:sure])
            self._held = self._held[sure:]
            return ""
        self._think(self._held[:end])
        rest = self._held[end + len(self._CLOSE) :]
        self.thinking, self._held, self._read = False, "", self._gap
        return self._gap(rest)

    def _think(self, text: str) -> None:
        text = self._space + text
        if not self._begun:
            text = text.lstrip()
        told = text.rstrip()
        self._space = text[len(told) :]
        self._begun = self._begun or bool(told)
        self._thought += told

    def _gap(self, text: str) -> str:
        text = text.lstrip()
        if text:
            self._read = self._plain
        return text

    @staticmethod
    def _plain(text: str) -> str:
        return text


class HoldBack:
    """Keeps back what may be a tool call until the reply is complete."""

    def __init__(self, *, tools: bool, everything: bool = False, marker: str = "") -> None:
        """``marker``: the model's own announcement of a call, besides the known ones."""
        self._watch = tools
        self._triggers = (*TRIGGERS, marker) if marker else TRIGGERS
        self._holding = everything
        self._begun = False
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that cannot be part of a tool call."""
        if self._holding or not self._watch:
            self._held += text if self._holding else ""
            return "" if self._holding else text
        self._held += text
        return self._start() if not self._begun else self._open()

    def _start(self) -> str:
        begun = self._held.lstrip()
        if not begun or _may_begin(begun, "```"):
            return ""
        if begun[0] in "{[" or begun.startswith("```"):
            self._holding = True
            return ""
        self._begun = True
        return self._open()

    def _open(self) -> str:
        held = self._held
        hits = [at for trigger in self._triggers if (at := held.find(trigger)) >= 0]
        if hits:
            self._holding = True
            cut = min(hits)
        else:
            cut = len(held) - open_end(held, self._triggers)
        self._held = held[cut:]
        return held[:cut]

    @property
    def possible_calls(self) -> str:
        """The text kept back until the end; empty while none is."""
        return self._held if self._holding else ""

    def flush(self) -> str:
        """Everything kept back."""
        held, self._held = self._held, ""
        return held


def open_end(text: str, endings: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that begins one of ``endings`` but is not all of it."""
    for length in range(min(len(text), max(map(len, endings)) - 1), 0, -1):
        tail = text[-length:]
        if any(ending.startswith(tail) for ending in endings):
            return length
    return 0


def _may_begin(text: str, start: str) -> bool:
    return text != start and start.startswith(text)
