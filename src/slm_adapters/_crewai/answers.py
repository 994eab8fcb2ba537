"""What a call asks for, and an engine's answer made fit for it. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import InvalidReplyError

__all__ = ["Asked", "Executed", "validated"]


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


def validated(model: type[BaseModel], text: str) -> BaseModel:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InvalidReplyError(
            f"the model's answer does not validate as {model.__name__} "
            f"({error.error_count()} problems): give the model a fallback= or simplify the model."
        ) from error
