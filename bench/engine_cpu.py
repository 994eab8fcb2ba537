"""Our engine beside transformers' ``generate`` on a CPU: the same weights, prompts and tokens.

    OMP_NUM_THREADS=1 python bench/engine_cpu.py
    python bench/engine_cpu.py --rounds 10 --models bundled

Rounds are interleaved and short, so a busy machine slows all sides alike. Two clocks: wall time,
and CPU time of the calling thread, which other processes disturb less (only meaningful with
OMP_NUM_THREADS=1, where that thread does all the work). Ratios are of CPU time then, of wall
time otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from slm_adapters.engine import weights
from slm_adapters.engine.decoder import Sampling
from slm_adapters.engine.scheduler import Patience

PROMPT, NEW, SHARED = 256, 32, 192
BUNDLED = Path(weights.__file__).parents[1] / "models" / "bundled"


def smollm2_shape() -> str:
    """Random weights of the SmolLM2-135M shape, with the bundled tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=2,
        pad_token_id=0, initializer_range=0.04,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(folder)
    return folder


def stock(path: str, quantization: str):
    """What a user of transformers loads."""
    source = weights.resolve(path, None, quantization, "bfloat16", "cpu", False)
    with weights.quiet(), weights.no_kernel_download():
        return weights._read_weights(source)


def ours(path: str, quantization: str):
    source = weights.resolve(path, None, quantization, "bfloat16", "cpu", False)
    return weights.load_model(source, "bench").decoder


class Clock:
    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def time(self, name: str, work, per: int = 1):
        wall, cpu = time.perf_counter(), time.thread_time()
        result = work()
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        self.wall.setdefault(name, []).append(wall / per * 1e3)
        self.cpu.setdefault(name, []).append(cpu / per * 1e3)
        return result


def generate(model, ids: torch.Tensor, count: int) -> list[int]:
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
        min_new_tokens=count, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def reply(decoder, prompt: list[int], count: int, clock: Clock | None = None) -> list[int]:
    clock = clock or Clock()
    start = lambda: decoder.start(prompt, Sampling(), Patience())  # noqa: E731
    generation = clock.time("prefill, ours", start)

    def decode() -> list[int]:
        tokens = [generation.choose()]
        for _ in range(count - 1):
            generation.advance(tokens[-1])
            tokens.append(generation.choose())
        return tokens

    return clock.time("token, ours", decode, count - 1)


def one_round(clock: Clock, model, decoder, seed: int) -> int:
    """Both sides once; returns how many of the tokens agree."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 4000, (1, PROMPT), generator=random)
    prompt = ids[0].tolist()
    # generate has no seam between prefill and decode: the same call with one token is the former.
    prefill = (
        clock.wall.setdefault("prefill, generate", []),
        clock.cpu.setdefault("prefill, generate", []),
    )
    clock.time("prefill, generate", lambda: generate(model, ids, 1))
    clock.time("whole, generate", lambda: generate(model, ids, 1 + NEW))
    for rows, per, whole in ((clock.wall, 0, "whole, generate"), (clock.cpu, 1, "whole, generate")):
        rows.setdefault("token, generate", []).append((rows[whole][-1] - prefill[per][-1]) / NEW)
    if decoder.prefixes is not None:
        decoder.prefixes.clear()
    tokens = reply(decoder, prompt, NEW + 1, clock)
    again = prompt[:SHARED] + torch.randint(10, 4000, (PROMPT - SHARED,), generator=random).tolist()
    clock.time("prefill, ours, 2nd call", lambda: decoder.start(again, Sampling(), Patience()))
    expected = generate(model, ids, NEW + 1)
    return next((i for i, (a, b) in enumerate(zip(tokens, expected)) if a != b), NEW + 1)


def report(title: str, clock: Clock, agree: list[int], by_cpu: bool) -> None:
    print(f"\n{title}: prompt {PROMPT}, {NEW} new tokens, ms: min / median / max")
    for name in clock.wall:
        if name.startswith("whole"):
            continue
        line = f"  {name:26s}"
        for label, rows in (("wall", clock.wall[name]), ("cpu", clock.cpu[name])):
            line += f"  {label} {min(rows):8.2f} /{statistics.median(rows):8.2f} /{max(rows):8.2f}"
        print(line)
    rows = clock.cpu if by_cpu else clock.wall
    for what in ("token", "prefill"):
        theirs, mine = rows[f"{what}, generate"], rows[f"{what}, ours"]
        print(
            f"  {what}: generate / ours = {min(theirs) / min(mine):.2f} (min), "
            f"{statistics.median(theirs) / statistics.median(mine):.2f} (median)"
        )
    first, second = rows["prefill, ours"], rows["prefill, ours, 2nd call"]
    print(f"  second call / first call: {statistics.median(second) / statistics.median(first):.2f}")
    print(f"  tokens until the first difference from generate, of {NEW + 1}: {agree}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=["bundled", "smollm2"])
    parser.add_argument("--quantization", nargs="+", default=["nf4", "none"])
    options = parser.parse_args()
    by_cpu = os.environ.get("OMP_NUM_THREADS") == "1"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()}")
    for name in options.models:
        path = str(BUNDLED) if name == "bundled" else smollm2_shape()
        for quantization in options.quantization:
            model, decoder = stock(path, quantization), ours(path, quantization)
            title = f"{name} {quantization} ({type(decoder.network).__name__})"
            one_round(Clock(), model, decoder, 999)
            clock = Clock()
            agree = [one_round(clock, model, decoder, seed) for seed in range(options.rounds)]
            report(title, clock, agree, by_cpu)


if __name__ == "__main__":
    main()
