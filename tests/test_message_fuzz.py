"""Any history a framework can hold becomes a request: a typed error at most, and no text lost."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from slm_adapters.calls import Message
from slm_adapters.crewai import SLM
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.errors import SLMAdaptersError, UnsupportedContentError
from slm_adapters.langchain import ChatSLM
from slm_adapters.testing import ScriptedModel

#: Marked, so that a piece can be found again wherever it went.
WORDS = st.text(max_size=12).map(lambda text: f"<{text}>")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=5), JSON, max_size=3)
IDS = st.none() | st.text(max_size=8)


def asked(engine: ScriptedModel) -> ChatRequest | None:
    return engine.requests[-1] if engine.requests else None


def text_of(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.text for message in messages)


# --- LangChain -------------------------------------------------------------------------------

TEXT_BLOCKS = WORDS | st.builds(lambda text: {"type": "text", "text": text}, WORDS)
OTHER_BLOCKS = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "image", "url": "https://example.com/a.png"},
        {"type": "file", "file": {"file_data": "AA=="}},
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "thinking", "thinking": "hm"},
        {"type": "tool_use", "id": "1", "name": "t", "input": {}},
        {"type": "tool_call", "id": "1", "name": "t", "args": {}},
        {"type": "non_standard", "value": {"a": 1}},
        {"no_type": 1},
    ]
)
CONTENT = WORDS | st.lists(TEXT_BLOCKS, max_size=4)
ANY_CONTENT = CONTENT | st.lists(TEXT_BLOCKS | OTHER_BLOCKS, max_size=4)
CALLS = st.lists(
    st.builds(
        lambda name, args, call_id: {"name": name, "args": args, "id": call_id},
        st.text(max_size=8), ARGUMENTS, IDS,
    ),
    max_size=3,
)  # fmt: skip
INVALID = st.lists(
    st.builds(
        lambda name, args, call_id: {
            "name": name, "args": args, "id": call_id, "error": None, "type": "invalid_tool_call",
        },
        IDS, IDS, IDS,
    ),
    max_size=2,
)  # fmt: skip


def histories(content: st.SearchStrategy[Any]) -> st.SearchStrategy[list[BaseMessage]]:
    one = st.one_of(
        st.builds(HumanMessage, content),
        st.builds(SystemMessage, content),
        st.builds(
            lambda content, calls, bad, name: AIMessage(
                content, tool_calls=calls, invalid_tool_calls=bad, name=name
            ),
            content, CALLS, INVALID, IDS,
        ),
        st.builds(
            lambda content, call_id, status: ToolMessage(
                content, tool_call_id=call_id, status=status, artifact={"any": object}
            ),
            content, st.text(max_size=8), st.sampled_from(["success", "error"]),
        ),
        st.builds(lambda content: FunctionMessage(content=content, name="f"), WORDS),
        st.builds(lambda role, content: ChatMessage(role=role, content=content), WORDS, content),
    )  # fmt: skip
    return st.lists(one, max_size=6)


def words_in(content: str | list[Any]) -> list[str]:
    if isinstance(content, str):
        return [content]
    texts = [block if isinstance(block, str) else block.get("text") for block in content]
    return [text for text in texts if text is not None]


@settings(max_examples=80, deadline=None)
@given(histories(CONTENT))
def test_t33_no_text_of_a_langchain_history_is_lost(history) -> None:
    """Roles, order, tool calls and every word arrive, whatever comes after what."""
    engine = ScriptedModel(["ok"])
    if not history:
        with pytest.raises((SLMAdaptersError, ValueError, IndexError)):
            ChatSLM(engine).invoke(history)
        return
    assert ChatSLM(engine).invoke(history).content == "ok"
    request = asked(engine)
    assert request is not None
    assert len(request.messages) == len(history)
    for given_message, message in zip(history, request.messages, strict=True):
        assert message.text == "".join(words_in(given_message.content))
        if isinstance(given_message, AIMessage):
            calls = message.tool_calls[: len(given_message.tool_calls)]
            assert [call.parsed() for call in calls] == [
                json.loads(json.dumps(call["args"])) for call in given_message.tool_calls
            ]
        if isinstance(given_message, ToolMessage):
            assert message.tool_call_id == given_message.tool_call_id


@settings(max_examples=80, deadline=None)
@given(histories(ANY_CONTENT))
def test_t33_blocks_of_any_kind_are_read_or_refused(history) -> None:
    """A text model answers, or one typed error says what it cannot read; never a traceback."""
    engine = ScriptedModel(["ok"])
    if not history:
        return
    with contextlib.suppress(UnsupportedContentError):
        ChatSLM(engine).invoke(history)
    request = asked(engine)
    if request is None:
        return
    said = text_of(request.messages)
    for message in history:
        assert all(word in said for word in words_in(message.content))


# --- CrewAI and OpenAI dicts -----------------------------------------------------------------

OPENAI_CALLS = st.lists(
    st.builds(
        lambda call_id, name, arguments: {
            "id": call_id, "type": "function",
            "function": {"name": name, "arguments": arguments},
        },
        IDS, st.text(max_size=8),
        ARGUMENTS.map(json.dumps) | ARGUMENTS | st.text(max_size=8) | st.none(),
    ),
    max_size=3,
)  # fmt: skip
OPENAI_CONTENT = (
    st.none()
    | WORDS
    | st.lists(st.builds(lambda text: {"type": "text", "text": text}, WORDS), max_size=3)
)
OPENAI = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"])},
    optional={
        "content": OPENAI_CONTENT,
        "tool_calls": st.none() | OPENAI_CALLS,
        "tool_call_id": IDS,
        "name": IDS,
        "cache_breakpoint": st.booleans(),
        "unknown": JSON,
    },
)


@settings(max_examples=50, deadline=None)
@given(st.lists(OPENAI, min_size=1, max_size=6))
def test_t9_no_text_of_a_crewai_history_is_lost(history) -> None:
    """Missing and empty contents, odd arguments, foreign keys: one message each, every word."""
    engine = ScriptedModel(["ok"])
    assert SLM(engine).call([dict(message) for message in history]) == "ok"
    request = asked(engine)
    assert request is not None
    assert [message.role for message in request.messages] == [m["role"] for m in history]
    for given_message, message in zip(history, request.messages, strict=True):
        content = given_message.get("content")
        assert message.text == "".join(words_in(content or ""))
        calls = given_message.get("tool_calls") or []
        assert len(message.tool_calls) == len(calls)


@settings(max_examples=60, deadline=None)
@given(st.lists(OPENAI | JSON, max_size=6) | JSON | st.text())
def test_t9_what_is_no_history_is_a_typed_error(history) -> None:
    """Lists of anything, numbers, nothing: our error, or an answer; never somebody else's."""
    try:
        said = SLM(ScriptedModel(["ok"])).call(history)
    except SLMAdaptersError as error:
        said = str(error)
    assert said == "ok" or said.endswith(".")
