"""How model families write tool calls: the text around them, as data.

One table serves three ends: showing past calls to a model, the grammar of its next ones, and
recognizing a format in what a template renders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FAMILIES", "GENERIC", "CallFormat"]


@dataclass(frozen=True, slots=True)
class CallFormat:
    """``opening (before NAME between ARGUMENTS after) separator (...) closing``.

    ``marker``: text that announces a call beyond doubt; empty where nothing does.
    ``separator=None``: one call a reply. ``quote``: what texts in braces are put between.
    """

    name: str
    before: str
    between: str
    after: str
    marker: str = ""
    opening: str = ""
    separator: str | None = "\n"
    closing: str = ""
    arguments: Literal["json", "xml", "python", "braces"] = "json"
    quote: str = '"'

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        """Calls as text. Arguments are an object; text that is none is written as it is."""
        texts = [self.before + n + self.between + self._args(a) + self.after for n, a in calls]
        return self.opening + (self.separator or "\n").join(texts) + self.closing

    def _args(self, arguments: Any) -> str:
        if not isinstance(arguments, dict):
            return str(arguments)
        if self.arguments == "xml":
            return "".join(_parameter(key, value) for key, value in arguments.items())
        if self.arguments == "python":
            return ", ".join(f"{key}={_python(value)}" for key, value in arguments.items())
        if self.arguments == "braces":
            return self._braces(arguments)
        return json.dumps(arguments, ensure_ascii=False)

    def _braces(self, value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{k}:{self._braces(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(self._braces, value)) + "]"
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        return json.dumps(value)


def _parameter(key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<parameter={key}>\n{text}\n</parameter>\n"


def _python(value: Any) -> str:
    if isinstance(value, dict):
        pairs = (f"{json.dumps(k, ensure_ascii=False)}: {_python(v)}" for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


_NAME, _ARGUMENTS, _PARAMETERS = '{"name": "', '", "arguments": ', '", "parameters": '

#: Qwen2.5, Qwen3, Granite, SmolLM3; and what models without a format of their own are told.
GENERIC = CallFormat(
    "hermes", f"<tool_call>\n{_NAME}", _ARGUMENTS, "}\n</tool_call>", "<tool_call>"
)

#: Order matters where one is a part of another.
FAMILIES = (
    # Qwen3.5, Qwen3-Coder, Nemotron 3
    CallFormat(
        "xml", "<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", "<tool_call>",
        arguments="xml",
    ),
    GENERIC,
    # Llama 3.1 with functions of one's own
    CallFormat("function_tag", "<function=", ">", "</function>", "<function="),
    # LFM2
    CallFormat(
        "lfm2", "", "(", ")", "<|tool_call_start|>", "<|tool_call_start|>[", ", ",
        "]<|tool_call_end|>", "python",
    ),
    # Olmo 3
    CallFormat(
        "olmo", "", "(", ")", "<function_calls>", "<function_calls>", "\n", "</function_calls>",
        "python",
    ),
    # Phi-4-mini
    CallFormat(
        "phi4", _NAME, _ARGUMENTS, "}", "<|tool_call|>", "<|tool_call|>[", ", ",
        "]<|/tool_call|>",
    ),
    # Nemotron Nano 2
    CallFormat(
        "nemotron", _NAME, _ARGUMENTS, "}", "<TOOLCALL>", "<TOOLCALL>[", ", ", "]</TOOLCALL>"
    ),
    # Mistral since v11, then before
    CallFormat("mistral_args", "[TOOL_CALLS]", "[ARGS]", "", "[TOOL_CALLS]", separator=""),
    CallFormat(
        "mistral", _NAME, _ARGUMENTS, "}", "[TOOL_CALLS]", "[TOOL_CALLS][", ", ", "]"
    ),
    CallFormat(
        "function_gemma", "<start_function_call>call:", "", "<end_function_call>",
        "<start_function_call>", separator="", arguments="braces", quote="<escape>",
    ),
    CallFormat(
        "gemma4", "<|tool_call>call:", "", "<tool_call|>", "<|tool_call>",
        separator="", arguments="braces", quote='<|"|>',
    ),
    # Llama 3.1, 3.2
    CallFormat(
        "python_tag", _NAME, _PARAMETERS, "}", "<|python_tag|>", "<|python_tag|>", "; "
    ),
    CallFormat("llama_json", _NAME, _PARAMETERS, "}", separator="; "),
    # xLAM
    CallFormat("xlam", _NAME, _ARGUMENTS, "}", "", "[", ", ", "]"),
    # Llama 4, xLAM 2
    CallFormat("pythonic", "", "(", ")", "", "[", ", ", "]", "python"),
)  # fmt: skip
