"""What a model server's error means: one of our errors, or a request to ask differently.

Pure functions over a status and a body. The phrases are those of vLLM, SGLang, llama.cpp,
llama-cpp-python, Ollama, LM Studio, transformers serve and OpenAI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from ...errors import (
    ContextOverflowError,
    EngineBusyError,
    ModelNotFoundError,
    ServerError,
    SLMAdaptersError,
)

__all__ = [
    "as_error", "find_error", "is_for_good", "message_of", "refused_fields", "too_long_for_window",
]  # fmt: skip

_LONGEST_QUOTE = 160
#: CrewAI takes such words in any error for a throttled provider and repeats the whole call.
_THROTTLE_WORDS = re.compile(
    r"rate.?limit|too many requests|throttl|resource exhausted|\b429\b", re.IGNORECASE
)

_OVERFLOW = re.compile(
    r"(maximum|available|model'?s|exceeds?( the)?|configured) context (length|size|window)"
    r"|context_length_exceeded|exceed_context_size|exceeds? (the )?context|context length of only",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    r"(?:context (?:length|size|window)(?: of| is)?(?: only)? ?\(?|n_ctx\D{1,4})(\d+)",
    re.IGNORECASE,
)
#: The first that matches tells: a total may stand beside the prompt's own number.
_PROMPT = tuple(
    re.compile(phrase, re.IGNORECASE)
    for phrase in (
        r"\((\d+) in the messages",
        r"(\d+) tokens from the input",
        r"(?:has|contains|resulted in) (?:at least )?(\d+) (?:input )?tokens",
        r"n_prompt_tokens\D{1,4}(\d+)",
        r"(?:request|input|requested tokens) \(?(\d+)",
        r"requested (\d+) tokens",
    )
)

#: Phrases that mean a field the request had, without naming it.
_MEANT = (
    ("tools", re.compile(r"not support tools|tool.?choice requires|tool-call-parser|--jinja")),
    ("tools", re.compile(r"unable to generate parser")),
    ("messages", re.compile(r"roles must alternate|system role|conversation roles|roles are supp")),
    ("response_format", re.compile(r"json.?schema|grammar|guided|structured.?output")),
)
_SCHEMA_TROUBLE = re.compile(r"json.?schema|grammar", re.IGNORECASE)
_REFUSING = frozenset({400, 404, 405, 415, 422, 500, 501})


def message_of(body: str) -> str:
    """The sentence in an error body, whichever of the servers' shapes it has."""
    try:
        data: Any = json.loads(body)
    except ValueError:
        return body.strip()
    while isinstance(data, dict):
        inner = next((data[k] for k in ("error", "message", "detail") if data.get(k)), None)
        if inner is None:
            break
        data = inner
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)


def find_error(data: Any) -> tuple[int, str] | None:
    """Status and body of an error that came in place of an answer, in a stream or with HTTP 200."""
    if not isinstance(data, dict) or data.get("choices"):
        return None
    error = data.get("error")
    if not error and data.get("object") != "error":
        return None
    code = error.get("code") if isinstance(error, dict) else data.get("code")
    return code if isinstance(code, int) else 500, json.dumps(data)


def too_long_for_window(status: int, body: str) -> tuple[int | None, int | None] | None:
    """Prompt tokens and window as far as the body tells them; None if it is no such error."""
    if status not in (400, 413, 422, 500) or not _OVERFLOW.search(body):
        return None
    window = _WINDOW.search(body)
    prompt = next((found for phrase in _PROMPT if (found := phrase.search(body))), None)
    return int(prompt.group(1)) if prompt else None, int(window.group(1)) if window else None


def refused_fields(status: int, body: str, sent: Collection[str]) -> frozenset[str]:
    """Which optional fields of the request the server will not take; empty: another trouble."""
    if status not in _REFUSING:
        return frozenset()
    text = message_of(body)
    meant = {field for field, phrase in _MEANT if field in sent and phrase.search(text.lower())}
    if "tools" in meant:
        # The choice between tools that are not taken is beside the point.
        return frozenset({"tools"})
    named = {f for f in sent if f not in ("tools", "messages") and re.search(rf"\b{f}\b", text)}
    return frozenset(named or meant)


def is_for_good(refused: frozenset[str], body: str) -> bool:
    """Whether the next request with these fields will be refused as well.

    One schema's trouble with a grammar says nothing of the next one's.
    """
    if refused == {"response_format"}:
        return "response_format" in body
    return refused != {"tools"} or not _SCHEMA_TROUBLE.search(body)


def as_error(
    status: int, body: str, *, model: str, server: str, sent_tokens: int, max_tokens: int | None
) -> SLMAdaptersError:
    """The typed error. ``sent_tokens``: our own estimate, for servers that tell no number."""
    overflow = too_long_for_window(status, body)
    if overflow is not None:
        prompt, window = overflow
        counted = prompt if prompt is not None else sent_tokens
        # vLLM stops counting where it is too much.
        bound = prompt is not None and f"at least {prompt} " in body
        return ContextOverflowError(
            model, counted, max_tokens or 1, window or counted, at_least=bound
        )
    said = _quote(message_of(body))
    if status in (401, 403):
        return ServerError(
            f"{server} refused the key (HTTP {status}{said}): pass api_key=, or set "
            "SLM_ADAPTERS_API_KEY where a copy or another process asks.",
            status,
        )
    if status == 404 or re.search(r"model.{0,80}(not (found|exist)|does not exist)", said):
        return ModelNotFoundError(
            f"{server} has no model {model!r} (HTTP {status}{said}): use a name that its "
            "/models lists, or check that base_url ends with /v1."
        )
    if "pinned to" in said:
        return ModelNotFoundError(
            f"{server} does not serve {model!r} (HTTP {status}{said}): use the name it serves."
        )
    if status in (429, 503):
        return EngineBusyError(
            f"{server} takes no call now (HTTP {status}{said}): wait until it is ready, or give "
            "the model a fallback=."
        )
    return ServerError(
        f"{server} answered with an error (HTTP {status}{said}): look at its log, or give the "
        "model a fallback=.",
        status,
    )


def _quote(text: str) -> str:
    """``: what it said``, one line; nothing where its words would be taken for something else."""
    text = " ".join(text.split())
    if not text or _THROTTLE_WORDS.search(text):
        return ""
    return f": {text[:_LONGEST_QUOTE]}"
