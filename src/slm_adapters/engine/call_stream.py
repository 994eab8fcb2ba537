"""Tool calls out of a reply that is still being written.

A reader for each way of writing calls tells a call's name at once and its arguments as JSON text
as far as they are decided. What none of them understands is left to ``read_calls`` and the whole
reply, which has the last word in any case.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from .call_arguments import Arguments
from .call_formats import CallFormat
from .call_readers import MISTRAL_HEAD
from .engine import ToolCallDelta
from .growing_text import GrowingText, Pieces, Waiting, json_pieces, json_text
from .tool_formats import FENCES, formats_of, tool_call_id

__all__ = ["CallStream"]

Steps: TypeAlias = Iterator[ToolCallDelta | None]
Schemas: TypeAlias = Mapping[str, dict[str, Any]]

_ARGUMENTS = ("arguments", "parameters", "args")
_NAME = re.compile(r"[\w.-]+")


def _never() -> bool:
    return False


class CallStream:
    """Reads the calls of one reply.

    ``tools``: parameters by name; only these are called. ``form``: the model's own format.
    ``certain``: see ``Arguments``.
    """

    def __init__(
        self, tools: Schemas, form: CallFormat | None = None, certain: Callable[[], bool] = _never
    ) -> None:
        self._tools, self._certain = tools, certain
        self._source = GrowingText()
        #: Calls that were told of.
        self.count = 0
        self._readers = self._readers_for(form)
        self._longest = max(map(len, self._readers))
        self._steps = self._all()

    def read(self, written: str) -> list[ToolCallDelta]:
        """What is new of the calls now that ``written`` is all of the text so far."""
        self._source.text = written
        told: list[ToolCallDelta] = []
        try:
            while (delta := next(self._steps, None)) is not None:
                told.append(delta)
        except Exception:
            # Not only ValueError: nothing that goes wrong here may end the reply.
            self._steps = iter(())
        return _joined(told)

    def _readers_for(self, form: CallFormat | None) -> dict[str, Callable[[], Steps]]:
        """By the text that announces a call."""
        kinds: dict[str, Callable[[], Steps]] = {
            "json": self._json_calls,
            "tags": self._tags,
            "function": self._function,
            "python": self._python_calls,
            "mistral": self._mistral_calls,
        }
        readers: dict[str, Callable[[], Steps]] = dict.fromkeys(FENCES, self._json_calls)
        for item in formats_of(form):
            if item.kind == "braces":
                readers[item.opening] = partial(self._braces_calls, item.quote)
            elif item.kind == "own":
                assert form is not None
                readers[item.opening] = partial(self._own_calls, form)
            else:
                readers[item.opening] = kinds[item.kind]
        return readers

    def _all(self) -> Steps:
        first = yield from self._source.peek()
        if first == "{" or (first == "[" and not (yield from self._is_announced())):
            yield from self._bare(first)
            return
        while True:
            yield from (yield from self._announced())()

    def _is_announced(self) -> Waiting[bool]:
        """Whether the bracket that comes next begins an announcement, not a list."""
        for opening in self._readers:
            if opening.startswith("[") and (yield from self._source.begins(opening)):
                return True
        return False

    def _announced(self) -> Waiting[Callable[[], Steps]]:
        """The reader of the next call, once it is announced."""
        source = self._source
        while True:
            found = [
                (at, -len(opening), opening)
                for opening in self._readers
                if (at := source.text.find(opening, source.at)) >= 0
            ]
            if found:
                at, _, opening = min(found)
                source.at = at + len(opening)
                return self._readers[opening]
            source.at = max(source.at, len(source.text) - self._longest + 1)
            yield None

    def _call(self, name: str, arguments: Callable[[Arguments], Pieces]) -> Steps:
        """The name, then the arguments' text piece by piece."""
        if name not in self._tools:
            raise ValueError("no such tool")
        index, self.count = self.count, self.count + 1
        yield ToolCallDelta(index, tool_call_id(), name, certain=self._certain())
        for piece in arguments(Arguments(self._source, self._tools[name], self._certain)):
            if piece is None:
                yield None
            else:
                yield ToolCallDelta(index, arguments=piece, certain=self._certain())

    # --- one reader for each way of writing ----------------------------------------------------

    def _bare(self, first: str) -> Steps:
        """Calls that nothing announces: only the whole beginning of one tells."""
        source, start = self._source, self._source.at
        if first == "[":
            source.at += 1
            if (yield from source.peek()) != "{":
                yield from source.until("(")
                source.at = start
                # Any text behind a list of Python calls makes it none; a grammar lets none follow.
                if self._certain():
                    yield from self._python_calls()
                return
        source.at = start
        yield from self._json_calls()

    def _json_calls(self) -> Steps:
        """Objects one after the other, or in a list."""
        source = self._source
        while True:
            first, start = (yield from source.peek(" \t\r\n;,]")), source.at
            if first == "[":
                source.at += 1
                first = yield from source.peek()
            if first != "{":
                source.at = start
                return
            yield from self._json_call()

    def _json_call(self) -> Steps:
        source, name, called = self._source, "", False
        yield from source.expect("{")
        while True:
            key = yield from json_text(source)
            yield from source.peek()
            yield from source.expect(":")
            first = yield from source.peek()
            if key == "name" and not called:
                name = yield from json_text(source)
            elif key in _ARGUMENTS and not called and first == "{":
                yield from self._call(name, Arguments.of_json)
                called = True
            elif key in ("id", "type"):
                yield from (None for piece in json_pieces(source) if piece is None)
            else:
                raise ValueError("not how calls are written")
            if (yield from source.peek()) != ",":
                break
            source.at += 1
        yield from source.expect("}")
        if not called:
            raise ValueError("a call without arguments may be none")

    def _tags(self) -> Steps:
        """What stands between ``<tool_call>`` tags."""
        if (yield from self._source.peek()) != "<":
            yield from self._json_calls()
            return
        yield from self._source.expect("<function=")
        yield from self._function()

    def _function(self) -> Steps:
        name = (yield from self._source.until(">")).rstrip()
        is_json = (yield from self._source.peek()) == "{"
        yield from self._call(name, Arguments.of_json if is_json else Arguments.of_parameters)

    def _python_calls(self) -> Steps:
        source = self._source
        if (yield from source.peek()) == "[":
            source.at += 1
        if (yield from source.peek()) == "{":
            yield from self._json_calls()
            return
        while _NAME.match((yield from source.peek(" \t\r\n,;"))):
            name = (yield from source.until("(")).rstrip()
            yield from self._call(name, Arguments.of_keywords)

    def _braces_calls(self, quote: str) -> Steps:
        source = self._source
        while _NAME.match((yield from source.peek())):
            name = (yield from source.until("{")).strip().removeprefix("call:").strip()
            yield from self._call(name, partial(Arguments.of_braces, quote=quote))

    def _mistral_calls(self) -> Steps:
        source = self._source
        if (yield from source.peek()) in "[{":
            yield from self._json_calls()
            return
        while True:
            start = source.at
            yield from source.until("{")
            source.at -= 1
            head = MISTRAL_HEAD.match(source.text, start)
            if head is None or head.end() != source.at:
                raise ValueError("no name before the arguments")
            yield from self._call(head.group(1), Arguments.of_json)

    def _own_calls(self, form: CallFormat) -> Steps:
        """Exactly as ``form`` writes them."""
        source = self._source
        source.at -= len(form.marker)
        yield from source.expect(form.opening)
        while True:
            yield from source.expect(form.before)
            name = yield from source.until(form.between)
            yield from self._call(name, Arguments.of_json)
            yield from source.expect(form.after)
            if not form.separator or not (yield from source.begins(form.separator)):
                return
            source.at += len(form.separator)


def _joined(deltas: list[ToolCallDelta]) -> list[ToolCallDelta]:
    """Neighbouring pieces of one call's arguments as one."""
    result: list[ToolCallDelta] = []
    for delta in deltas:
        last = result[-1] if result else None
        same = last is not None and not last.name and not delta.name
        if last is not None and same and (last.index, last.certain) == (delta.index, delta.certain):
            arguments = last.arguments + delta.arguments
            result[-1] = ToolCallDelta(delta.index, arguments=arguments, certain=delta.certain)
        else:
            result.append(delta)
    return result
