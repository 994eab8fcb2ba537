"""What a chat template can do, proven by rendering, and prompts that use no more than that.

Templates differ in what they drop in silence or refuse: tools, tool results, system messages,
two messages of one role in a row. ``probe`` finds out once per template; ``render`` rewrites
messages into what the template carries, so that nothing of a request is lost.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..calls import Message, Tool, ToolCall
from ..errors import ChatTemplateError, InvalidToolError
from .control_tokens import cut_message, cut_tool, unused_mark

__all__ = ["ChatFormat", "Prompt", "probe", "render", "shaped_messages"]

#: A tokenizer's template: (messages, tools, add_generation_prompt) -> text.
Template = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None, bool], str]

_TOOL_NAME, _KEY, _RESULT = "zq_probe_tool", "zq_probe_key", "zq_probe_result"
_FIRST, _SECOND = "zq_probe_first", "zq_probe_second"
_TOOL = Tool(_TOOL_NAME, "probe", {"type": "object", "properties": {_KEY: {"type": "integer"}}})
_CALL = ToolCall("call00000", _TOOL_NAME, json.dumps({_KEY: 17}))

_PROTOCOL = """\
# Tools

You may call one or more of these functions, described as JSON schemas:
<tools>
{tools}
</tools>

To call a function, answer with its name and arguments as JSON inside tool_call tags:
<tool_call>
{{"name": "<function name>", "arguments": {{"<argument>": "<value>"}}}}
</tool_call>"""

_JSON_ONLY = "Answer with one JSON object and nothing else: no explanation, no code fence."
_SCHEMA_ONLY = (
    "Answer with JSON that fits this JSON schema and nothing else: no explanation, "
    "no code fence.\n{schema}"
)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What one template carries. ``call_parts``: what it writes before a tool's name and
    between the name and the arguments, or None when that cannot be told."""

    system: bool = True
    late_system: bool = True
    tools: bool = True
    tool_calls: bool = True
    tool_results: bool = True
    repeats: bool = True
    call_parts: tuple[str, str] | None = None


#: What the plainest template carries: user and assistant, in turn.
_PLAINEST = ChatFormat(False, False, False, False, False, False)
_GENERIC_PARTS = ('<tool_call>\n{"name": "', '", "arguments": ')


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt in pieces that must be tokenized one by one.

    ``opening``: the start of the reply that the prompt already contains.
    """

    pieces: tuple[str, ...]
    opening: str = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def probe(template: Template) -> ChatFormat:
    """Find out what a template carries; raises ``ChatTemplateError`` if not even a question."""
    user = {"role": "user", "content": _FIRST}
    answer = {"role": "assistant", "content": "ok"}
    call = {"role": "assistant", "content": "", "tool_calls": [_call_dict(_CALL)]}
    result = {"role": "tool", "tool_call_id": _CALL.id, "name": _TOOL_NAME, "content": _RESULT}
    system = {"role": "system", "content": _SECOND}
    tools = [_TOOL.to_openai()]

    def carries(messages: list[dict[str, Any]], *words: str, tools: Any = None) -> bool:
        text = _try(template, messages, tools)
        return text is not None and all(word in text for word in words)

    if not carries([user], _FIRST):
        raise ChatTemplateError(
            "the tokenizer's chat template cannot render a single user message: "
            "set tokenizer.chat_template, or use an instruction-tuned model."
        )
    with_tools = carries([user], _TOOL_NAME, _KEY, tools=tools)
    with_calls = carries([user, call, result], _TOOL_NAME, _KEY, "17", tools=None)
    return ChatFormat(
        system=carries([system, user], _FIRST, _SECOND),
        late_system=carries([user, answer, system, user], _SECOND),
        tools=with_tools,
        tool_calls=with_calls,
        tool_results=with_calls and carries([user, call, result], _RESULT),
        repeats=carries([user, {**user, "content": _SECOND}], _FIRST, _SECOND)
        and carries([user, answer, {**answer, "content": _SECOND}, user], _SECOND),
        call_parts=_call_parts(template, user, call) if with_calls else None,
    )


def _try(template: Template, messages: list[dict[str, Any]], tools: Any) -> str | None:
    try:
        return template(messages, tools, True)
    except Exception:
        # Jinja templates raise whatever they like, TemplateError and TypeError among it.
        return None


def _call_parts(
    template: Template, user: dict[str, Any], call: dict[str, Any]
) -> tuple[str, str] | None:
    """How the template itself writes a call: the difference between two renderings."""
    try:
        before = template([user], None, True)
        whole = template([user, call], None, False)
    except Exception:
        return None
    if not whole.startswith(before):
        return None
    start, found, rest = whole[len(before) :].partition(_TOOL_NAME)
    between, found_arguments, _ = rest.partition("{")
    if not found or not found_arguments or _KEY in between:
        return None
    return start, between


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
    """The prompt for a request, with the start of a forced tool call where one is asked for.

    ``control_tokens`` in what users and tools wrote stay text: the prompt is cut inside them.
    In system messages and tool descriptions only ``special_tokens`` are.
    """
    offered = _offered(tools, tool_choice)
    cut = unused_mark(messages, offered)
    messages = [cut_message(m, cut, control_tokens, special_tokens) for m in messages]
    offered = [cut_tool(tool, cut, special_tokens) for tool in offered]
    text = _render(template, chat_format, messages, offered, response_format)
    opening = _opening(chat_format, tools, tool_choice)
    return Prompt(tuple((text + opening).split(cut)), opening)


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
    for attempt in (chat_format, replace(chat_format, repeats=False), _PLAINEST):
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


def _opening(chat_format: ChatFormat, tools: Sequence[Tool], choice: str) -> str:
    """A forced call begins for the model; it only has to go on."""
    offered = _offered(tools, choice)
    if choice in ("auto", "none") or not offered:
        return ""
    native = chat_format.tools and chat_format.tool_calls
    parts = chat_format.call_parts if native else _GENERIC_PARTS
    if parts is None:
        return ""
    before, between = parts
    if len(offered) > 1:
        return before
    # A space before the arguments would be half of their first token.
    return before + offered[0].name + between.rstrip(" ")


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
        system.append(_PROTOCOL.format(tools=listed))
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
        written = "\n".join(_written(call) for call in message.tool_calls)
        return {"role": "assistant", "content": f"{text}\n{written}" if text else written}
    data: dict[str, Any] = {"role": "assistant", "content": text}
    if message.tool_calls:
        data["tool_calls"] = [_call_dict(call) for call in message.tool_calls]
    return data


def _as_user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _call_dict(call: ToolCall) -> dict[str, Any]:
    """Templates expect arguments as an object; text that is none is passed as it is."""
    data = call.to_openai()
    with contextlib.suppress(ValueError):
        data["function"]["arguments"] = call.parsed()
    return data


def _written(call: ToolCall) -> str:
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'


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
