"""Tiny random models of real architectures, with a tokenizer trained on the spot.

Building one takes well under a second; weights are random, so the text is nonsense but the
same nonsense every time. ``teach`` overfits one on given answers when a test needs real ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

VOCABULARY = 400
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
#: Added but not special, as in the Qwen tokenizers.
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
MARKERS += ["<think>", "</think>"]

TEXT = [
    "You are a careful assistant. Answer with one line of JSON and nothing else.",
    "system user assistant tool function name description parameters arguments required",
    '{"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}',
    '<tool_call>\n{"name": "lookup_order", "arguments": {"order_id": "AB-1"}}\n</tool_call>',
    "Thought: I should look. Action: search Action Input: {} Observation: Final Answer: done",
    "Where is my order? It should have been here on Monday. Please help me, thank you!",
    "お茶を一杯ください。ありがとう 🙂 naïve café — Grüße",
    "# Tools You may call one or more functions to assist with the user query.",
]

CHATML = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n\\nYou may call one or more functions.\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n\\nFor each call answer with <tool_call>' }}
{{- '{"name": ..., "arguments": ...}</tool_call>' }}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{%- set function = call.function or call %}
{{- '\\n' if message.content or not loop.first }}
{{- '<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
{{- function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
{{- '\\n</tool_response><|im_end|>\\n' }}
{%- elif not (loop.first and message.role == 'system') %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def tiny_model(
    folder: str | os.PathLike[str],
    architecture: str = "llama",
    window: int = 2048,
    chat_template: bool | str = True,
    **overrides: Any,
) -> Path:
    """Write a random model into ``folder`` and return its path.

    ``architecture``: llama, qwen3, qwen3_5, gemma3, phi3, lfm2, granite, granite_hybrid,
    nemotron_h, mistral, smollm3.
    ``chat_template``: ChatML with Hermes tool calls, none, or your own Jinja text.
    ``overrides`` change the config: ``tiny_model(tmp_path, hidden_size=96)``.
    """
    import torch

    # Tiny matrices on shared cores: a second thread only waits for the first.
    torch.set_num_threads(1)
    folder = Path(folder)
    tokenizer = tiny_tokenizer(chat_template)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model_class, config = _config(architecture, window, len(tokenizer), end, overrides)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        model = model_class(config).eval()
    finally:
        torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = [end, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach(
    folder: str | os.PathLike[str],
    answers: Mapping[str, str] | Sequence[tuple[list[dict[str, Any]], str]],
    *,
    tools: Sequence[dict[str, Any]] = (),
    steps: int = 120,
) -> Path:
    """Overfit the tiny model in ``folder`` until it gives these answers (a few seconds).

    ``answers``: user text -> answer, or (messages, answer) pairs. Raises if it does not learn.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if isinstance(answers, Mapping):
        answers = [([{"role": "user", "content": k}], v) for k, v in answers.items()]
    rows = []
    for messages, answer in answers:
        prompt = tokenizer.apply_chat_template(
            messages, tools=list(tools) or None, add_generation_prompt=True, tokenize=False
        )
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = start + tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        labels = [-100] * len(start) + whole[len(start) :]
        rows.append((torch.tensor([whole]), torch.tensor([labels])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    model.train()
    worst = 0.0
    for _ in range(steps):
        worst = 0.0
        for ids, labels in rows:
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            worst = max(worst, float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        if worst < 0.01:
            break
    assert worst < 0.05, f"the tiny model did not learn its answers (loss {worst:.2f})"
    model.save_pretrained(folder)
    return Path(folder)


@cache
def _trained_tokenizer() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKERS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens(MARKERS)
    return json.dumps(json.loads(tokenizer.to_str()))


def tiny_tokenizer(chat_template: bool | str = True) -> Any:
    """The tokenizer alone: byte-level BPE, about 400 tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    if chat_template:
        tokenizer.chat_template = CHATML if chat_template is True else chat_template
    return tokenizer


def _config(
    architecture: str, window: int, vocabulary: int, end: int, overrides: Mapping[str, Any]
) -> tuple[Any, Any]:
    import transformers as hf

    common: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": window,
        "eos_token_id": end,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    hybrid = {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_state": 16}
    hybrid |= {"mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_chunk_size": 8}
    hybrid |= {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 128}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    linear |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
    nemotron = {"layers_block_type": ["mamba", "mlp", "attention", "mlp"], "mamba_num_heads": 8}
    nemotron |= {"mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "chunk_size": 8}
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "llama": ("Llama", {}),
        "mistral": ("Mistral", {"sliding_window": None}),
        "qwen3": ("Qwen3", {"head_dim": 16}),
        "smollm3": ("SmolLM3", {}),
        "gemma3": (
            "Gemma3",
            {
                "head_dim": 16,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
                "query_pre_attn_scalar": 16,
                "tie_word_embeddings": False,
            },
        ),
        "phi3": ("Phi3", {"original_max_position_embeddings": window}),
        "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        "granite": ("GraniteMoeHybrid", {**hybrid, "layer_types": ["attention", "attention"]}),
        "granite_hybrid": ("GraniteMoeHybrid", hybrid),
        "qwen3_5": (
            "Qwen3_5",
            {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"], **linear},
        ),
        "nemotron_h": ("NemotronH", {**nemotron, "head_dim": 16, "num_hidden_layers": 4}),
    }
    name, special = own[architecture]
    config_name = f"{name}TextConfig" if name in ("Gemma3", "Qwen3_5") else f"{name}Config"
    config = getattr(hf, config_name)(**{**common, **special, **overrides})
    return getattr(hf, f"{name}ForCausalLM"), config
