"""A remote prompt by a tokenizer that is here, for servers that do not count or show it."""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from typing import Any

from ...errors import MissingExtraError, ModelLoadError
from ..checkpoint import locate
from ..tokenizing import encoder, render_chat, tools_keyword

__all__ = ["count_with", "prompt_with"]


def count_with(name: str, body: dict[str, Any]) -> int:
    """Prompt tokens of a request's body by the tokenizer and chat template of ``name``."""
    return len(encoder(_tokenizer(name)[0])(prompt_with(name, body)))


def prompt_with(name: str, body: dict[str, Any]) -> str:
    """The prompt that the chat template of ``name`` makes of a request's body."""
    tokenizer, keyword = _tokenizer(name)
    messages = [_with_objects(message) for message in body["messages"]]
    return render_chat(tokenizer, keyword, messages, body.get("tools") or None, True)


@lru_cache(maxsize=8)
def _tokenizer(name: str) -> tuple[Any, str]:
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise MissingExtraError("tokenizer=", "transformers", "local") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(name))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"the tokenizer {name!r} cannot be loaded ({type(error).__name__}): pass a hub id that "
            "is here, or the folder of a saved tokenizer, as tokenizer=."
        ) from error
    return tokenizer, tools_keyword(tokenizer)


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    """Servers hand a template the arguments of earlier calls as objects."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(function["arguments"])
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}
