"""Tokens to visible text: characters, thoughts, stop strings, held-back tool calls."""

from __future__ import annotations

import random

import pytest
from tiny_models import tiny_tokenizer

from slm_adapters.engine.reply_text import Detokenizer, HoldBack, StopScanner, ThinkFilter

TEXTS = [
    "Hello, world",
    "お茶を🙂 naïve — Grüße",
    "a🙂b👩‍👩‍👧c",
    " leading and trailing ",
    "\n\n\ttabs",
]


def splits(text: str, seed: int) -> list[str]:
    """The text in random pieces of one to four characters."""
    rng, pieces, at = random.Random(seed), [], 0
    while at < len(text):
        size = rng.randint(1, 4)
        pieces.append(text[at : at + size])
        at += size
    return pieces


@pytest.mark.parametrize("text", TEXTS)
def test_characters_are_whole(text: str) -> None:
    """No piece holds half a character, and together they are the text."""
    tokenizer = tiny_tokenizer()
    backend = tokenizer.backend_tokenizer
    reader = Detokenizer(lambda ids: backend.decode(ids, skip_special_tokens=False), frozenset())
    pieces = [reader.feed(i) for i in backend.encode(text, add_special_tokens=False).ids]
    assert "".join(pieces) + reader.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_leading_spaces_of_sentencepiece_words_survive() -> None:
    """Decoders that drop the first space of what they are given do not drop any other."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["▁Hello", "▁big", "▁world", "!"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "!"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    reader = Detokenizer(lambda ids: tokenizer.decode(ids), frozenset())
    assert "".join(reader.feed(i) for i in range(4)) + reader.flush() == "Hello big world!"


def test_a_character_cut_off_at_the_end_is_left_out() -> None:
    """A reply that ends inside a character ends before it."""
    backend = tiny_tokenizer().backend_tokenizer
    reader = Detokenizer(lambda ids: backend.decode(ids, skip_special_tokens=False), frozenset())
    ids = backend.encode("ok🙂", add_special_tokens=False).ids[:-1]
    assert "".join(reader.feed(i) for i in ids) + reader.flush() == "ok"


def test_bytes_that_form_no_character_do_not_stall_the_stream() -> None:
    """Endless invalid bytes are shown as such after a while."""
    backend = tiny_tokenizer().backend_tokenizer
    reader = Detokenizer(lambda ids: backend.decode(ids, skip_special_tokens=False), frozenset())
    invalid = backend.encode("é", add_special_tokens=False).ids[-1]
    shown = "".join(reader.feed(invalid) for _ in range(200))
    assert len(shown) > 100


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("Action: x\nObservation: made up", ("\nObservation:",), "Action: x"),
        ("aaab", ("aab",), "a"),
        ("one END two STOP", ("STOP", "END"), "one "),
        ("お茶です。終わり", ("。終",), "お茶です"),
        ("\nObserv but not that", ("\nObservation:",), "\nObserv but not that"),
        ("STOP at once", ("STOP",), ""),
        ("ends with the start ST", ("STOP",), "ends with the start ST"),
        ("x🙂🙃y", ("🙂🙃",), "x"),
    ],
)
def test_t2_stop_strings(text: str, stops: tuple[str, ...], expected: str, seed: int) -> None:
    """Exact across pieces, at the start, in multi-byte text; never a part of one in a piece."""
    scanner, shown = StopScanner(stops), ""
    for piece in splits(text, seed):
        shown += scanner.feed(piece)
        assert expected.startswith(shown)
        if scanner.stopped:
            break
    assert shown + scanner.flush() == expected
    assert scanner.stopped == any(stop in text for stop in stops)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, "Yes."),
        ("  \n<think>hm</think>Yes.", False, "Yes."),
        ("hm</think>\nYes.", True, "Yes."),
        ("No thought <think>here</think>", False, "No thought <think>here</think>"),
        ("<thin ice", False, "<thin ice"),
        ("<think>never closed", False, ""),
        ("<think></think>", False, ""),
        ("<th", False, "<th"),
        ("<think>a</think>b</think>c", False, "b</think>c"),
    ],
)
def test_t6_thoughts_are_removed(text: str, thinking: bool, expected: str, seed: int) -> None:
    """One block at the start disappears; everything else stays."""
    thoughts = ThinkFilter(thinking=thinking)
    shown = "".join(thoughts.feed(piece) for piece in splits(text, seed))
    assert shown + thoughts.flush() == expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, "hm"),
        ("  \n<think>one\n\n two </thin ki</think>Yes.", False, "one\n\n two </thin ki"),
        ("\nhm\n</think>\nYes.", True, "hm"),
        ("No thought <think>here</think>", False, ""),
        ("<think>never closed </th", False, "never closed </th"),
        ("<think>\n\n</think>x", False, ""),
        ("<think>a</think>b</think>c", False, "a"),
    ],
)
def test_t6_thoughts_are_told(text: str, thinking: bool, expected: str, seed: int) -> None:
    """All of the block, without white space around it, as soon as it is certain."""
    thoughts, told = ThinkFilter(thinking=thinking), ""
    for piece in splits(text, seed):
        thoughts.feed(piece)
        told += thoughts.thought()
        assert expected.startswith(told)
    thoughts.flush()
    assert told + thoughts.thought() == expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Plain text < 5 and [x] or `code`.", "Plain text < 5 and [x] or `code`."),
        ('Let me see.\n<tool_call>{"name": "f"}</tool_call> after', "Let me see.\n"),
        ('{"name": "f", "arguments": {}}', ""),
        ("[f(a=1)]", ""),
        ("```json\n{}\n```", ""),
        ("Here:\n```json\n{}\n```", "Here:\n"),
        ("[TOOL_CALLS][{}]", ""),
        ("ends with <tool_ca", "ends with "),
    ],
)
def test_possible_tool_calls_are_held_back(text: str, shown: str, seed: int) -> None:
    """A stream never shows a part of what may become a call, and nothing is lost."""
    hold = HoldBack(tools=True)
    seen = "".join(hold.feed(piece) for piece in splits(text, seed))
    assert seen == shown
    assert seen + hold.flush() == text


def test_without_tools_nothing_is_held_back() -> None:
    """Text that looks like a call is text when no tool was offered."""
    assert HoldBack(tools=False).feed('{"name": "f"}') == '{"name": "f"}'
