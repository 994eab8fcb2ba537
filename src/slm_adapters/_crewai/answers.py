"""What a call asks for, and an engine's answer made fit for it. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import InvalidReplyError, RequestError

__all__ = ["Asked", "Executed", "check_messages", "validated"]


@dataclass
class Asked:
    """The arguments of ``BaseLLM.call``."""

    messages: Any
    tools: list[dict[str, Any]] | None = None
    callbacks: list[Any] | None = None
    available_functions: dict[str, Any] | None = None
    from_task: Any = None
    from_agent: Any = None
    response_model: type[BaseModel] | None = None

    def arguments(self) -> dict[str, Any]:
        """As keywords for another LLM's ``call``."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


@dataclass
class Executed:
    """A tool call run for a caller that handed over its functions."""

    arguments: dict[str, Any]
    function: Callable[..., Any]
    result: Any = None


def check_messages(messages: Any) -> None:
    """Raise ``RequestError`` for what is neither text nor a list of OpenAI messages."""
    if isinstance(messages, str):
        return
    if not isinstance(messages, list):
        raise RequestError(
            f"messages is {type(messages).__name__}: pass text, or a list of "
            '{"role": ..., "content": ...}.'
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not _is_readable(message):
            raise RequestError(
                f"message {number} is no chat message: pass a dict whose content is text, a list "
                "of content parts or None, and whose tool_calls are OpenAI tool calls."
            )


def _is_readable(message: Mapping[str, Any]) -> bool:
    content, calls = message.get("content"), message.get("tool_calls") or []
    if isinstance(content, list):
        fits = all(isinstance(part, str | Mapping) for part in content)
    else:
        fits = content is None or isinstance(content, str)
    return (
        fits
        and isinstance(calls, list | tuple)
        and all(isinstance(c, Mapping) and _is_mapping(c.get("function")) for c in calls)
    )


def _is_mapping(function: Any) -> bool:
    return function is None or isinstance(function, Mapping)


def validated(model: type[BaseModel], text: str) -> BaseModel:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InvalidReplyError(
            f"the model's answer does not validate as {model.__name__} "
            f"({error.error_count()} problems): give the model a fallback= or simplify the model."
        ) from error
