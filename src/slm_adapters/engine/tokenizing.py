"""A tokenizer's parts that threads can share: encode, decode, chat template, message ends."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .format_resolver import NativeParser
from .template_probe import ChatFormat, probe

__all__ = ["chat_format_of", "decoder", "encoder", "end_ids", "render_chat", "tools_keyword"]

#: What was found out about templates, by all that it depends on.
_known: dict[str, ChatFormat] = {}

#: Ends of a message in the common templates, besides what the configuration names.
_MESSAGE_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>", "</s>")


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False))
    # The Rust tokenizer itself: the Python wrapper sets padding and truncation on a shared
    # object before each call, which breaks when threads meet there.
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def decoder(tokenizer: Any) -> Callable[[list[int]], str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))
    return lambda ids: str(backend.decode(ids, skip_special_tokens=False))


def tools_keyword(tokenizer: Any) -> str:
    """The variable a template reads tools from: SmolLM3's is not the usual one."""
    user = [{"role": "user", "content": "a"}]
    tool = {"type": "function", "function": {"name": "zq_probe", "parameters": {}}}
    for keyword in ("tools", "xml_tools", "python_tools"):
        with contextlib.suppress(Exception):
            if "zq_probe" in render_chat(tokenizer, keyword, user, [tool], True):
                return keyword
    return "tools"


def render_chat(
    tokenizer: Any,
    keyword: str,
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    answer: bool,
) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer, **{keyword: tools}
        )
    )


def chat_format_of(tokenizer: Any, keyword: str) -> ChatFormat:
    """What the tokenizer's template carries and how its model calls tools; found out once."""
    added = sorted(tokenizer.get_added_vocab())
    own = getattr(tokenizer, "response_template", None)
    source = json.dumps([tokenizer.chat_template, own, added, keyword], default=str)
    key = hashlib.sha256(source.encode()).hexdigest()
    if key not in _known:
        found = probe(
            lambda m, t, a: render_chat(tokenizer, keyword, m, t, a),
            _native_parser(tokenizer),
            added,
        )
        _known[key] = replace(found, thinks="</think>" in str(tokenizer.chat_template))
    return _known[key]


def _native_parser(tokenizer: Any) -> NativeParser | None:
    """The tokenizer's own reader of replies, where it ships one."""
    if getattr(tokenizer, "response_template", None) is None:
        return None

    def parse(text: str) -> list[tuple[str, Any]]:
        with contextlib.suppress(Exception):
            # Most readers find the start of the reply by what the prompt ends with.
            prefix = render_chat(tokenizer, "tools", [{"role": "user", "content": "a"}], None, True)
            message = tokenizer.parse_response(text, prefix=prefix)
            functions = [call["function"] for call in message.get("tool_calls") or ()]
            return [(f["name"], f["arguments"]) for f in functions]
        return []

    return parse


def end_ids(model: Any, tokenizer: Any, added: dict[str, int]) -> tuple[int, ...]:
    ids: set[Any] = {added[token] for token in _MESSAGE_ENDS if token in added}
    for owner in (model.generation_config, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [value])
    return tuple(sorted(i for i in ids if isinstance(i, int)))
