"""Train the bundled model from scratch on generated tasks.

    python examples/bundled_slm/train.py --minutes 9

Examples are generated while training, never twice. The loss covers what the assistant writes and
nothing else. In the last part of the run the linear layers have their weights as nf4 would store
them, so that 4-bit loading costs no accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from chat import Example, segments
from general import general_example
from tasks import demo_example, lookup_exact, triage_exact
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaConfig, LlamaForCausalLM

from slm_adapters.demo.tickets import generate

MODEL_FOLDER = Path(__file__).parents[2] / "src" / "slm_adapters" / "models" / "bundled"
WIDTHS = (192, 256, 320, 384, 512, 768, 1024, 2048)
IGNORED = -100
# The sixteen values of nf4 (bitsandbytes), as fractions of a block's largest magnitude.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64


def configuration(tokenizer: Tokenizer) -> LlamaConfig:
    """The architecture; widths are multiples of 64, as nf4 on a CPU needs them."""
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=512,
        intermediate_size=896,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=WIDTHS[-1],
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id("<|pad|>"),
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
    )


@contextmanager
def nf4_weights(matrices: list[nn.Parameter], active: bool) -> Iterator[None]:
    """Within the block the matrices have the values that nf4 stores.

    Gradients taken there are applied to the full-precision values: the straight-through estimate.
    """
    if not active:
        yield
        return
    kept = [matrix.detach().clone() for matrix in matrices]
    with torch.no_grad():
        for matrix in matrices:
            matrix.copy_(as_nf4(matrix))
    try:
        yield
    finally:
        with torch.no_grad():
            for matrix, value in zip(matrices, kept, strict=True):
                matrix.copy_(value)


def as_nf4(weight: Tensor) -> Tensor:
    """The weight after a round trip through nf4 blocks."""
    values = torch.tensor(NF4, device=weight.device)
    blocks = weight.to(torch.bfloat16).float().reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    nearest = torch.bucketize(blocks / scale, (values[1:] + values[:-1]) / 2)
    return (values[nearest] * scale).reshape(weight.shape)


def new_model(config: LlamaConfig) -> LlamaForCausalLM:
    """A fresh model; what writes to the residual stream starts small."""
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data /= (2 * config.num_hidden_layers) ** 0.5
    return model


def encoded(tokenizer: Tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Token ids and labels of one example; only the assistant's tokens have labels."""
    ids: list[int] = []
    labels: list[int] = []
    for text, written in segments(example.messages, example.tools):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        ids += tokens
        labels += tokens if written else [IGNORED] * len(tokens)
    return ids, labels


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches of examples of similar length, about ``tokens`` tokens each."""

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens, self.seed = tokens, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{worker.id if worker else 0}")
        tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
        waiting: dict[int, list[tuple[list[int], list[int]]]] = defaultdict(list)
        while True:
            example = (demo_example if rng.random() < 0.5 else general_example)(rng, "train")
            ids, labels = encoded(tokenizer, example)
            width = next((w for w in WIDTHS if len(ids) <= w), None)
            if width is None:
                continue
            waiting[width].append((ids, labels))
            if len(waiting[width]) * width >= self.tokens:
                yield padded(waiting.pop(width), width)


def padded(rows: list[tuple[list[int], list[int]]], width: int) -> tuple[Tensor, Tensor]:
    """Rows filled up on the right; causal attention never looks there."""
    ids = torch.zeros(len(rows), width, dtype=torch.int16)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.int16)
    for i, (row, wanted) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int16)
        labels[i, : len(row)] = torch.tensor(wanted, dtype=torch.int16)
    return ids, labels


def wanted_logits(
    model: LlamaForCausalLM, ids: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits where the assistant writes, the tokens to write there, and the rows they belong to."""
    hidden = model.model(input_ids=ids.long(), use_cache=False).last_hidden_state
    after = labels[:, 1:].long()
    rows, columns = (after != IGNORED).nonzero(as_tuple=True)
    return model.lm_head(hidden[rows, columns]), after[rows, columns], rows


def heldout_batches(
    tokenizer: Tokenizer, count: int, device: str
) -> list[tuple[list[str], Tensor, Tensor]]:
    """Held-out examples with their task names."""
    rng = random.Random(11)
    groups: dict[int, list[tuple[str, list[int], list[int]]]] = defaultdict(list)
    tickets = generate(count, seed=5, split="heldout")
    examples = [
        f(rng, t, s)
        for t in tickets
        for f in (triage_exact, lookup_exact)
        for s in ("crew", "graph")
    ]
    examples += [general_example(rng, "heldout") for _ in range(count * 3)]
    for example in examples:
        ids, labels = encoded(tokenizer, example)
        width = next(w for w in WIDTHS if len(ids) <= w)
        groups[width].append((f"{example.task} {example.language}", ids, labels))
    batches = []
    for width, group in groups.items():
        for start in range(0, len(group), 128):
            part = group[start : start + 128]
            ids, labels = padded([(i, w) for _, i, w in part], width)
            batches.append(([task for task, _, _ in part], ids.to(device), labels.to(device)))
    return batches


@torch.no_grad()
def exact(
    model: LlamaForCausalLM, batches: list[tuple[list[str], Tensor, Tensor]], device: str
) -> dict[str, float]:
    """Share of examples per task in which every token is the most likely one."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for names, ids, labels in batches:
        # Compiling for these shapes would take longer than running them.
        with torch.compiler.set_stance("force_eager"), torch.autocast(device, torch.bfloat16):
            logits, wanted, rows = wanted_logits(model, ids, labels)
        wrong = set(rows[logits.argmax(-1) != wanted].tolist())
        for i, name in enumerate(names):
            hits[name].append(i not in wrong)
    return {name: round(100 * sum(h) / len(h), 1) for name, h in sorted(hits.items())}


def save(model: LlamaForCausalLM, folder: Path, shard: str) -> None:
    """Write bf16 weights."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(
        {
            k.replace("_orig_mod.", ""): v.to(torch.bfloat16).cpu()
            for k, v in model.state_dict().items()
        }
    )
    copy.generation_config.do_sample = False
    copy.save_pretrained(folder, max_shard_size=shard)


def optimizers(
    model: LlamaForCausalLM, matrices: list[nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the embedding and the norms."""
    fused = next(model.parameters()).is_cuda
    if not fused:  # Muon's extra products are what a CPU is short of
        return [torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]
    known = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused),
    ]


def train(options: argparse.Namespace) -> LlamaForCausalLM:
    """The whole run, stopped by the clock."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(str(MODEL_FOLDER / "tokenizer.json"))
    loader = DataLoader(
        Batches(options.tokens, options.seed), batch_size=None, num_workers=options.workers,
        prefetch_factor=8 if options.workers else None, pin_memory=device == "cuda",
    )  # fmt: skip
    feed = iter(loader)
    model = new_model(configuration(tokenizer)).to(device)
    if options.start:
        model.load_state_dict(
            LlamaForCausalLM.from_pretrained(options.start).to(torch.float32).state_dict()
        )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}", flush=True)
    if options.compile and device == "cuda":
        torch._dynamo.config.suppress_errors = True  # slower is better than stopped
        for layer in model.model.layers:
            layer.compile(dynamic=True)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    steppers = optimizers(model, matrices, options.rate)
    tests = heldout_batches(tokenizer, options.tests, device)
    start, seen, step, report, losses = time.monotonic(), 0, 0, 0.0, []
    options.out.mkdir(parents=True, exist_ok=True)
    while (elapsed := time.monotonic() - start) < options.minutes * 60:
        done = elapsed / (options.minutes * 60)
        # Warm-up, plateau, then down to zero over the second half.
        scale = min(1.0, (step + 1) / options.warmup, max(0.0, (1 - done) / 0.55))
        quantized = done > options.nf4_from
        ids, labels = (t.to(device, non_blocking=True) for t in next(feed))
        with nf4_weights(matrices, quantized):
            with torch.autocast(device, torch.bfloat16):
                logits, wanted, _ = wanted_logits(model, ids, labels)
                loss = functional.cross_entropy(logits.float(), wanted)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = options.rate * scale
            stepper.step()
            stepper.zero_grad(set_to_none=True)
        seen, step = seen + ids.numel(), step + 1
        losses.append(loss.detach())
        if elapsed - report > options.every:
            report = elapsed
            mean = torch.stack(losses).mean().item()
            losses = []
            print(
                f"{elapsed:4.0f} s, step {step}, {seen / 1e6:.0f}M tokens, loss {mean:.4f}",
                flush=True,
            )
            if step > options.warmup:
                with nf4_weights(matrices, quantized):
                    print("    ", exact(model, tests, device), flush=True)
                save(model, options.out, options.shard)
    save(model, options.out, options.shard)
    summary: dict[str, Any] = {
        "steps": step,
        "tokens": seen,
        "seconds": round(time.monotonic() - start),
        "device": device,
    }
    for quantized in (False, True):
        with nf4_weights(matrices, quantized):
            summary["nf4" if quantized else "bf16"] = exact(model, tests, device)
    (options.out / "training.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary), flush=True)
    return model


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--start", type=Path, help="continue from these weights")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--tokens", type=int, default=65_536, help="tokens per step, padding included"
    )
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument(
        "--nf4-from", type=float, default=0.7, help="fraction of the run before nf4"
    )
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--tests", type=int, default=300, help="held-out tickets for the reports")
    parser.add_argument("--every", type=float, default=45.0, help="seconds between reports")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pays from minutes on",
    )
    parser.add_argument("--shard", default="40MB", help="largest weight file")
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
