"""LangChain messages, tools and results <-> the record's own. Pure functions, no I/O."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    InvalidToolCall,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCall as LangChainToolCall
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult

from ..calls import Content, Message, Reply, Tool, ToolCall, Usage
from ..engine.engine import Completion, ToolChoice
from ..telemetry import semconv

__all__ = [
    "LOCAL_PROVIDER", "ai_message", "bare_replies_from", "chat_result", "json_text",
    "last_chunks", "marked", "messages_from", "params_from", "replies_from", "response_facts",
    "text_chunk", "tool_choice_from", "tools_from", "usage_from",
]  # fmt: skip

AIMessageT = TypeVar("AIMessageT", bound=AIMessage)

#: Provider of models that run in this process.
LOCAL_PROVIDER = "slm_adapters"

_ROLES = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "function": "tool"}
#: Content blocks that repeat what ``tool_calls`` says, or that a model must not be sent again.
_NOT_CONTENT = {
    "tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "function_call",
    "reasoning", "thinking", "redacted_thinking",
}  # fmt: skip
_PARAMS = frozenset((
    "temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed", "stop", "n",
    "frequency_penalty", "presence_penalty", "tool_choice", "parallel_tool_calls",
))  # fmt: skip


def messages_from(messages: Sequence[BaseMessage]) -> tuple[Message, ...]:
    """LangChain messages as the record's, in order."""
    return tuple(message_from(message) for message in messages)


def message_from(message: BaseMessage) -> Message:
    """One message; text-only content blocks become plain text."""
    role = message.role if isinstance(message, ChatMessage) else message.type
    return Message(
        role=_ROLES.get(role, role),
        content=_content(message.content),
        tool_calls=_tool_calls(message) if isinstance(message, AIMessage) else (),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name,
    )


def _content(content: str | list[Any]) -> Content:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for block in content:
        part = {"type": "text", "text": block} if isinstance(block, str) else dict(block)
        if part.get("type") not in _NOT_CONTENT:
            parts.append(part)
    if all(part.get("type") == "text" for part in parts):
        return "".join(str(part.get("text", "")) for part in parts)
    return parts


def _tool_calls(message: AIMessage) -> tuple[ToolCall, ...]:
    good = [
        ToolCall(call["id"] or "", call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    bad = [
        ToolCall(call.get("id") or "", call.get("name") or "", call.get("args") or "")
        for call in message.invalid_tool_calls
    ]
    return (*good, *bad)


def tools_from(params: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The tools of an invocation: OpenAI's shape, or Anthropic's."""
    tools = params.get("tools") or params.get("functions") or ()
    return tuple(_tool(tool) for tool in tools if isinstance(tool, Mapping))


def _tool(tool: Mapping[str, Any]) -> Tool:
    if "input_schema" in tool:
        tool = {**tool, "parameters": tool["input_schema"]}
    if "name" not in tool and "function" not in tool:
        tool = {**tool, "name": tool.get("type")}
    return Tool.from_openai(tool)


def params_from(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters worth recording: known names only, so no key or address slips in."""
    known = {k: v for k, v in params.items() if k in _PARAMS and v is not None}
    if "stop" in known and not known["stop"]:
        known.pop("stop", None)
    return known


def tool_choice_from(choice: Any) -> ToolChoice:
    """LangChain's spellings as an engine's: auto, none, required or a tool's name."""
    if choice is None or choice is False:
        return "auto"
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        return str(name or tool_choice_from(choice.get("type")))
    return str(choice)


def replies_from(result: LLMResult) -> tuple[Reply, ...]:
    """One reply per choice."""
    return tuple(_reply(choice) for choices in result.generations for choice in choices)


def _reply(choice: Any) -> Reply:
    return Reply(_reply_message(choice), _finish_reason(choice))


def _reply_message(choice: Generation) -> Message:
    if isinstance(choice, ChatGeneration):
        return message_from(choice.message)
    return Message("assistant", choice.text)


def _finish_reason(choice: Generation) -> str | None:
    message = choice.message if isinstance(choice, ChatGeneration) else None
    for facts in (choice.generation_info, getattr(message, "response_metadata", None)):
        if facts:
            reason = (
                facts.get("finish_reason") or facts.get("stop_reason") or facts.get("done_reason")
            )
            if reason:
                return semconv.finish_reason(reason)
    return semconv.finish_reason(None, has_tool_calls=bool(getattr(message, "tool_calls", None)))


def bare_replies_from(result: LLMResult) -> tuple[Reply, ...]:
    """Finish reasons only, for when nobody reads the text."""
    reasons = [_finish_reason(choice) for choices in result.generations for choice in choices]
    return tuple(_bare_reply(reason) for reason in reasons)


@functools.lru_cache(maxsize=64)
def _bare_reply(reason: str | None) -> Reply:
    return Reply(Message("assistant"), reason)


def usage_from(result: LLMResult) -> Usage | None:
    """The token counts the provider reported; ``None`` rather than invented zeros."""
    for choices in result.generations:
        for choice in choices:
            counts = getattr(getattr(choice, "message", None), "usage_metadata", None)
            if counts:
                return _usage(counts)
    output = result.llm_output or {}
    return _openai_usage(output.get("token_usage") or output.get("usage"))


def _usage(counts: UsageMetadata) -> Usage:
    return Usage(
        counts["input_tokens"],
        counts["output_tokens"],
        cached_tokens=(counts.get("input_token_details") or {}).get("cache_read"),
        cache_write_tokens=(counts.get("input_token_details") or {}).get("cache_creation"),
        reasoning_tokens=(counts.get("output_token_details") or {}).get("reasoning"),
    )


def _openai_usage(counts: Any) -> Usage | None:
    if not isinstance(counts, Mapping):
        return None
    inputs = counts.get("prompt_tokens", counts.get("input_tokens"))
    outputs = counts.get("completion_tokens", counts.get("output_tokens"))
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        return None
    return Usage(inputs, outputs)


def response_facts(result: LLMResult) -> tuple[str | None, str | None]:
    """Model and id as the provider reported them."""
    output = result.llm_output or {}
    choice = result.generations[0][0] if result.generations and result.generations[0] else None
    message = getattr(choice, "message", None)
    facts = getattr(message, "response_metadata", None) or {}
    model = facts.get("model_name") or facts.get("model") or output.get("model_name")
    identifier = facts.get("id") or getattr(message, "id", None) or output.get("id")
    # Ids LangChain made up itself are no response ids.
    if not isinstance(identifier, str) or identifier.startswith(("run-", "lc_run-")):
        identifier = None
    return (model if isinstance(model, str) else None), identifier


def ai_message(completion: Completion) -> AIMessage:
    """An engine's answer as LangChain's message, unreadable tool calls apart."""
    message = completion.reply.message
    calls, invalid = split_tool_calls(message.tool_calls)
    return AIMessage(
        content=message.text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage_metadata(completion.usage),
        response_metadata=response_metadata(completion),
    )


def text_chunk(text: str) -> AIMessageChunk:
    """A piece of a streamed answer."""
    return AIMessageChunk(content=text)


def last_chunks(completion: Completion) -> list[AIMessageChunk]:
    """What ends a stream: its tool calls, then usage and metadata with the end mark."""
    calls = [
        tool_call_chunk(name=call.name, args=call.arguments, id=call.id, index=index)
        for index, call in enumerate(completion.reply.message.tool_calls)
    ]
    chunks = [AIMessageChunk(content="", tool_call_chunks=[call]) for call in calls]
    end = AIMessageChunk(
        content="",
        usage_metadata=usage_metadata(completion.usage),
        response_metadata=response_metadata(completion),
        chunk_position="last",
    )
    return [*chunks, end]


def chat_result(message: AIMessage, fallback_reason: str | None = None) -> ChatResult:
    """One answer; ``fallback_reason`` goes into its ``response_metadata``."""
    if fallback_reason is not None:
        message = marked(message, fallback_reason)
    return ChatResult(generations=[ChatGeneration(message=message)])


def marked(message: AIMessageT, fallback_reason: str) -> AIMessageT:
    """The fallback's message, saying why it was asked."""
    if isinstance(message, AIMessageChunk) and message.chunk_position != "last":
        return message
    metadata = {**message.response_metadata, "fallback_reason": fallback_reason}
    return message.model_copy(update={"response_metadata": metadata})


def split_tool_calls(
    calls: Sequence[ToolCall],
) -> tuple[list[LangChainToolCall], list[InvalidToolCall]]:
    """Calls whose arguments are JSON objects, and the others."""
    good: list[LangChainToolCall] = []
    bad: list[InvalidToolCall] = []
    for call in calls:
        try:
            good.append(tool_call(name=call.name, args=call.parsed(), id=call.id))
        except ValueError as error:
            bad.append(
                InvalidToolCall(
                    name=call.name,
                    args=call.arguments,
                    id=call.id,
                    error=str(error),
                    type="invalid_tool_call",
                )
            )
    return good, bad


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Counts in LangChain's shape; details only when they are known."""
    counts = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.cached_tokens is not None:
        counts["input_token_details"] = InputTokenDetails(cache_read=usage.cached_tokens)
    if usage.reasoning_tokens is not None:
        counts["output_token_details"] = OutputTokenDetails(reasoning=usage.reasoning_tokens)
    return counts


def response_metadata(completion: Completion) -> dict[str, Any]:
    """Model, provider and finish reason, the latter in OpenAI's spelling."""
    reason = completion.reply.finish_reason or "stop"
    return {
        "model_name": completion.model,
        "model_provider": completion.attributes.get(semconv.PROVIDER_NAME, LOCAL_PROVIDER),
        "finish_reason": "tool_calls" if reason == "tool_call" else reason,
    }


def json_text(value: Any) -> str:
    """Tool arguments or results as text: a string as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
