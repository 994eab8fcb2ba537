"""What a model's answer says of itself: its model, id, finish reasons and token counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from ..messages import Message, Reply, Usage
from ..telemetry import content, semconv
from .convert import reasoning_of, reply_message, row_of

__all__ = ["Facts", "facts_from", "output_json", "replies_from", "usage_from"]

_REASONS = ("finish_reason", "stop_reason", "done_reason")


def replies_from(result: LLMResult) -> tuple[Reply, ...]:
    """One reply per choice."""
    return tuple(
        Reply(_reply_message(choice), _reason_of(choice))
        for choices in result.generations
        for choice in choices
    )


def _reply_message(choice: Generation) -> Message:
    if isinstance(choice, ChatGeneration):
        return reply_message(choice.message)
    return Message("assistant", choice.text)


def output_json(result: LLMResult) -> str:
    """``gen_ai.output.messages`` of a result whose replies nobody keeps."""
    return content.fitted(
        [
            content.answered(_reply_row(choice), _reason_of(choice), _thought(choice))
            for choices in result.generations
            for choice in choices
        ]
    )


def _reply_row(choice: Generation) -> content.Row:
    if isinstance(choice, ChatGeneration):
        return row_of(choice.message)
    return "assistant", choice.text, (), None, None


def _thought(choice: Generation) -> str | None:
    return reasoning_of(choice.message) if isinstance(choice, ChatGeneration) else None


def _reason_in(facts: Mapping[str, Any]) -> str | None:
    for name in _REASONS:
        if reason := facts.get(name):
            return str(reason)
    return None


def _reason_of(choice: Generation) -> str | None:
    message = getattr(choice, "message", None)
    return _finish_reason(choice, message, getattr(message, "response_metadata", None))


def _finish_reason(choice: Generation, message: Any, said: Mapping[str, Any] | None) -> str | None:
    info = choice.generation_info
    reason = (info and _reason_in(info)) or (said and _reason_in(said))
    if not reason:
        return "tool_call" if getattr(message, "tool_calls", None) else None
    return semconv.finish_reason(reason)


#: Model, response id, one finish reason per choice, and token counts, as the provider reported
#: them: ``None`` rather than invented zeros.
Facts: TypeAlias = tuple[str | None, str | None, list[str | None], semconv.Counts | None]


def facts_from(result: LLMResult) -> Facts:
    """The facts of one result; model and id are its first choice's."""
    output, first, counts = result.llm_output or {}, None, None
    about: Mapping[str, Any] = {}
    reasons: list[str | None] = []
    # Each attribute is read once: on LangChain's objects that costs as much as a call.
    for choices in result.generations:
        for choice in choices:
            message = getattr(choice, "message", None)
            said = getattr(message, "response_metadata", None)
            reasons.append(_finish_reason(choice, message, said))
            if counts is None and (usage := getattr(message, "usage_metadata", None)):
                counts = _counts(usage)
            if first is None and message is not None:
                first, about = message, said or {}
    if counts is None:
        counts = _openai_counts(output.get("token_usage") or output.get("usage"))
    model = about.get("model_name") or about.get("model") or output.get("model_name")
    identifier = about.get("id") or getattr(first, "id", None) or output.get("id")
    # Ids LangChain made up itself are no response ids.
    if not isinstance(identifier, str) or identifier.startswith(("run-", "lc_run-")):
        identifier = None
    return (model if isinstance(model, str) else None), identifier, reasons, counts


def usage_from(result: LLMResult) -> Usage | None:
    """The token counts as the record keeps them."""
    counts = facts_from(result)[3]
    return Usage(*counts) if counts is not None else None


#: LangChain marks an answer from its own cache as free, with the tokens of the call that made it.
_FROM_CACHE: semconv.Counts = (0, 0, None, None, None)


def _counts(counts: UsageMetadata) -> semconv.Counts:
    if counts.get("total_cost") == 0:
        return _FROM_CACHE
    given, made = counts.get("input_token_details"), counts.get("output_token_details")
    cached = given.get("cache_read") if given else None
    written = given.get("cache_creation") if given else None
    reasoning = made.get("reasoning") if made else None
    return counts["input_tokens"], counts["output_tokens"], cached, written, reasoning


def _openai_counts(counts: Any) -> semconv.Counts | None:
    if not isinstance(counts, Mapping):
        return None
    inputs = counts.get("prompt_tokens", counts.get("input_tokens"))
    outputs = counts.get("completion_tokens", counts.get("output_tokens"))
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        return None
    return inputs, outputs, None, None, None
