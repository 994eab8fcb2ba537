"""A tokenizer's parts that threads can share: encode, decode, chat template, message ends."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

__all__ = ["decoder", "encoder", "end_ids", "render_chat", "tools_keyword"]

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
    for keyword in ("tools", "xml_tools"):
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


def end_ids(model: Any, tokenizer: Any, added: dict[str, int]) -> tuple[int, ...]:
    ids: set[Any] = {added[token] for token in _MESSAGE_ENDS if token in added}
    for owner in (model.generation_config, model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ids.update(value if isinstance(value, list | tuple) else [value])
    return tuple(sorted(i for i in ids if isinstance(i, int)))
