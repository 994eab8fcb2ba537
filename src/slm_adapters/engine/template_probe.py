"""What a chat template can do, and how it writes tool calls, proven by rendering.

Templates differ in what they drop in silence or refuse: tools, tool results, system messages,
two messages of one role in a row. ``probe`` finds out once per template.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from ..calls import Tool, ToolCall
from ..errors import ChatTemplateError
from .call_formats import GENERIC, CallFormat
from .format_resolver import NativeParser, common_start, resolve_format

__all__ = ["ChatFormat", "Template", "arguments_of", "call_dict", "probe"]

#: A tokenizer's template: (messages, tools, add_generation_prompt) -> text.
Template = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None, bool], str]

_TOOL_NAME, _KEY, _RESULT = "zq_probe_tool", "zq_probe_key", "zq_probe_result"
_FIRST, _SECOND = "zq_probe_first", "zq_probe_second"
_TOOL = Tool(_TOOL_NAME, "probe", {"type": "object", "properties": {_KEY: {"type": "integer"}}})
_CALLS = (
    ToolCall("call00000", _TOOL_NAME, f'{{"{_KEY}": 17}}'),
    ToolCall("call00001", _TOOL_NAME, f'{{"{_KEY}": 23}}'),
)
_USER = {"role": "user", "content": _FIRST}
_ANSWER = {"role": "assistant", "content": "zq_probe_answer"}


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What one template carries, how its model calls tools, and whether it may think first."""

    system: bool = True
    late_system: bool = True
    tools: bool = True
    tool_calls: bool = True
    tool_results: bool = True
    repeats: bool = True
    calls: CallFormat = GENERIC
    thinks: bool = False


def probe(
    template: Template, parse: NativeParser | None = None, tokens: Collection[str] = ()
) -> ChatFormat:
    """Find out what a template carries; raises ``ChatTemplateError`` if not even a question.

    ``parse``: the tokenizer's own reader of replies, where it has one; ``tokens``: those that
    were added to its vocabulary.
    """
    call = {"role": "assistant", "content": "", "tool_calls": [call_dict(_CALLS[0])]}
    result = {"role": "tool", "tool_call_id": _CALLS[0].id, "name": _TOOL_NAME, "content": _RESULT}
    system = {"role": "system", "content": _SECOND}

    def carries(messages: list[dict[str, Any]], *words: str, tools: Any = None) -> bool:
        text = _try(template, messages, tools)
        return text is not None and all(word in text for word in words)

    if not carries([_USER], _FIRST):
        raise ChatTemplateError(
            "the tokenizer's chat template cannot render a single user message: "
            "set tokenizer.chat_template, or use an instruction-tuned model."
        )
    with_calls = carries([_USER, call, result], _TOOL_NAME, _KEY, "17", tools=None)
    found = ChatFormat(
        system=carries([system, _USER], _FIRST, _SECOND),
        late_system=carries([_USER, _ANSWER, system, _USER], _SECOND),
        tools=carries([_USER], _TOOL_NAME, _KEY, tools=[_TOOL.to_openai()]),
        tool_calls=with_calls,
        tool_results=with_calls and carries([_USER, call, result], _RESULT),
        repeats=carries([_USER, {**_USER, "content": _SECOND}], _FIRST, _SECOND)
        and carries([_USER, _ANSWER, {**_ANSWER, "content": _SECOND}, _USER], _SECOND),
    )
    if not found.tools:
        # Then nothing tells the model of its format either: the general one is explained to it.
        return replace(found, tool_calls=False, tool_results=False)
    form = resolve_format(
        calls_written=_written_calls(template) if with_calls else [],
        tools_told=_told_with_tools(template),
        probe_calls=[(call.name, call.parsed()) for call in _CALLS],
        parse=parse,
        tokens=tokens,
    )
    return replace(found, calls=form) if form else _in_general(found)


def _in_general(found: ChatFormat) -> ChatFormat:
    """The model knows tools, but nobody can tell how it would call one."""
    return replace(found, tools=False, tool_calls=False, tool_results=False)


def _try(template: Template, messages: list[dict[str, Any]], tools: Any) -> str | None:
    try:
        return template(messages, tools, True)
    except Exception:
        # Jinja templates raise whatever they like, TemplateError and TypeError among it.
        return None


def _written_calls(template: Template) -> list[str]:
    """How the template itself writes one call and, if it does, two: differences of renderings."""
    written = []
    for count in (1, 2):
        calls = [call_dict(call) for call in _CALLS[:count]]
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        try:
            whole = template([_USER, message], None, False)
            plain = template([_USER, _ANSWER], None, False)
        except Exception:
            break
        before, _, after = plain.partition(str(_ANSWER["content"]))
        # Some templates write nothing before a call that they write before an answer.
        start = len(common_start(before, whole))
        body = whole[start:].removesuffix(after) if after else whole[start:]
        written.append(body)
    return written


def _told_with_tools(template: Template) -> str:
    """What the template says when tools are offered and not otherwise."""
    without, told = (
        _try(template, [_USER], None) or "",
        _try(template, [_USER], [_TOOL.to_openai()]),
    )
    told = told or ""
    start = len(common_start(without, told))
    end = len(common_start(without[start:][::-1], told[start:][::-1]))
    return told[start : len(told) - end]


def arguments_of(call: ToolCall) -> Any:
    """An object, as templates expect it; text that is none stays as it is."""
    try:
        return call.parsed()
    except ValueError:
        return call.arguments


def call_dict(call: ToolCall) -> dict[str, Any]:
    """A past call as templates read it."""
    data = call.to_openai()
    data["function"]["arguments"] = arguments_of(call)
    return data
