"""What a model's answer says of itself: its model, id, finish reasons and token counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from ..calls import Message, Reply, Usage
from ..telemetry import content, semconv
from .convert import message_from, row_of

__all__ = ["counts_from", "facts_from", "output_json", "reasons_from", "replies_from", "usage_from"]


def replies_from(result: LLMResult) -> tuple[Reply, ...]:
    """One reply per choice."""
    return tuple(
        Reply(_reply_message(choice), _finish_reason(choice))
        for choices in result.generations
        for choice in choices
    )


def _reply_message(choice: Generation) -> Message:
    if isinstance(choice, ChatGeneration):
        return message_from(choice.message)
    return Message("assistant", choice.text)


def output_json(result: LLMResult) -> str:
    """``gen_ai.output.messages`` of a result whose replies nobody keeps."""
    return content.fitted(
        [
            content.answered(_reply_row(choice), _finish_reason(choice))
            for choices in result.generations
            for choice in choices
        ]
    )


def _reply_row(choice: Generation) -> content.Row:
    if isinstance(choice, ChatGeneration):
        return row_of(choice.message)
    return "assistant", choice.text, (), None, None


def reasons_from(result: LLMResult) -> list[str | None]:
    """One finish reason per choice."""
    return [_finish_reason(choice) for choices in result.generations for choice in choices]


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


def usage_from(result: LLMResult) -> Usage | None:
    """:func:`counts_from` as the record keeps them."""
    counts = counts_from(result)
    return Usage(*counts) if counts is not None else None


def counts_from(result: LLMResult) -> semconv.Counts | None:
    """The token counts the provider reported; ``None`` rather than invented zeros."""
    for choices in result.generations:
        for choice in choices:
            counts = getattr(getattr(choice, "message", None), "usage_metadata", None)
            if counts:
                return _counts(counts)
    output = result.llm_output or {}
    return _openai_counts(output.get("token_usage") or output.get("usage"))


def _counts(counts: UsageMetadata) -> semconv.Counts:
    given, made = counts.get("input_token_details"), counts.get("output_token_details")
    return (
        counts["input_tokens"],
        counts["output_tokens"],
        given.get("cache_read") if given else None,
        given.get("cache_creation") if given else None,
        made.get("reasoning") if made else None,
    )


def _openai_counts(counts: Any) -> semconv.Counts | None:
    if not isinstance(counts, Mapping):
        return None
    inputs = counts.get("prompt_tokens", counts.get("input_tokens"))
    outputs = counts.get("completion_tokens", counts.get("output_tokens"))
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        return None
    return inputs, outputs, None, None, None


def facts_from(result: LLMResult) -> tuple[str | None, str | None]:
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
