"""Tool calls while they are written: for every format and however the text is cut, the pieces
make the calls that the whole reply has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import joined_calls

from slm_adapters.calls import Message, Reply, Tool, ToolCall, Usage
from slm_adapters.engine import call_formats
from slm_adapters.engine.call_arguments import ArgumentStream
from slm_adapters.engine.call_formats import CallFormat
from slm_adapters.engine.call_stream import CallStream
from slm_adapters.engine.engine import Completion, ToolCallDelta
from slm_adapters.engine.growing_text import GrowingText, json_pieces
from slm_adapters.engine.reply_text import HoldBack
from slm_adapters.engine.shown_calls import ShownCalls
from slm_adapters.engine.tool_formats import ParsedReply, read_calls
from slm_adapters.errors import InvalidReplyError

WRITE = Tool(
    "write_file",
    "Write a file.",
    {
        "type": "object",
        "properties": {
            "path": {"type": "string", "title": "Path"},
            "body": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "mode": {"enum": ["new", "append"]},
            "lines": {"type": "integer"},
            "share": {"type": "number"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "owner": {"type": "object", "properties": {"name": {"type": "string"}}},
            "keep": {"type": "boolean"},
        },
    },
)
PING = Tool("ping-host", "Ping.", {"type": "object", "properties": {"host": {"type": "string"}}})
SCHEMAS = {tool.name: tool.parameters for tool in (WRITE, PING)}
OWN = CallFormat("own", '<call to="', '">', "</call>", "<call to=", separator="")
FORMS = {form.name: form for form in (*call_formats.FAMILIES, OWN)}

#: Text that a format can carry inside its own delimiters, its awkward letters included.
texts = st.text(
    st.one_of(st.sampled_from("\"'\\\n\t{}[](),:;=é東🍵 "), st.characters(codec="utf-8")),
    max_size=12,
).filter(lambda text: not any(mark in text for mark in ("<", "\r", "\x00", "\x85", "\u2028")))
values = st.fixed_dictionaries(
    {},
    optional={
        "path": texts,
        "body": st.one_of(texts, st.none()),
        "mode": st.sampled_from(["new", "append"]),
        "lines": st.integers(-(10**20), 10**20),
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "tags": st.lists(texts, max_size=3),
        "owner": st.fixed_dictionaries({}, optional={"name": texts}),
        "keep": st.booleans(),
    },
)
written_calls = st.lists(
    st.one_of(
        st.tuples(st.just("write_file"), values),
        st.tuples(st.just("ping-host"), st.fixed_dictionaries({"host": texts})),
    ),
    min_size=1,
    max_size=3,
)
cuts = st.lists(st.integers(1, 9), max_size=60)


def pieces_of(text: str, sizes: list[int]) -> Iterator[str]:
    """``text`` cut at these sizes, then letter by letter."""
    at, left = 0, iter(sizes)
    while at < len(text):
        size = next(left, 1)
        yield text[at : at + size]
        at += size


class Told:
    """A reply fed in pieces: text shown, deltas told, and what the whole was read as."""

    def __init__(
        self,
        text: str,
        sizes: list[int],
        form: CallFormat | None = None,
        *,
        certain: bool = False,
        cut_off: bool = False,
    ) -> None:
        hold = HoldBack(tools=True, marker=form.marker if form else "")
        stream, shown = CallStream(SCHEMAS, form, lambda: certain), ShownCalls()
        self.text, self.early = "", list[ToolCallDelta]()
        for piece in pieces_of(text, sizes):
            self.text += hold.feed(piece)
            self.early += stream.read(hold.possible_calls)
        for delta in self.early:
            shown.note(delta)
        self.parsed: ParsedReply = read_calls(
            hold.flush(), SCHEMAS, cut_off=cut_off, schemas=SCHEMAS, form=form
        )
        self.calls = shown.named(self.parsed.calls)
        message = Message("assistant", self.parsed.content, tool_calls=self.calls)
        self.completion = Completion(Reply(message, "tool_call"), Usage(1, 1), "m")
        self.shown = shown

    def joined(self) -> tuple[ToolCall, ...]:
        return joined_calls([*self.early, *self.shown.rest(self.completion)])


def plain(calls: tuple[ToolCall, ...]) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


# --- every format -----------------------------------------------------------------------------


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize("name", FORMS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_make_the_calls_of_the_whole_reply(name: str, certain: bool, data: Any) -> None:
    """Ids, names and the very text of the arguments; what came before stays text."""
    form = FORMS[name]
    calls = data.draw(written_calls)
    if form.separator is None:
        calls = calls[:1]
    before = data.draw(st.sampled_from(["", "Let me see.\n"])) if form.marker else ""
    told = Told(before + form.write(calls), data.draw(cuts), form, certain=certain)
    if plain(told.parsed.calls) != calls:
        return  # the format cannot carry these values; the fuzz below covers what is read then
    assert told.joined() == told.calls
    assert told.text == before
    assert told.joined()[0].id


@pytest.mark.parametrize("name", FORMS)
def test_a_name_is_told_before_its_arguments_are_there(name: str) -> None:
    """And all of the call before anything that follows it."""
    form, arguments = FORMS[name], {"path": "notes/today.md", "lines": 3, "keep": True}
    text = form.write([("write_file", arguments)])
    stream, told = CallStream(SCHEMAS, form, lambda: True), list[ToolCallDelta]()
    seen = dict[int, tuple[ToolCall, ...]]()
    for end in range(1, len(text) + 1):
        told += stream.read(text[:end])
        seen[end] = joined_calls(told)
    middle = seen[text.index("today")]
    assert [call.name for call in middle] == ["write_file"]
    assert plain(seen[len(text)]) == [("write_file", arguments)]
    # Formats in JSON pass a text on while it is written, the others each value when it is whole.
    begun = '{"path": "notes/' if form.arguments == "json" else "{"
    assert middle[0].arguments == begun
    assert seen[text.index("lines") + 1][0].arguments.startswith('{"path": "notes/today.md"')


def test_values_wait_until_they_fit_where_no_grammar_holds_them() -> None:
    """Plain text comes as it is written; everything else when it is whole and its schema agrees."""
    head = '<tool_call>\n{"name": "write_file", "arguments": '
    stream, text = CallStream(SCHEMAS), head

    def more(piece: str) -> str:
        nonlocal text
        text += piece
        return "".join(delta.arguments for delta in stream.read(text))

    assert more('{"path": "no') == '{"path": "no'
    assert more('tes", "body": "On') == 'tes", "body": "On'
    assert more('ce", "mode": "ne') == 'ce"'
    assert more('w", "lines": 1') == ', "mode": "new"'
    assert more('2, "tags": ["a"') == ', "lines": 12'
    assert more('], "mode": "wrong", "path": "more"}}') == ', "tags": ["a"]'
    assert more("\n</tool_call>") == ""


def test_an_unknown_tool_is_not_begun() -> None:
    """Nor anything after it: the numbers of the calls would be wrong."""
    text = call_formats.GENERIC.write([("erase_disk", {}), ("ping-host", {"host": "a"})])
    assert CallStream(SCHEMAS).read(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "ping-host"}</tool_call>',  # no arguments: it may be anything
        '{"name": "ping-host", "function": {"name": "x"}}',
        '{"arguments": {}, "name": "ping-host"}',
        '<tool_call>{"type": "function", "function": {"name": "ping-host", "arguments": {}}}',
        "[ping-host(host='a')] and more",  # no list of calls, seen from its end
        "[1] ping-host(host='a')",
    ],
)
def test_what_may_be_none_is_left_to_the_whole_reply(text: str) -> None:
    """It still becomes a call where it is one."""
    told = Told(text, [])
    assert told.early == []
    assert told.joined() == told.calls


def test_a_call_whose_arguments_are_no_object_ends_invalid() -> None:
    """As in a reply that was not streamed: the check, or LangChain's message, says so."""
    told = Told('<tool_call>{"name": "ping-host", "arguments": [1, 2]}</tool_call>', [])
    assert [(c.name, c.arguments) for c in told.joined()] == [("ping-host", "[1, 2]")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'path': 'a', 'keep': True}", '{"path": "a", "keep": true}'),
        ('{"path": "a", "keep": True, }', '{"path": "a", "keep": true}'),
        ('{"path": "a\nb", "lines": 1}', '{"path": "a\\nb", "lines": 1}'),
        ('{"path": "a", lines: 01, "keep": false', '{"path": "a", "lines": 1, "keep": false}'),
        ('{"tags": ["a", "b",], "path": "x"}', '{"tags": ["a", "b"], "path": "x"}'),
    ],
)
def test_repair_goes_on_from_what_was_told(text: str, said: str) -> None:
    """Almost-JSON is mended at the end; its beginning is what was told already."""
    told = Told(f'<tool_call>{{"name": "write_file", "arguments": {text}}}', [])
    assert [c.arguments for c in told.joined()] == [said]


def test_a_key_written_twice_is_the_same_object() -> None:
    """Pieces cannot be taken back; a reader takes the last value, as the whole reply has it."""
    told = Told('<tool_call>{"name": "ping-host", "arguments": {"host": "a", "host": "b"}}', [])
    (call,) = told.joined()
    assert call.arguments == '{"host": "a", "host": "b"}'
    assert call.parsed() == told.calls[0].parsed() == {"host": "b"}


def test_a_call_that_breaks_off_after_pieces_is_an_error() -> None:
    """The completion is on it: what it cost is counted."""
    whole = '<tool_call>{"name": "ping-host", "arguments": {"host": "local'
    told = Told(whole, [], cut_off=True)
    assert joined_calls(told.early)[0].arguments == '{"host": "local'
    with pytest.raises(InvalidReplyError, match="ping-host") as caught:
        told.joined()
    assert caught.value.completion is told.completion


# --- anything at all --------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(FORMS)),
    calls=written_calls,
    sizes=cuts,
    certain=st.booleans(),
    data=st.data(),
)
@settings(max_examples=500, deadline=None)
def test_whatever_is_written_ends_as_the_whole_reply_or_in_an_error(
    name: str, calls: Any, sizes: list[int], certain: bool, data: Any
) -> None:
    """Cut short, doubled, or with letters changed: the same calls, or a typed error where pieces
    had been shown of another one."""
    form = FORMS[name]
    text = form.write(calls)
    at = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(at, min(at + 4, len(text))))
    letters = data.draw(st.text(st.sampled_from("{}[]()<>\"',:=/ a1\n\\"), max_size=4))
    text = text[:at] + letters + text[end:]
    text = text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text
    told = Told(text, sizes, form, certain=certain, cut_off=data.draw(st.booleans()))
    try:
        joined = told.joined()
    except InvalidReplyError:
        assert told.early
        return
    assert [(c.id, c.name) for c in joined] == [(c.id, c.name) for c in told.calls]
    assert [json.loads(c.arguments) for c in joined] == [
        json.loads(c.arguments) for c in told.calls
    ]


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8"), max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=json_values, sizes=cuts, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
@settings(max_examples=300, deadline=None)
def test_json_comes_out_as_dumps_writes_it(
    value: Any, sizes: list[int], ascii_only: bool, indent: int | None
) -> None:
    """Escapes, surrogates, numbers and white space, cut anywhere."""
    text = json.dumps([value], ensure_ascii=ascii_only, indent=indent)
    source, said = GrowingText(), ""
    reader = json_pieces(source)
    for piece in pieces_of(text, sizes):
        source.text += piece
        while (part := next(reader, None)) is not None:
            said += part
        assert json.dumps([value], ensure_ascii=False).startswith(said)
    assert said == json.dumps([value], ensure_ascii=False)


@given(arguments=values, sizes=cuts)
@settings(deadline=None)
def test_a_server_s_arguments_come_out_the_same_way(arguments: Any, sizes: list[int]) -> None:
    """Fed as a server sends them, in its own spelling."""
    stream, text, said = ArgumentStream(WRITE.parameters), "", ""
    for piece in pieces_of(json.dumps(arguments, separators=(",", ":")), sizes):
        text += piece
        said += stream.read(text)
    assert said == json.dumps(arguments, ensure_ascii=False)


def test_a_letter_in_two_escapes_comes_whole() -> None:
    """Half a surrogate pair is no letter; one that stands alone is left to the end."""
    stream = ArgumentStream(PING.parameters)
    assert stream.read('{"host": "a\\ud83c') == '{"host": "a'
    assert stream.read('{"host": "a\\ud83c\\udf75"}') == '🍵"}'
    assert ArgumentStream(PING.parameters).read('{"host": "a\\ud83cb"}') == '{"host": "a'
