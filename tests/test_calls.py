"""The record: OpenAI shapes, JSON round-trip, ambient scope."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_adapters.calls import (
    Call,
    Label,
    Message,
    Reply,
    Tool,
    ToolCall,
    Usage,
    current_scope,
    role,
    run,
)

texts = st.text(max_size=40)
tool_calls = st.builds(
    ToolCall, texts, texts, st.dictionaries(texts, texts, max_size=3).map(json.dumps)
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.none() | texts | st.lists(texts.map(lambda t: {"type": "text", "text": t})),
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
    reasoning=st.none() | texts.filter(bool),
)
tools = st.builds(
    Tool, texts, texts, st.just({"type": "object", "properties": {"x": {"type": "string"}}})
)
calls = st.builds(
    Call,
    call_id=st.uuids().map(str),
    framework=st.sampled_from(["crewai", "langchain"]),
    role=st.none() | texts,
    params=st.dictionaries(texts, st.integers() | st.booleans() | texts, max_size=3),
    messages=st.lists(messages, max_size=3).map(tuple),
    tools=st.lists(tools, max_size=2).map(tuple),
    replies=st.lists(st.builds(Reply, messages, st.none() | texts), max_size=2).map(tuple),
    usage=st.none() | st.builds(Usage, st.integers(0, 9), st.integers(0, 9)),
    labels=st.lists(st.builds(Label, texts, st.booleans() | st.integers(), texts), max_size=2).map(
        tuple
    ),
    streamed=st.booleans(),
    started_ns=st.integers(0, 2**62),
    first_chunk_ns=st.none() | st.integers(0, 2**62),
    outcome=st.sampled_from(["finished", "failed", "abandoned"]),
)


@given(calls)
def test_a_call_survives_json(call: Call) -> None:
    """Whatever a call holds, including U+2028 and kana, it reads back equal, from one line."""
    text = call.to_json()
    assert "\n" not in text
    assert Call.from_json(text) == call


def test_the_schema_version_is_checked() -> None:
    """A record of another schema is refused with what to do."""
    with pytest.raises(ValueError, match="upgrade slm-adapters"):
        Call.from_json('{"schema": "call/99", "call_id": "1", "framework": "x"}')


def test_a_newer_field_is_ignored() -> None:
    """Fields added later within the schema do not break this reader."""
    data = Call("1", "crewai").to_dict() | {"added_later": 1}
    assert Call.from_dict(data) == Call("1", "crewai")


def test_a_tool_call_reads_objects_and_text() -> None:
    """Arguments arrive as JSON text from OpenAI and as objects from templates."""
    as_text = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    as_object = {"id": "1", "name": "f", "arguments": {"a": 1}}
    assert ToolCall.from_openai(as_text) == ToolCall.from_openai(as_object)
    assert ToolCall.from_openai(as_text).parsed() == {"a": 1}
    assert ToolCall.from_openai(as_text).to_openai() == as_text
    with pytest.raises(ValueError, match="not a JSON object"):
        ToolCall("1", "f", "[1]").parsed()


def test_arguments_of_any_kind_are_recorded() -> None:
    """Bytes, cycles, keys that are no text: no tool call is lost for what it was given."""
    cycle: dict = {}
    cycle["self"] = cycle
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for odd in ({"x": b"\xff"}, {("a", "b"): 1}, cycle, {"x": deep}):
        assert ToolCall.from_openai({"id": "1", "name": "f", "arguments": odd}).arguments
    assert ToolCall.from_openai({"name": "f", "arguments": {"x": "語"}}).arguments == '{"x": "語"}'


def test_scopes_nest_and_end() -> None:
    """role and run label what is inside, inner wins, and nothing is left afterwards."""
    with run("r1", tier="gold"), role("outer"):
        with role("inner"), run("r2", seat=3):
            scope = current_scope()
            assert (scope.role, scope.run_id) == ("inner", "r2")
            assert scope.attributes == {"tier": "gold", "seat": 3}
        assert (current_scope().role, current_scope().run_id) == ("outer", "r1")
    assert current_scope().role is None


async def test_scopes_do_not_leak_between_tasks() -> None:
    """Two tasks label their calls independently."""

    async def labelled(name: str) -> str | None:
        with role(name):
            await asyncio.sleep(0.01)
            return current_scope().role

    assert await asyncio.gather(labelled("a"), labelled("b")) == ["a", "b"]


def test_records_are_values() -> None:
    """Equal by what they hold, of the same class; hashable, copied, pickled, shown, not changed."""
    usage = Usage(3, 4, cached_tokens=1)
    call = ToolCall("c1", "search", '{"q": 1}')
    asked = Message("assistant", None, (call,))
    for value in (usage, call, asked, Reply(asked, "stop"), Label("ok", True, "human")):
        for same in (copy.copy(value), pickle.loads(pickle.dumps(value)), eval(repr(value))):
            assert same == value
            assert hash(same) == hash(value)
    assert usage != dataclasses.replace(usage, output_tokens=5)
    assert usage != (3, 4, 1, None, None, "provider")
    assert Reply(asked) != asked
    assert dataclasses.asdict(usage)["cached_tokens"] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.input_tokens = 9  # type: ignore[misc]
