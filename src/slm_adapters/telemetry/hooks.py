"""Completion hooks with OpenTelemetry's contract: structured messages, whatever is sampled.

A hook is an object with ``on_completion(*, inputs, outputs, system_instruction,
tool_definitions, span, log_record)``. It runs after redaction and before attributes are written,
and may change the span and the messages. The one that
``OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK`` names is loaded too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from ..messages import Reply
from . import content
from .harmless import note_failure, warn_once

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

    from ..calls import Call
    from .open_call import OpenCall

__all__ = ["CallHook", "CompletionHook", "Completions", "Said", "sorted_out"]

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
GROUP = "opentelemetry_genai_completion_hook"

#: Called once with every ended call, whatever the sampling decision; exceptions are counted.
CallHook: TypeAlias = "Callable[[Call], None]"


@runtime_checkable
class CompletionHook(Protocol):
    """OpenTelemetry's contract; util-genai's hooks fit it as they are."""

    def on_completion(
        self,
        *,
        inputs: list[Any],
        outputs: list[Any],
        system_instruction: list[Any],
        tool_definitions: list[Any] | None = None,
        span: Any = None,
        log_record: Any = None,
    ) -> None: ...


@functools.cache
def _types() -> Any:
    try:
        return importlib.import_module("opentelemetry.util.genai.types")
    except ImportError:
        return importlib.import_module(".hook_types", __package__)


class Said:
    """What was said in one call; hooks may change the lists."""

    def __init__(self, inputs: list[Any], outputs: list[Any]) -> None:
        self.inputs, self.outputs = inputs, outputs

    def input_json(self) -> str:
        """``gen_ai.input.messages`` as the hooks left it."""
        return content.fitted([_plain(message) for message in self.inputs])

    def output_json(self) -> str:
        """``gen_ai.output.messages`` as the hooks left it."""
        return content.fitted([_plain(message) for message in self.outputs])


class Completions:
    """The completion hooks of one recorder."""

    def __init__(self, hooks: Iterable[CompletionHook]) -> None:
        self._hooks = list(hooks)
        named = _named_hook()
        if named is not None:
            self._hooks.append(named)
        self._named = named

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def tell(self, call: OpenCall, replies: Sequence[Reply], log_record: LogRecord | None) -> Said:
        """Hand one ended call to every hook; a hook that raises is counted."""
        types = _types()
        said = Said(
            [_message(types.InputMessage, m) for m in content.input_parts(call.messages)],
            [_message(types.OutputMessage, m) for m in content.output_parts(replies)],
        )
        tools = [
            types.FunctionToolDefinition(
                name=tool.name, description=tool.description, parameters=tool.parameters
            )
            for tool in call.tools
        ]
        for hook in self._hooks:
            if hook is self._named and call.quiet:
                continue  # whoever has the span has told it
            try:
                hook.on_completion(
                    inputs=said.inputs,
                    outputs=said.outputs,
                    system_instruction=[],
                    tool_definitions=tools or None,
                    span=call.span,
                    log_record=log_record,
                )
            except Exception as error:
                note_failure("a completion hook", error)
        return said


def sorted_out(
    hooks: Sequence[CallHook | CompletionHook],
) -> tuple[list[CallHook], list[CompletionHook]]:
    """Plain functions of a ``Call``, and objects with OpenTelemetry's contract."""
    contract = [hook for hook in hooks if isinstance(hook, CompletionHook)]
    plain = [hook for hook in hooks if not isinstance(hook, CompletionHook)]
    return plain, contract


def _message(kind: Any, data: dict[str, Any]) -> Any:
    return kind(**{**data, "parts": [_part(part) for part in data["parts"]]})


def _part(part: dict[str, Any]) -> Any:
    types, fields = _types(), {k: v for k, v in part.items() if k != "type"}
    kinds = {
        "text": types.TextPart,
        "tool_call": types.ToolCallRequestPart,
        "tool_call_response": types.ToolCallResponsePart,
    }
    kind = kinds.get(part["type"])
    return kind(**fields) if kind is not None else types.GenericPart(type=part["type"])


def _plain(message: Any) -> Any:
    if not dataclasses.is_dataclass(message) or isinstance(message, type):
        return message
    data = dataclasses.asdict(message)
    if data.get("name") is None:
        data.pop("name", None)
    return data


def _named_hook() -> CompletionHook | None:
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    for entry in entry_points(group=GROUP, name=name):
        try:
            hook = entry.load()()
        except Exception as error:
            note_failure(f"the completion hook {name}", error)
            return None
        if isinstance(hook, CompletionHook):
            return hook
    warn_once(
        "the completion hook variable",
        f"{VARIABLE}={name!r} names no completion hook, so none is called: install the package "
        f"that provides it, or correct the name.",
    )
    return None
