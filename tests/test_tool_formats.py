"""Tool calls as text: every family writes and reads them, in one piece and letter by letter;
whatever a model writes, nothing crashes and no text is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from call_families import FAMILIES, family_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slm_adapters.calls import Message, Tool, ToolCall
from slm_adapters.engine import call_formats
from slm_adapters.engine.call_formats import CallFormat
from slm_adapters.engine.chat_format import render
from slm_adapters.engine.json_repair import only_json, read_json
from slm_adapters.engine.reply_text import HoldBack, StopScanner, ThinkFilter
from slm_adapters.engine.tokenizing import chat_format_of, render_chat, tools_keyword
from slm_adapters.engine.tool_formats import ParsedReply, read_calls

BOOK = Tool(
    "book_table",
    "Book a table.",
    {
        "type": "object",
        "properties": {
            "place": {"type": "string"},
            "guests": {"type": "integer"},
            "outside": {"type": "boolean"},
            "wishes": {"type": "array", "items": {"type": "string"}},
            "guest": {"type": "object", "properties": {"name": {"type": "string"}}},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
)
PING = Tool("ping-host", "Ping.", {"type": "object", "properties": {"host": {"type": "string"}}})
SCHEMAS = {tool.name: tool.parameters for tool in (BOOK, PING)}
CALLS = [
    (
        "book_table",
        {
            "place": 'Café "Zum Löwen", 東京 (a)',
            "guests": 4,
            "outside": True,
            "wishes": ["quiet, please", "[window]"],
            "guest": {"name": "O'Hara {x}"},
            "note": None,
        },
    ),
    ("ping-host", {"host": "10.0.0.1"}),
]
FORMS = {form.name: form for form in call_formats.FAMILIES}


def found(parsed: ParsedReply) -> list[tuple[str, Any]]:
    return [(call.name, call.parsed()) for call in parsed.calls]


def streamed(text: str, sizes: Any, form: CallFormat | None = None) -> tuple[str, ParsedReply]:
    """Fed in pieces: what was shown on the way, and what the rest was read as."""
    hold, shown, at = HoldBack(tools=True, marker=form.marker if form else ""), "", 0
    while at < len(text):
        size = max(next(sizes, 1), 1)
        shown += hold.feed(text[at : at + size])
        at += size
    return shown, read_calls(hold.flush(), SCHEMAS, schemas=SCHEMAS, form=form)


# --- every family -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_t36_what_a_family_writes_is_read_back(name: str, count: int) -> None:
    """One call and two, with the values that break naive readers; whole and letter by letter."""
    form, calls = FORMS[name], CALLS[:count]
    text = form.write(calls)
    assert found(read_calls(text, SCHEMAS, schemas=SCHEMAS, form=form)) == calls
    shown, parsed = streamed(text, iter(()), form)
    assert (shown, found(parsed), parsed.content.strip()) == ("", calls, "")


@pytest.mark.parametrize("name", FAMILIES)
def test_t34_a_template_is_resolved_to_its_family(name: str) -> None:
    """By what it writes, what it tells the model, or the tokens of its vocabulary."""
    tokenizer = family_tokenizer(FAMILIES[name])
    chat_format = chat_format_of(tokenizer, tools_keyword(tokenizer))
    assert chat_format.calls.name == ("hermes" if name == "generic" else name)
    assert chat_format is chat_format_of(tokenizer, tools_keyword(tokenizer))


@pytest.mark.parametrize("name", FAMILIES)
def test_t34_t35_histories_are_written_in_the_family_s_way(name: str) -> None:
    """A past call stands in the prompt as the model itself would have written it, also where
    the template knows no calls; the result follows; the tools are there."""
    tokenizer = family_tokenizer(FAMILIES[name])
    keyword = tools_keyword(tokenizer)
    chat_format = chat_format_of(tokenizer, keyword)
    calls = tuple(ToolCall(f"id{n}", c, json.dumps(a)) for n, (c, a) in enumerate(CALLS[:1]))
    history = [
        Message("system", "Be kind."),
        Message("user", "A table for four"),
        Message("assistant", None, tool_calls=calls),
        Message("tool", "booked it", tool_call_id="id0", name="book_table"),
    ]
    text = render(
        lambda m, t, a: render_chat(tokenizer, keyword, m, t, a), chat_format, history, [BOOK]
    ).text
    written = text[text.index("A table for four") : text.index("booked it")]
    written = written.partition("assistant\n")[2].partition("<|im_end|>")[0]
    read = read_calls(written, SCHEMAS, schemas=SCHEMAS, form=chat_format.calls)
    assert found(read) == CALLS[:1]
    for part in ("Be kind.", '"book_table"', "booked it"):
        assert part in text


def test_t34_the_tokenizer_s_own_word_comes_first() -> None:
    """A response template decides even where the template renders no calls."""
    family = FAMILIES["phi4"]
    tokenizer = family_tokenizer(family)
    tokenizer.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {
                "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
                "close_pattern": r"</function>\s*</tool_call>",
                "repeats": True,
                "content": "xml-inline",
                "content_args": {
                    "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"
                },
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
            "content": {"content": "text"},
        },
    }
    assert chat_format_of(tokenizer, "tools").calls.name == "xml"


def test_t34_tools_that_change_nothing_are_not_believed() -> None:
    """A template that swallows tools gets the general protocol, whatever its vocabulary holds."""
    tokenizer = family_tokenizer(FAMILIES["generic"])
    chat_format = chat_format_of(tokenizer, "tools")
    assert not chat_format.tools
    text = render(
        lambda m, t, a: render_chat(tokenizer, "tools", m, t, a),
        chat_format,
        [Message("user", "hi")],
        [BOOK],
    ).text
    assert '"name": "book_table"' in text
    assert "<tool_call>" in text


@pytest.mark.parametrize("name", FORMS)
def test_t37_the_end_of_a_call_inside_an_argument_ends_nothing(name: str) -> None:
    """An argument may quote any family's closing text."""
    form = FORMS[name]
    closing = (form.after + form.closing).strip("}])\n") or "}"
    if form.arguments in ("xml", "braces") and closing.startswith(("</function", "<end", "<tool")):
        closing = closing.removeprefix("</function>\n")
    calls = [("ping-host", {"host": f"a {closing} b"}), CALLS[0]]
    assert found(read_calls(form.write(calls), SCHEMAS, schemas=SCHEMAS, form=form)) == calls


# --- whatever a model writes ------------------------------------------------------------------

_BITS = [
    *(form.write(CALLS[:1]) for form in FORMS.values()),
    *(form.write(CALLS) for form in FORMS.values()),
    *(form.marker for form in FORMS.values() if form.marker),
    *(
        "</tool_call>",
        "</function>",
        "<parameter=q>",
        "</parameter>",
        "[ARGS]",
        "<escape>",
        '<|"|>',
    ),
    *(
        "```json",
        "```",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        '"',
        "'",
        ",",
        ":",
        "=",
        "\\",
        "\n",
        " ",
        ";",
    ),
    *('{"name": "book_table", "arguments": ', "book_table(", "call:book_table{", "null", "True"),
    *("<think>", "</think>", "é", "🙂", "\u2028", "\x00", "word "),
]
_TEXTS = st.lists(st.one_of(st.sampled_from(_BITS), st.text(max_size=6)), max_size=12).map("".join)
_SIZES = st.lists(st.integers(1, 9), max_size=40)
_FORMS = st.sampled_from([None, *FORMS.values()])


@settings(max_examples=300, deadline=None)
@given(_TEXTS, st.booleans(), _FORMS)
@example("<tool_call>" * 50, False, None)
@example("<function=" + "<parameter=a>" * 50, False, None)
def test_no_text_crashes_a_reader_or_is_lost(text: str, cut: bool, form: Any) -> None:
    """Calls are of offered tools; without one every letter is still there."""
    parsed = read_calls(text, SCHEMAS, cut_off=cut, schemas=SCHEMAS, form=form)
    assert {call.name for call in parsed.calls} <= set(SCHEMAS)
    if not parsed.calls:
        assert parsed.content == text
    assert len(parsed.content) <= len(text)
    assert len(parsed.unread) <= len(parsed.content)


@settings(max_examples=300, deadline=None)
@given(_TEXTS, _SIZES, _FORMS)
def test_any_split_of_a_stream_gives_the_same(text: str, sizes: list[int], form: Any) -> None:
    """Shown and held text together are the text; the split changes neither text nor calls."""
    one, two = streamed(text, iter(sizes), form), streamed(text, iter(()), form)
    for shown, parsed in (one, two):
        assert text.startswith(shown)
        if not parsed.calls:
            assert shown + parsed.content == text
    assert one[0] + one[1].content == two[0] + two[1].content
    assert found(one[1]) == found(two[1])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=3),
    st.lists(st.integers(0, 999), min_size=4, max_size=4),
)
def test_text_around_calls_is_kept(names: list[str], words: list[int]) -> None:
    """Between calls with a marker every word stays, in its order."""
    marked = [FORMS[name] for name in names if FORMS[name].marker]
    text, said = "", []
    for form, word in zip(marked, words, strict=False):
        said.append(f"word{word}")
        text += f" word{word} " + form.write(CALLS[1:])
    text += f" word{words[-1]}"
    parsed = read_calls(text, SCHEMAS, schemas=SCHEMAS)
    assert found(parsed) == CALLS[1:] * len(marked)
    assert parsed.content.split() == [*said, f"word{words[-1]}"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), _SIZES)
def test_the_stop_matcher_finds_the_first_stop(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    """What is shown is the text before the first stop, for any split, and never a part of it."""
    hits = [at for stop in stops if (at := text.find(stop)) >= 0]
    expected = text[: min(hits)] if hits else text
    scanner, shown, at, left = StopScanner(stops), "", 0, iter(sizes)
    while at < len(text) and not scanner.stopped:
        size = next(left, 1)
        shown += scanner.feed(text[at : at + size])
        at += size
        assert expected.startswith(shown)
    assert shown + scanner.flush() == expected
    assert scanner.stopped == bool(hits)


@settings(max_examples=150, deadline=None)
@given(_TEXTS, _SIZES, st.booleans())
def test_thoughts_end_at_the_same_place_for_any_split(
    text: str, sizes: list[int], begun: bool
) -> None:
    """The filter of thoughts is a function of the text alone."""

    def shown(left: Any) -> str:
        thoughts, out, at = ThinkFilter(thinking=begun), "", 0
        while at < len(text):
            size = next(left, 1)
            out += thoughts.feed(text[at : at + size])
            at += size
        return out + thoughts.flush()

    assert shown(iter(sizes)) == shown(iter([len(text) or 1]))


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_json_repair_reads_or_refuses(text: str) -> None:
    """A value with a position inside the text, or ``ValueError``; real JSON is left as it is."""
    try:
        value, end = read_json(text)
    except ValueError:
        pass
    else:
        assert 0 <= end <= len(text)
        json.dumps(value)
    only_json(text)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_json_repair_changes_no_json(value: Any) -> None:
    """What json itself writes is read as json itself reads it."""
    assert read_json(json.dumps(value))[0] == value


@pytest.mark.parametrize("value", ["{1}", "b'x'", "1j", "{(1, 2): 3}", "..."])
def test_a_literal_that_json_cannot_say_is_no_argument(value: str) -> None:
    """Python's own kinds of values end as text that is no call, not in an exception."""
    text = f"<|tool_call_start|>[ping-host(host={value})]<|tool_call_end|>"
    assert read_calls(text, SCHEMAS) == ParsedReply(text, (), text)
