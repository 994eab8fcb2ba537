"""Is the answer what was asked for? Its form: stop words, tools, schemas.

``usable`` runs after a completion and ``check_tools`` before a request.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ..calls import Reply, Tool, ToolCall
from ..engine.engine import ChatRequest, Completion
from ..engine.schema_check import mismatch, schema_problem
from ..engine.tool_formats import find_marker
from ..errors import EmptyReplyError, GenerationError, InvalidReplyError, InvalidToolError

__all__ = ["check", "check_tools", "usable"]


def usable(request: ChatRequest, completion: Completion) -> Completion:
    """The completion, text up to the first stop word, if it is what was asked for.

    Raises ``EmptyReplyError`` or ``InvalidReplyError``, with the completion on the error.
    """
    if not request.response_format:
        completion = _cut(completion, request.stop)
    message = completion.reply.message
    try:
        if not message.text.strip() and not message.tool_calls:
            raise EmptyReplyError(
                f"{completion.model} answered without text or tool call: raise max_tokens, "
                "or give the model a fallback=."
            )
        check(request, completion)
    except GenerationError as error:
        error.completion = completion
        raise
    return completion


def _cut(completion: Completion, stop: Sequence[str]) -> Completion:
    """Engines end at a stop word themselves; a prompt's invented observation must never pass."""
    message = completion.reply.message
    if message.tool_calls or not message.text:
        return completion
    found = [at for at in (message.text.find(word) for word in stop if word) if at >= 0]
    if not found:
        return completion
    kept = dataclasses.replace(message, content=message.text[: min(found)].rstrip())
    reply = Reply(kept, completion.reply.finish_reason)
    return dataclasses.replace(completion, reply=reply)


def check(request: ChatRequest, completion: Completion) -> None:
    """Raise ``InvalidReplyError`` unless the answer honours tools, tool_choice and format.

    ``check(request, engine.complete(request))``
    """
    calls = completion.reply.message.tool_calls
    for call in calls:
        _check_call(request.tools, call)
    if request.tools and not calls:
        _check_no_stray_call(completion)
    _check_choice(request, calls)
    if request.response_format and not calls:
        _check_format(request.response_format, completion.reply.message.text)


def check_tools(tools: Sequence[Tool]) -> None:
    """Raise ``InvalidToolError`` for an unnamed, duplicate or badly described tool."""
    seen: set[str] = set()
    for tool in tools:
        if not tool.name.strip():
            raise InvalidToolError("a tool has no name: give every tool a name.")
        if tool.name in seen:
            raise InvalidToolError(
                f"two tools are named {tool.name!r}: give each tool its own name."
            )
        seen.add(tool.name)
        if tool.parameters:
            _check_schema_of(tool)


def _check_schema_of(tool: Tool) -> None:
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        raise InvalidToolError(
            f'the parameters of tool {tool.name!r} have type {kind!r}: make them "object".'
        )
    problem = schema_problem(tool.parameters)
    if problem:
        raise InvalidToolError(
            f"the parameters of tool {tool.name!r} are not a JSON schema ({problem}): correct them."
        )


def _check_call(tools: Sequence[Tool], call: ToolCall) -> None:
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        offered = ", ".join(tool.name for tool in tools) or "none"
        raise InvalidReplyError(
            f"the model called {call.name!r}; the tools offered were: {offered}."
        )
    try:
        arguments = call.parsed()
    except ValueError as error:
        raise InvalidReplyError(
            f"the arguments the model wrote for {call.name!r} are not a JSON object."
        ) from error
    problem = mismatch(tool.parameters, arguments)
    if problem:
        raise InvalidReplyError(
            f"the arguments the model wrote for {call.name!r} do not fit its schema: {problem}."
        )


def _check_no_stray_call(completion: Completion) -> None:
    """A tool call that could not be read must not pass for the answer."""
    marker = find_marker(completion.reply.message.text)
    if marker is None:
        return
    if completion.reply.finish_reason == "length":
        raise InvalidReplyError("the model's tool call was cut off by max_tokens.")
    raise InvalidReplyError(
        f"the model began a tool call ({marker}) that cannot be read or names no offered tool."
    )


def _check_choice(request: ChatRequest, calls: Sequence[ToolCall]) -> None:
    choice = request.tool_choice
    if choice == "auto":
        return
    if choice == "none":
        if calls:
            raise InvalidReplyError(
                f"the model called {calls[0].name!r} although tool_choice is 'none'."
            )
        return
    if not calls:
        raise InvalidReplyError(
            f"the model answered without a tool call although tool_choice is {choice!r}."
        )
    if choice != "required" and any(call.name != choice for call in calls):
        wrong = next(call.name for call in calls if call.name != choice)
        raise InvalidReplyError(f"the model called {wrong!r} although tool_choice is {choice!r}.")


def _check_format(response_format: dict[str, Any], text: str) -> None:
    kind = response_format.get("type")
    if kind not in ("json_object", "json_schema"):
        return
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidReplyError(
            f"the model's answer is not JSON although response_format is {kind!r}."
        ) from error
    if kind == "json_object":
        if not isinstance(value, dict):
            raise InvalidReplyError("the model's answer is JSON, but not an object.")
        return
    problem = mismatch((response_format.get("json_schema") or {}).get("schema") or {}, value)
    if problem:
        raise InvalidReplyError(f"the model's answer does not fit the asked schema: {problem}.")
