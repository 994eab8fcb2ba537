"""util-genai's types, for when it is not installed: the same names, fields and order.

A module of its own, so that only a program with a completion hook pays for making them.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class TextPart:
    content: str
    type: str = "text"


@dataclasses.dataclass
class ToolCallRequestPart:
    arguments: Any
    name: str
    id: str | None
    type: str = "tool_call"


@dataclasses.dataclass
class ToolCallResponsePart:
    response: Any
    id: str | None
    type: str = "tool_call_response"


@dataclasses.dataclass
class GenericPart:
    type: str


@dataclasses.dataclass
class InputMessage:
    role: str
    parts: list[Any]
    name: str | None = None


@dataclasses.dataclass
class OutputMessage:
    role: str
    parts: list[Any]
    finish_reason: str | None = None
    name: str | None = None


@dataclasses.dataclass
class FunctionToolDefinition:
    name: str
    description: str | None
    parameters: Any
    type: str = "function"
