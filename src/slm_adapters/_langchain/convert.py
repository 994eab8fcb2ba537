"""LangChain messages, tools and results <-> the record's own. Pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

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
from langchain_core.outputs import ChatGeneration, ChatResult

from ..messages import Content, Message, Tool, ToolCall, Usage, as_json
from ..telemetry import semconv
from ..telemetry.content import Row

if TYPE_CHECKING:
    from ..engine.engine import Chunk, Completion, ToolChoice

__all__ = [
    "LOCAL_PROVIDER", "ai_message", "chat_result", "last_chunk", "marked",
    "message_chunk", "message_from", "messages_from", "params_from", "reasoning_of",
    "reply_message", "row_of", "text_of", "tool_choice_from", "tools_from",
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
    return Message(*row_of(message))


def reply_message(message: BaseMessage) -> Message:
    """The same for an answer, with what the model thought before it."""
    return Message(*row_of(message), reasoning_of(message))


def reasoning_of(message: BaseMessage) -> str | None:
    """The thought of an answer, where LangChain's integrations put it."""
    said = message.additional_kwargs.get("reasoning_content")
    if isinstance(said, str) and said:
        return said
    blocks = message.content if isinstance(message.content, list) else ()
    thoughts = [
        block.get("reasoning") or block.get("thinking")
        for block in blocks
        if isinstance(block, dict)
    ]
    return "".join(thought for thought in thoughts if isinstance(thought, str)) or None


def row_of(message: BaseMessage) -> Row:
    """One message's plain values, see :func:`message_from`."""
    role = message.role if isinstance(message, ChatMessage) else message.type
    said = message.content
    return (
        _ROLES.get(role, role),
        said if isinstance(said, str) else _content(said),
        _tool_calls(message) if isinstance(message, AIMessage) else (),
        message.tool_call_id if isinstance(message, ToolMessage) else None,
        message.name,
    )


def _content(content: list[Any]) -> Content:
    parts: list[dict[str, Any]] = []
    for block in content:
        part = {"type": "text", "text": block} if isinstance(block, str) else dict(block)
        if part.get("type") not in _NOT_CONTENT:
            parts.append(part)
    if all(part.get("type") == "text" for part in parts):
        return "".join(str(part.get("text", "")) for part in parts)
    return parts


def _tool_calls(message: AIMessage) -> tuple[ToolCall, ...]:
    if not (message.tool_calls or message.invalid_tool_calls):
        return ()
    good = [
        ToolCall(call["id"] or "", call["name"], as_json(call["args"]))
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


def ai_message(completion: Completion) -> AIMessage:
    """An engine's answer as LangChain's message, unreadable tool calls apart."""
    message = completion.reply.message
    calls, invalid = split_tool_calls(message.tool_calls)
    return AIMessage(
        content=message.text,
        additional_kwargs=_thought(message.reasoning),
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage_metadata(completion.usage),
        response_metadata=response_metadata(completion),
    )


def message_chunk(chunk: Chunk) -> AIMessageChunk:
    """A piece of a streamed answer."""
    delta, thought = chunk.tool_call, _thought(chunk.reasoning)
    if delta is None:
        return AIMessageChunk(content=chunk.text, additional_kwargs=thought)
    call = tool_call_chunk(
        name=delta.name or None, args=delta.arguments, id=delta.id or None, index=delta.index
    )
    return AIMessageChunk(content=chunk.text, additional_kwargs=thought, tool_call_chunks=[call])


def _thought(reasoning: str | None) -> dict[str, Any]:
    """Where LangChain looks for a model's thoughts: ``content_blocks`` has them as reasoning."""
    return {"reasoning_content": reasoning} if reasoning else {}


def last_chunk(completion: Completion) -> AIMessageChunk:
    """What ends a stream: usage and metadata with the end mark."""
    return AIMessageChunk(
        content="",
        usage_metadata=usage_metadata(completion.usage),
        response_metadata=response_metadata(completion),
        chunk_position="last",
    )


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


def text_of(value: Any) -> str:
    """Tool arguments or results as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)
