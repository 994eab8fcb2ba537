"""Recompute the held-out table of the bundled model.

    python examples/bundled_slm/evaluate.py

Every row is exact match per task and language with a Wilson 95 % interval. An answer counts when
each of its tokens is the model's most likely one after the tokens before it, which is what greedy
decoding returns; one forward pass per example checks that. ``--generate`` decodes instead.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from chat import Example, assistant_text, segments
from general import choose_tool, classify, copy, extract, use_result
from tasks import lookup_exact, lookup_varied, triage_by_schema, triage_exact, triage_varied
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from slm_adapters.demo.tickets import generate

MODEL_FOLDER = Path(__file__).parents[2] / "src" / "slm_adapters" / "models" / "bundled"
QUANTIZATIONS = ("nf4", "none", "int8")
SEED = 31_000


def heldout(count: int) -> list[Example]:
    """The demo's tickets in both shapes, then the variations and the general tasks."""
    rng = random.Random(SEED)
    tickets = generate(count, seed=SEED, split="heldout")
    shapes = ("crew", "graph")
    examples = [
        make(rng, t, s) for make in (triage_exact, lookup_exact) for s in shapes for t in tickets
    ]
    for make in (
        triage_varied,
        triage_by_schema,
        lookup_varied,
        extract,
        classify,
        choose_tool,
        use_result,
        copy,
    ):
        examples += [make(rng, "heldout") for _ in range(count // 2)]
    return examples


def load(folder: Path, quantization: str) -> Any:
    """The model as the engine loads it."""
    config = {
        "none": None,
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        ),
    }[quantization]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config, device_map="cpu"
    )
    return model.eval()


def answers(example: Example) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Every point where the assistant speaks, with what it has to say."""
    for at, message in enumerate(example.messages):
        if message["role"] == "assistant":
            yield example.messages[:at], assistant_text(message)


@torch.inference_mode()
def likely(model: Any, tokenizer: Any, example: Example) -> bool:
    """Whether greedy decoding gives every assistant message of the example."""
    ids: list[int] = []
    written: list[bool] = []
    for text, own in segments(example.messages, example.tools):
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        ids += tokens
        written += [own] * len(tokens)
    best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].argmax(-1).tolist()
    return all(best[i - 1] == ids[i] for i, own in enumerate(written) if own)


@torch.inference_mode()
def generated(model: Any, tokenizer: Any, example: Example) -> bool:
    """The same by decoding."""
    for messages, wanted in answers(example):
        prompt = tokenizer.apply_chat_template(
            messages,
            tools=example.tools or None,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        output = model.generate(**prompt, max_new_tokens=400, do_sample=False)
        text = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        if text != wanted:
            return False
    return True


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent."""
    z = 1.959964
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + spread)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def evaluate(
    folder: Path, quantization: str, examples: list[Example], check: Any
) -> dict[str, dict[str, float]]:
    """Rows by task and language, and one for the demo's two roles together."""
    model, tokenizer = load(folder, quantization), AutoTokenizer.from_pretrained(folder)
    hits: dict[str, list[bool]] = defaultdict(list)
    start = last = time.monotonic()
    for done, example in enumerate(examples, 1):
        right = check(model, tokenizer, example)
        hits[f"{example.task}, {example.language}"].append(right)
        if "(" in example.task:
            hits["demo roles"].append(right)
        if time.monotonic() - last > 10 or done == len(examples):
            last = time.monotonic()
            print(f"  {quantization}: {done}/{len(examples)} in {last - start:.0f} s", flush=True)
    rows = {}
    for name, row in sorted(hits.items()):
        low, high = wilson(sum(row), len(row))
        rows[name] = {
            "n": len(row), "exact": round(100 * sum(row) / len(row), 1), "low": round(low, 1), "high": round(high, 1),
        }  # fmt: skip
    return rows


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The results as Markdown."""
    names = list(next(iter(results.values())))
    lines = [
        "| task, language | n | " + " | ".join(results) + " |",
        "|---|---:|" + "---:|" * len(results),
    ]
    for name in names:
        cells = [
            f"{r[name]['exact']} ({r[name]['low']}–{r[name]['high']})" for r in results.values()
        ]
        lines.append(
            f"| {name} | {next(iter(results.values()))[name]['n']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Evaluate, print the table, write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--count", type=int, default=150, help="held-out tickets")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, action="append")
    parser.add_argument("--generate", action="store_true", help="decode token by token (slower)")
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER / "evaluation.json")
    options = parser.parse_args()
    examples = heldout(options.count)
    check = generated if options.generate else likely
    results = {
        q: evaluate(options.model, q, examples, check)
        for q in options.quantization or QUANTIZATIONS
    }
    options.out.write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(table(results))


if __name__ == "__main__":
    main()
