"""Control tokens that users, tools and documents wrote stay text.

A mark is put inside each such token before the template renders; the prompt is then cut at the
marks and tokenized piece by piece, so that neither half is the token. No character changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..calls import Message, Tool
from ..errors import RequestError, UnsupportedContentError

__all__ = ["cut_message", "cut_tool", "unused_mark"]

#: Private-use characters; one that no message contains marks where a control token is cut.
_CUTS = [chr(code) for code in range(0xE8F0, 0xE900)]


def unused_mark(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    texts = [m.text + "".join(call.arguments for call in m.tool_calls) for m in messages]
    texts += [json.dumps(tool.to_openai(), ensure_ascii=False) for tool in tools]
    everything = "".join(texts)
    for candidate in _CUTS:
        if candidate not in everything:
            return candidate
    raise RequestError(
        "the messages use every private character this package can mark control tokens with: "
        "remove the characters U+E8F0 to U+E8FF."
    )


def cut_text(text: str, cut: str, tokens: Sequence[str]) -> str:
    """Put the mark into every control token, so that its halves are tokenized as text."""
    for token in tokens:
        if token in text:
            text = text.replace(token, token[:1] + cut + token[1:])
    return text


def cut_message(
    message: Message, cut: str, control: Sequence[str], special: Sequence[str]
) -> Message:
    tokens = special if message.role in ("system", "developer") else control
    calls = tuple(
        replace(call, arguments=cut_text(call.arguments, cut, tokens))
        for call in message.tool_calls
    )
    return replace(message, content=cut_text(_readable(message), cut, tokens), tool_calls=calls)


def _readable(message: Message) -> str:
    """The message's text; raises ``UnsupportedContentError`` for what a text model cannot read."""
    for part in message.content if isinstance(message.content, list) else ():
        kind = str(part.get("type", "text")) if isinstance(part, dict) else "text"
        if any(word in kind for word in ("image", "audio", "video", "file", "document")):
            raise UnsupportedContentError(
                f"a message holds a part of type {kind!r}, and this model reads text only: "
                "remove the part, or give the model a fallback=."
            )
    return message.text


def cut_tool(tool: Tool, cut: str, tokens: Sequence[str]) -> Tool:
    return replace(
        tool,
        description=cut_text(tool.description, cut, tokens),
        parameters=_cut_all(tool.parameters, cut, tokens),
    )


def _cut_all(value: Any, cut: str, tokens: Sequence[str]) -> Any:
    if isinstance(value, str):
        return cut_text(value, cut, tokens)
    if isinstance(value, dict):
        return {key: _cut_all(item, cut, tokens) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut_all(item, cut, tokens) for item in value]
    return value
