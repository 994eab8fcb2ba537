"""Prompts that use no more of a chat template than it was proven to carry.

``render`` rewrites messages into what the template carries, so that nothing of a request is
lost; ``template_probe`` finds out what that is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..calls import Message, Tool
from ..errors import ChatTemplateError, InvalidToolError
from .call_formats import GENERIC
from .control_tokens import cut_message, cut_tool, unused_mark
from .template_probe import ChatFormat, Template, arguments_of, call_dict

__all__ = ["Prompt", "render", "shaped_messages"]

_PROTOCOL = """\
# Tools

You may call one or more of these functions, described as JSON schemas:
<tools>
{tools}
</tools>

To call a function, answer with its name and arguments {how}:
{example}"""

_JSON_ONLY = "Answer with one JSON object and nothing else: no explanation, no code fence."
_SCHEMA_ONLY = (
    "Answer with JSON that fits this JSON schema and nothing else: no explanation, "
    "no code fence.\n{schema}"
)


#: What the plainest template carries: user and assistant, in turn.
_PLAINEST = ChatFormat(False, False, False, False, False, False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt in pieces that must be tokenized one by one."""

    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def render(
    template: Template,
    chat_format: ChatFormat,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    tool_choice: str = "auto",
    response_format: dict[str, Any] | None = None,
    control_tokens: Sequence[str] = (),
    special_tokens: Sequence[str] = (),
) -> Prompt:
    """The prompt for a request.

    ``control_tokens`` in what users and tools wrote stay text: the prompt is cut inside them.
    In system messages and tool descriptions only ``special_tokens`` are.
    """
    offered = _offered(tools, tool_choice)
    cut = unused_mark(messages, offered)
    messages = [cut_message(m, cut, control_tokens, special_tokens) for m in messages]
    offered = [cut_tool(tool, cut, special_tokens) for tool in offered]
    text = _render(template, chat_format, messages, offered, response_format)
    return Prompt(tuple(text.split(cut)))


def shaped_messages(
    chat_format: ChatFormat,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    response_format: dict[str, Any] | None = None,
    instruction: str = "",
) -> list[dict[str, Any]]:
    """The messages as ``render`` hands them to a template, for a server that has the template.

    ``instruction``: a further sentence for the system message.
    """
    asked = "\n\n".join(t for t in (_format_instruction(response_format), instruction) if t)
    shaped = _shaped(chat_format, messages, tools, asked)
    for call in (call for message in shaped for call in message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        if not isinstance(arguments, str):
            # On the wire they are JSON text.
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return shaped


def _render(
    template: Template,
    chat_format: ChatFormat,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    response_format: dict[str, Any] | None,
) -> str:
    asked = _format_instruction(response_format)
    plainest = replace(_PLAINEST, calls=chat_format.calls)
    for attempt in (chat_format, replace(chat_format, repeats=False), plainest):
        native = [tool.to_openai() for tool in tools] if attempt.tools and tools else None
        try:
            return template(_shaped(attempt, messages, tools, asked), native, True)
        except Exception as error:
            refused = error
    raise ChatTemplateError(
        f"the chat template refused these messages ({type(refused).__name__}): "
        "simplify their roles, or give the model a fallback=."
    ) from refused


def _offered(tools: Sequence[Tool], choice: str) -> list[Tool]:
    if choice == "auto" or (choice == "required" and tools):
        return list(tools)
    if choice == "none":
        return []
    named = [tool for tool in tools if tool.name == choice]
    if not named:
        raise InvalidToolError(
            f"tool_choice is {choice!r}, but no such tool was passed: add it to tools."
        )
    return named


def _format_instruction(response_format: dict[str, Any] | None) -> str:
    kind = (response_format or {}).get("type")
    if kind == "json_object":
        return _JSON_ONLY
    if kind == "json_schema" and response_format:
        schema = (response_format.get("json_schema") or {}).get("schema") or {}
        return _SCHEMA_ONLY.format(schema=json.dumps(schema, ensure_ascii=False))
    return ""


# --- messages in the shape a template carries -------------------------------------------------


def _shaped(
    chat_format: ChatFormat, messages: Sequence[Message], tools: Sequence[Tool], asked: str
) -> list[dict[str, Any]]:
    system, rest = _split_system(messages)
    if tools and not chat_format.tools:
        listed = "\n".join(json.dumps(t.to_openai(), ensure_ascii=False) for t in tools)
        system.append(_PROTOCOL.format(tools=listed, **_how_to_call(chat_format)))
    if asked:
        system.append(asked)
    shaped = [_shape(chat_format, item) for item in _with_short_ids(rest)]
    head = "\n\n".join(text for text in system if text)
    if head and chat_format.system:
        shaped.insert(0, {"role": "system", "content": head})
    elif head:
        shaped.insert(0, {"role": "user", "content": head})
        shaped = _merged(shaped)
    return shaped if chat_format.repeats else _alternating(shaped)


def _how_to_call(chat_format: ChatFormat) -> dict[str, str]:
    form = chat_format.calls
    how = "as JSON inside tool_call tags" if form == GENERIC else "like this"
    example = form.write([("<function name>", {"<argument>": "<value>"})])
    return {"how": how, "example": example}


def _split_system(messages: Sequence[Message]) -> tuple[list[str], list[Message]]:
    """The texts of the leading system messages, and the messages after them."""
    head: list[str] = []
    for index, message in enumerate(messages):
        if message.role not in ("system", "developer"):
            return head, list(messages[index:])
        head.append(message.text)
    return head, []


def _with_short_ids(messages: Iterable[Message]) -> list[Message]:
    """Tool call ids numbered by order: random ones would make equal prompts differ, and some
    templates insist on nine letters or digits."""
    ids: dict[str, str] = {}

    def short(call_id: str | None) -> str:
        return ids.setdefault(call_id or "", f"call{len(ids):05d}")

    result = []
    for message in messages:
        calls = tuple(replace(call, id=short(call.id)) for call in message.tool_calls)
        call_id = short(message.tool_call_id) if message.role == "tool" else None
        result.append(replace(message, tool_calls=calls, tool_call_id=call_id))
    return result


def _shape(chat_format: ChatFormat, message: Message) -> dict[str, Any]:
    role, text = message.role, message.text
    if role == "tool":
        if not chat_format.tool_results:
            return _as_user(f"<tool_response>\n{text}\n</tool_response>")
        name = {"name": message.name} if message.name else {}
        return {"role": "tool", "content": text, "tool_call_id": message.tool_call_id, **name}
    if role in ("system", "developer"):
        return {"role": "system", "content": text} if chat_format.late_system else _as_user(text)
    if role != "assistant":
        return _as_user(text)
    if message.tool_calls and not chat_format.tool_calls:
        written = chat_format.calls.write([(c.name, arguments_of(c)) for c in message.tool_calls])
        return {"role": "assistant", "content": f"{text}\n{written}" if text else written}
    data: dict[str, Any] = {"role": "assistant", "content": text}
    if message.tool_calls:
        data["tool_calls"] = [call_dict(call) for call in message.tool_calls]
    return data


def _as_user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _merged(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role become one message; tool calls are never merged."""
    result: list[dict[str, Any]] = []
    for message in messages:
        before = result[-1] if result else None
        plain = before is not None and "tool_calls" not in before and "tool_calls" not in message
        if before and plain and before["role"] == message["role"] != "tool":
            texts = (before["content"], message["content"])
            result[-1] = {**before, "content": "\n\n".join(text for text in texts if text)}
        else:
            result.append(message)
    return result


def _alternating(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """User and assistant in turn, beginning with the user."""
    merged = _merged(messages)
    first = 1 if merged and merged[0]["role"] == "system" else 0
    if len(merged) <= first or merged[first]["role"] == "assistant":
        merged.insert(first, _as_user(""))
    return merged
