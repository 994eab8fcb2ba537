"""The chat format in plain Python: what ``chat_template.jinja`` renders, split into who wrote what.

Training needs to know which tokens the assistant wrote, and rendering millions of examples through
Jinja is slow. A test holds both renderings equal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the right assistant message; ``task`` names its kind."""

    task: str
    language: str
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)


def dumps(value: object) -> str:
    """JSON as Jinja's ``tojson`` filter of a chat template writes it."""
    return json.dumps(value, ensure_ascii=False)


def compact(value: object) -> str:
    """JSON without spaces: the form of every JSON answer."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def function_tool(name: str, description: str, parameters: dict[str, Any]) -> Tool:
    """A tool in the OpenAI function shape."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def call(name: str, arguments: dict[str, Any]) -> Message:
    """An assistant message with one tool call."""
    function = {"name": name, "arguments": dumps(arguments)}
    tool_call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


def assistant_text(message: Message) -> str:
    """What the model has to write for an assistant message."""
    parts = [message["content"]] if message.get("content") else []
    for tool_call in message.get("tool_calls") or ():
        function = tool_call["function"]
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = dumps(arguments)
        parts.append(
            f'<tool_call>\n{{"name": {dumps(function["name"])}, "arguments": {arguments}}}\n</tool_call>'
        )
    return "\n".join(parts)


def segments(messages: list[Message], tools: list[Tool]) -> list[tuple[str, bool]]:
    """The rendered conversation as (text, written by the assistant) pieces."""
    pieces: list[tuple[str, bool]] = []
    rest = messages
    if tools:
        head = ""
        if messages and messages[0]["role"] == "system":
            head, rest = messages[0]["content"] + "\n\n", messages[1:]
        lines = "\n".join(dumps(tool.get("function", tool)) for tool in tools)
        text = f"<|im_start|>system\n{head}# Tools\n<tools>\n{lines}\n</tools><|im_end|>\n"
        pieces.append((text, False))
    for message in rest:
        if message["role"] == "assistant":
            pieces.append(("<|im_start|>assistant\n", False))
            pieces.append((assistant_text(message) + "<|im_end|>", True))
            pieces.append(("\n", False))
        else:
            text = f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
            pieces.append((text, False))
    return pieces


def crew_messages(
    role: str,
    goal: str,
    backstory: str,
    description: str,
    expected_output: str,
    *,
    context: str | None = None,
    tools: bool = False,
) -> list[Message]:
    """The two messages that a CrewAI agent sends for a task."""
    user = (
        f"\nCurrent Task: {description}\n\n"
        f"This is the expected criteria for your final answer: {expected_output}\n"
        "you MUST return the actual complete content as the final answer, not a summary."
    )
    if context is not None:
        user += f"\n\nThis is the context you're working with:\n{context}"
    if not tools:
        user += "\n\nProvide your complete response:"
    system = f"You are {role}. {backstory}\nYour personal goal is: {goal}"
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def graph_messages(system_prompt: str, user: str) -> list[Message]:
    """The messages that a LangGraph agent sends first."""
    return [{"role": "system", "content": system_prompt}, {"role": "user", "content": user}]
