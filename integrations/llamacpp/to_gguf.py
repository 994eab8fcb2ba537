"""Write a Llama model in transformers' format as a GGUF file, for llama.cpp and Ollama.

    pip install 'slm-adapters[local]' gguf
    python integrations/llamacpp/to_gguf.py path/to/model model.gguf --type q8_0

For Llama models whose tokenizer splits text as GPT-2's does; for others llama.cpp's own
convert_hf_to_gguf.py knows what to do.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

TYPES = ("f32", "f16", "q8_0", "q4_0")


def to_gguf(folder: Path, target: Path, kind: str = "f32", *, splits: str | None = None) -> Path:
    """Write ``target``. Every matrix is of type ``kind``, vectors are float32.

    ``splits``: llama.cpp's name of the way the tokenizer splits text; found out where it is not
    given. Raises ``ValueError`` for a model or a tokenizer that this cannot write.
    """
    import gguf
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    if config.model_type != "llama":
        raise ValueError(f"{config.model_type} models are for llama.cpp's convert_hf_to_gguf.py.")
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(target, "llama")
    _write_shape(writer, config, target.stem)
    _write_tokenizer(writer, tokenizer, spec, splits or _splits_of(spec), config.vocab_size)
    _write_tensors(writer, folder, config, gguf.GGMLQuantizationType[kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _write_shape(writer: Any, config: Any, name: str) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _splits_of(spec: dict[str, Any]) -> str:
    """Where a byte-level BPE splits text; llama.cpp has these patterns in code, by name."""
    found = spec["pre_tokenizer"] or {}
    if found.get("type") == "ByteLevel" and found.get("use_regex") and not spec["normalizer"]:
        return "gpt-2"
    raise ValueError(
        "this tokenizer splits text in a way that has no name here: with llama.cpp's "
        "convert_hf_to_gguf.py, or with splits=, the model may read other tokens than it learned."
    )


def _write_tokenizer(
    writer: Any, tokenizer: Any, spec: dict[str, Any], splits: str, size: int
) -> None:
    import gguf

    kinds = gguf.TokenType
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    added = {token["id"]: token["special"] for token in spec["added_tokens"]}
    tokens, types = [], []
    for number in range(size):
        tokens.append(words.get(number, f"[unused{number}]"))
        if number not in words:
            types.append(kinds.UNUSED)
        elif number in added:
            types.append(kinds.CONTROL if added[number] else kinds.USER_DEFINED)
        else:
            types.append(kinds.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in spec["model"]["merges"]])
    writer.add_add_bos_token(False)
    for name in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _write_tensors(writer: Any, folder: Path, config: Any, kind: Any) -> None:
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        count = next((n for layer, n in heads.items() if f".{layer}.weight" in name), None)
        array = (tensor if count is None else _interleaved(tensor, count)).numpy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ValueError(f"llama.cpp's Llama has no {name}.")
        of = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(target, gguf.quantize(array, of), raw_dtype=of)


def _interleaved(weight: Any, heads: int) -> Any:
    """Rotary halves side by side, as llama.cpp's Llama turns them; transformers has them apart."""
    rows, columns = weight.shape
    apart = weight.reshape(heads, 2, rows // heads // 2, columns)
    return apart.transpose(1, 2).reshape(rows, columns).contiguous()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a model saved by transformers")
    parser.add_argument("target", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", default="f16", choices=TYPES, help="of every matrix")
    options = parser.parse_args()
    try:
        written = to_gguf(options.folder, options.target, options.type)
    except (ModuleNotFoundError, ValueError) as error:
        print(f"not written: {error}", file=sys.stderr)
        return 1
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
