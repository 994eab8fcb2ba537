"""A ``ChatRequest`` as the body of an OpenAI chat completion, in the dialect a server speaks.

What a server refuses or ignores is learned from its answers, never configured: a schema, a forced
call or the tools themselves then go into the prompt, as they do for a local model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ...calls import Tool
from ..chat_format import shaped_messages
from ..engine import ChatRequest
from ..template_probe import ChatFormat
from ..text_only import check_text_only

__all__ = [
    "Dialect",
    "body_of",
    "estimated_tokens",
    "is_forced",
    "learn",
    "offered_tools",
    "prompt_size",
    "short_name",
    "thinks_by_name",
]

#: Ever plainer messages for templates that refuse the fuller ones.
_SHAPES = (
    ChatFormat(),
    ChatFormat(late_system=False, repeats=False),
    ChatFormat(system=False, late_system=False, repeats=False),
)
#: Fields that a request can do without, in the order they are given up.
_OPTIONAL = (
    "response_format", "tool_choice", "stream_options", "logprobs", "top_k", "top_p", "seed",
    "stop", "tools", "messages", "max_tokens",
)  # fmt: skip
_TEMPLATE_TOKENS = 1024
_MUST_CALL = "Answer with a call of {which} and nothing else."


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is known of a server's habits. ``shape``: which of the message shapes it takes.

    ``thinks_unasked``: replies begin inside a thinking block that the prompt opened; None: unknown.
    ``tools_seen``: its template was seen to put tools into the prompt. ``talks_first``: a forced
    call may come after text, and a tool named in ``tool_choice`` goes unheard, as in llama.cpp.
    """

    refused: frozenset[str] = frozenset()
    shape: int = 0
    thinks_unasked: bool | None = None
    tools_seen: bool = False
    talks_first: bool = False


def offered_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools the model may call: a named choice leaves one, none leaves none."""
    choice = request.tool_choice
    if choice in ("auto", "required"):
        return request.tools
    return tuple(tool for tool in request.tools if tool.name == choice)


def is_forced(request: ChatRequest) -> bool:
    """Whether the answer must be a tool call."""
    return bool(request.tools) and request.tool_choice not in ("auto", "none")


def body_of(
    model: str, request: ChatRequest, dialect: Dialect, *, limit: int | None, stream: bool
) -> dict[str, Any]:
    """The request's JSON; raises ``UnsupportedContentError`` for images, audio and files."""
    check_text_only(request.messages, model)
    refused, tools = dialect.refused, offered_tools(request)
    native = () if "tools" in refused else tools
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(request, dialect, tools),
        "temperature": request.temperature,
        "stream": stream,
    }
    if native:
        body["tools"] = [tool.to_openai() for tool in native]
        if is_forced(request):
            body["tool_choice"] = _choice(request, dialect)
    if request.response_format and not tools:
        # Beside tools a server would let the model write nothing but the schema.
        body["response_format"] = _named(request.response_format)
    if limit is not None:
        body["max_completion_tokens" if "max_tokens" in refused else "max_tokens"] = limit
    wanted: dict[str, Any] = {
        "top_p": None if request.top_p == 1.0 else request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "logprobs": request.logprobs or None,
        "stream_options": {"include_usage": True} if stream else None,
    }
    body |= {name: value for name, value in wanted.items() if value is not None}
    never_left_out = {"tools", "messages", "max_tokens"}
    return {k: v for k, v in body.items() if k in never_left_out or k not in refused}


def _messages(
    request: ChatRequest, dialect: Dialect, tools: tuple[Tool, ...]
) -> list[dict[str, Any]]:
    shape, in_prompt = _SHAPES[dialect.shape], "tools" in dialect.refused
    if in_prompt:
        shape = replace(shape, tools=False, tool_calls=False, tool_results=False)
    must = ""
    in_words = in_prompt or dialect.talks_first or "tool_choice" in dialect.refused
    if tools and is_forced(request) and in_words:
        names = [tool.name for tool in tools]
        must = _MUST_CALL.format(which=names[0] if len(names) == 1 else "one of the functions")
    return shaped_messages(
        shape, request.messages, tools if in_prompt else (), request.response_format, must
    )


def _choice(request: ChatRequest, dialect: Dialect) -> Any:
    # The tool that was named is the only one offered.
    if request.tool_choice == "required" or dialect.talks_first:
        return "required"
    return {"type": "function", "function": {"name": request.tool_choice}}


def _named(response_format: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's schema format has a name; frameworks leave it out where nobody asked for one."""
    schema = response_format.get("json_schema")
    if not isinstance(schema, dict) or schema.get("name"):
        return response_format
    return {**response_format, "json_schema": {"name": "answer", **schema}}


def learn(dialect: Dialect, body: dict[str, Any], refused: frozenset[str]) -> Dialect | None:
    """The dialect to ask again in; None: nothing is left to try."""
    for field in _OPTIONAL:
        if field not in refused or field not in body:
            continue
        if field == "messages":
            shape = dialect.shape + 1
            return replace(dialect, shape=shape) if shape < len(_SHAPES) else None
        if field not in dialect.refused:
            return replace(dialect, refused=dialect.refused | {field})
    return None


def prompt_size(body: dict[str, Any]) -> tuple[int, int]:
    """The least and the most prompt tokens a request can be, whatever the tokenizer.

    At least one token for eight characters of what the messages say: English takes 4 to 5; runs
    of one character count once, since a token may hold many. At most one for each byte of the
    request, with room for a template's own words.
    """
    said = "\n".join(_said(message) for message in body["messages"])
    changes = sum(1 for before, letter in pairwise(f" {said}") if before != letter)
    everything = json.dumps([body["messages"], body.get("tools", [])], ensure_ascii=False)
    return changes // 8, len(everything.encode()) + _TEMPLATE_TOKENS


def estimated_tokens(body: dict[str, Any]) -> int:
    """Prompt tokens, roughly: four bytes each."""
    return -(-(prompt_size(body)[1] - _TEMPLATE_TOKENS) // 4)


def _said(message: dict[str, Any]) -> str:
    calls = (call["function"]["arguments"] for call in message.get("tool_calls", ()))
    return "\n".join((message.get("content") or "", *calls))


_THINKERS = re.compile(
    r"(?<![a-z])(?:r1|qwq|think|thinking|reason|reasoning|reasoner)(?![a-z])", re.I
)


def thinks_by_name(name: str) -> bool:
    """Whether the name says of a model that it thinks before it answers."""
    return _THINKERS.search(name) is not None


def short_name(name: str) -> str:
    """The last part of a path, any other name whole: where a server keeps files is its own."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", "./", "~")) else name
