"""Checks on answers and tools."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from slm_adapters.calls import Message, Reply, Tool, ToolCall, Usage
from slm_adapters.engine.engine import ChatRequest, Completion
from slm_adapters.errors import InvalidReplyError, InvalidToolError
from slm_adapters.routing.verify import check, check_tools

SEARCH = Tool(
    "search",
    "",
    {
        "type": "object",
        "properties": {"q": {"type": "string"}, "unit": {"enum": ["km", "mile"]}},
        "required": ["q"],
    },
)
CITY = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def answer(
    text: str | None = None, *calls: tuple[str, str], reason: str = "stop", **request: Any
) -> None:
    """Check a reply to a request."""
    made = tuple(ToolCall(f"call_{i}", name, args) for i, (name, args) in enumerate(calls))
    reply = Reply(Message("assistant", text, tool_calls=made), reason)
    asked = ChatRequest((Message("user", "hi"),), **{"tools": (SEARCH,), **request})
    check(asked, Completion(reply, Usage(1, 1), "m"))


@pytest.mark.parametrize(
    ("text", "calls", "request_"),
    [
        ("Plain text.", (), {}),
        (None, [("search", '{"q": "x", "unit": "km"}')], {}),
        (None, [("search", '{"q": "x", "more": 1}')], {"tool_choice": "required"}),
        (None, [("search", '{"q": "x"}')], {"tool_choice": "search"}),
        ("No tool.", (), {"tool_choice": "none"}),
        ('{"city": "Köln"}', (), {"response_format": CITY}),
        ("{}", (), {"response_format": {"type": "json_object"}}),
        ("anything", (), {"response_format": {"type": "text"}}),
        (None, [("search", '{"q": "x"}')], {"response_format": CITY}),
        ("<tool_call> is how models call tools", (), {"tools": ()}),
    ],
)
def test_good_answers_pass(text: str | None, calls: Any, request_: dict[str, Any]) -> None:
    """What was asked for raises nothing."""
    answer(text, *calls, **request_)


@pytest.mark.parametrize(
    ("text", "calls", "request_", "says"),
    [
        (None, [("rm", "{}")], {}, "'rm'"),
        (None, [("search", "{")], {}, "not a JSON object"),
        (None, [("search", "[1]")], {}, "not a JSON object"),
        (None, [("search", "{}")], {}, "'q' is a required property"),
        (None, [("search", '{"q": 1}')], {}, "at q: 1 is not of type 'string'"),
        (None, [("search", '{"q": "x", "unit": "league"}')], {}, "at unit"),
        (None, [("search", '{"q": "x"}'), ("search", "{}")], {}, "required property"),
        ("text", (), {"tool_choice": "required"}, "without a tool call"),
        ("text", (), {"tool_choice": "search"}, "without a tool call"),
        (None, [("search", '{"q": "x"}')], {"tool_choice": "none"}, "tool_choice is 'none'"),
        (
            None,
            [("search", '{"q": "x"}')],
            {"tool_choice": "other", "tools": (SEARCH, Tool("other"))},
            "although tool_choice is 'other'",
        ),
        ("Köln", (), {"response_format": CITY}, "not JSON"),
        ('{"city": 3}', (), {"response_format": CITY}, "at city"),
        ('{"town": "Köln"}', (), {"response_format": CITY}, "asked schema"),
        ("[1]", (), {"response_format": {"type": "json_object"}}, "not an object"),
        ("", (), {"response_format": {"type": "json_object"}}, "not JSON"),
        ('<tool_call>{"name": "search"', (), {}, "<tool_call>"),
    ],
)
def test_t7_bad_answers_raise(text: Any, calls: Any, request_: dict[str, Any], says: str) -> None:
    """One sentence that names the problem."""
    with pytest.raises(InvalidReplyError) as caught:
        answer(text, *calls, **request_)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_t38_a_call_cut_off_is_named_as_such() -> None:
    """Half a tool call never passes for an answer."""
    with pytest.raises(InvalidReplyError, match="cut off by max_tokens"):
        answer('<tool_call>{"na', reason="length")


def test_long_answers_are_not_quoted_whole() -> None:
    """An error message stays a sentence, whatever the model wrote."""
    with pytest.raises(InvalidReplyError) as caught:
        answer(None, ("search", '{"q": ["' + "x" * 5000 + '"]}'))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([Tool("")], "no name"),
        ([Tool("a"), Tool("a")], "'a'"),
        ([Tool("a", "", {"type": "string"})], "'string'"),
        ([Tool("a", "", {"type": "object", "properties": []})], "not a JSON schema"),
        ([Tool("a", "", {"type": "object", "required": "q"})], "not a JSON schema"),
    ],
)
def test_bad_tools_raise(tools: list[Tool], says: str) -> None:
    """A tool the model could not call correctly is refused before any compute."""
    with pytest.raises(InvalidToolError) as caught:
        check_tools(tools)
    assert says in str(caught.value)


def test_good_tools_pass() -> None:
    """No parameters, or any valid object schema."""
    check_tools([SEARCH, Tool("now"), Tool("ref", "", {"properties": {"a": {"$ref": "#"}}})])


@pytest.mark.parametrize(
    "reference", ["http://198.51.100.7/schema.json", "other.json#/a", "#/$defs/not_there"]
)
def test_a_schema_that_leads_elsewhere_is_refused_and_never_fetched(
    reference: str, monkeypatch: Any
) -> None:
    """Validation asks no network, whatever a tool's schema refers to."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    schema = {"type": "object", "properties": {"a": {"$ref": reference}}}
    with pytest.raises(InvalidToolError, match="which is not in it"):
        check_tools([Tool("t", "", schema)])
    # As a response format it is no schema we could hold an answer to.
    request = ChatRequest(
        (Message("user", "q"),),
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    completion = Completion(Reply(Message("assistant", '{"a": 1}'), "stop"), Usage(1, 1), "m")
    check(request, completion)
    inside = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    check_tools([Tool("t", "", {"type": "object", **inside})])
