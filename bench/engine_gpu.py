"""Our engine beside transformers on a CUDA GPU: the same random weights, prompts and tokens.

    python bench/engine_gpu.py
    python bench/engine_gpu.py --rounds 5 --json engine_gpu.json

Weights are random, of the Qwen2.5-3B shape, made on the GPU: speed does not depend on their
values. Rounds are interleaved; a ratio is one of medians. The floor of a step is the weights' bytes
over the bandwidth that a copy reaches. Greedy tokens of random weights are near ties, so closeness
is also shown as distances to float32 arithmetic on the same quantized weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from slm_adapters.engine.adapters import Adapter, Lora
from slm_adapters.engine.decoder import Decoder
from slm_adapters.engine.engine import Chunk
from slm_adapters.engine.patience import Patience
from slm_adapters.engine.sampling import Sampling
from slm_adapters.engine.scheduler import Scheduler
from slm_adapters.engine.ticket import Ticket

PROMPT, NEW, ROLE, QUESTION = 512, 128, 2000, 40
VOCABULARY = 151936
PEERS = {
    "llama.cpp": (
        "llama-bench",
        "llama-bench -m qwen2.5-3b-instruct-q4_k_m.gguf -p 512 -n 128 -fa 1",
    ),
    "Ollama": ("ollama", "ollama run qwen2.5:3b --verbose"),
    "vLLM": (
        "vllm",
        "vllm bench throughput --model Qwen/Qwen2.5-3B-Instruct --quantization bitsandbytes "
        "--input-len 512 --output-len 128 --num-prompts 32",
    ),
}


def model_of(layers: int, quantized: bool):
    """Random weights of the Qwen2.5-3B shape."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=2048, intermediate_size=11008, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=2, max_position_embeddings=32768,
        rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=None, eos_token_id=151645,
        pad_token_id=151643, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(before)
    if quantized:
        quantize(model)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def quantize(model) -> None:
    """nf4 as bitsandbytes lays it out; the head stays whole, as in transformers."""
    import bitsandbytes as bnb

    for name, old in list(model.named_modules()):
        if not isinstance(old, torch.nn.Linear) or name == "lm_head":
            continue
        codes, state = bnb.functional.quantize_4bit(old.weight.data, quant_type="nf4", blocksize=64)
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None,
            compute_dtype=torch.bfloat16, quant_type="nf4", device="meta",
        )  # fmt: skip
        new.weight = bnb.nn.Params4bit(
            codes, requires_grad=False, quant_state=state, bnb_quantized=True, quant_type="nf4"
        )
        new.quant_state = state
        if old.bias is not None:
            new.bias = old.bias
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
    gc.collect()
    torch.cuda.empty_cache()


class Counting:
    """A writer that takes ``limit`` tokens, whatever they are."""

    banned = ()

    def __init__(self, limit: int) -> None:
        self.limit, self.tokens = limit, []

    @property
    def ended(self) -> bool:
        return len(self.tokens) >= self.limit

    def allowed(self):
        return None

    def accept(self, token: int) -> bool:
        self.tokens.append(token)
        return True

    def read(self, token: int) -> list[Chunk]:
        return [Chunk(text="x")]


def ask(scheduler: Scheduler, prompts, limit: int, adapters=None):
    """All prompts at one moment through the engine's worker: tokens, first-token times, seconds."""
    start, firsts, done, tickets = time.perf_counter(), [], [], []
    for number, prompt in enumerate(prompts):
        end = threading.Event()
        seen = []

        def deliver(piece, seen=seen, end=end) -> None:
            if not seen:
                seen.append(1)
                firsts.append(time.perf_counter() - start)
            if piece is None:
                end.set()

        adapter = adapters[number] if adapters else None
        ticket = Ticket(
            Counting(limit), prompt, Sampling(), limit, Patience(None), deliver, adapter
        )
        tickets.append(ticket)
        done.append(end)
        scheduler.submit(ticket)
    for end, ticket in zip(done, tickets):
        assert end.wait(300)
        assert ticket.error is None, ticket.error
    return [ticket.writer.tokens for ticket in tickets], firsts, time.perf_counter() - start


def prompts_of(count: int, length: int, seed: int):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(10, 150000, (count, length), generator=random).tolist()


def generate(model, prompt, count: int):
    ids = torch.tensor([prompt], device="cuda")
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
        min_new_tokens=count, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    torch.cuda.synchronize()
    return out[0, ids.shape[1] :].tolist()


def generate_batch(model, prompts, count: int):
    """transformers' continuous batching."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    outputs = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    torch.cuda.synchronize()
    return [list(output.generated_tokens) for output in outputs.values()]


def clocked(work):
    torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def bandwidth() -> float:
    """Bytes a second of a device-to-device copy, read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        target.copy_(source)
    torch.cuda.synchronize()
    return 2 * 20 * source.nbytes / (time.perf_counter() - start)


def agreeing(ours, theirs) -> int:
    return next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), len(ours))


class Report:
    def __init__(self) -> None:
        self.rows = {}

    def add(self, name: str, value: float) -> None:
        self.rows.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return statistics.median(self.rows[name])

    def line(
        self, name: str, base: str | None = None, floor: float | None = None, digits=1
    ) -> None:
        values = self.rows.get(name)
        if not values:
            print(f"  {name:44s} not run")
            return
        text = f"  {name:44s} {self.median(name):9.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"
        if base in self.rows:
            text += f"  {self.median(name) / self.median(base):6.2f}x"
        if floor:
            text += f"  {100 * self.median(name) / floor:5.1f} % of the floor"
        print(text, flush=True)


def one_stream(model, scheduler, report: Report, rounds: int) -> list[int]:
    agree = []
    for number in range(rounds):
        [prompt] = prompts_of(1, PROMPT, number)
        theirs, seconds = clocked(lambda: generate(model, prompt, NEW))
        report.add("1 stream: generate", NEW / seconds)
        clear(scheduler)
        ([ours], [first], seconds) = ask(scheduler, [prompt], NEW)
        report.add("1 stream: ours", NEW / seconds)
        report.add("1 stream: ours, after the first token", (NEW - 1) / (seconds - first))
        agree.append(agreeing(ours, theirs))
    return agree


def many_streams(model, scheduler, report: Report, rounds: int, count: int) -> None:
    for number in range(rounds):
        prompts = prompts_of(count, PROMPT, 100 + number)
        if model is not None:
            try:
                replies, seconds = clocked(lambda: generate_batch(model, prompts, NEW))
                tokens = sum(map(len, replies))
                report.add(f"{count} streams: generate_batch", tokens / seconds)
            except Exception as error:
                print(f"  generate_batch failed: {error!r}"[:300])
                model = None
        clear(scheduler)
        replies, _, seconds = ask(scheduler, prompts, NEW)
        report.add(f"{count} streams: ours", sum(map(len, replies)) / seconds)


class Named:
    """Adapters by name, of random matrices on all linear layers."""

    def __init__(self, model, names, rank: int = 16) -> None:
        self._adapters = {}
        for name in names:
            layers = {}
            for path, module in model.named_modules():
                if path.endswith("_proj"):
                    sizes = (rank, module.in_features), (rank, module.out_features)
                    pair = [torch.randn(s, device="cuda").to(torch.bfloat16) * 0.01 for s in sizes]
                    layers[path] = Lora(*pair)
            self._adapters[name] = Adapter(name, name, rank, 0, layers)

    def find(self, key: str) -> Adapter:
        return self._adapters[key]


def adapters_mixed(scheduler, report: Report, rounds: int, count: int) -> None:
    kinds = {
        "no adapter": [None] * count,
        "one adapter": ["a"] * count,
        "four adapters, mixed": [("a", "b", "c", "d")[i % 4] for i in range(count)],
    }
    for number in range(rounds + 1):
        prompts = prompts_of(count, 64, 500 + number)
        for kind, names in kinds.items():
            clear(scheduler)
            replies, _, seconds = ask(scheduler, prompts, NEW, names)
            if number:
                report.add(f"{count} streams of 64: {kind}", sum(map(len, replies)) / seconds)


def role_prefix(scheduler, report: Report, rounds: int) -> None:
    border = 151644
    for number in range(rounds + 1):
        [role] = prompts_of(1, ROLE - 1, 200 + number)
        first, second = prompts_of(2, QUESTION, 300 + number)
        clear(scheduler)
        times = [ask(scheduler, [[*role, border, *q]], 1)[1][0] * 1e3 for q in (first, second)]
        if number:
            report.add("role of 2,000 tokens: first call, ms", times[0])
            report.add("role of 2,000 tokens: second call, ms", times[1])
            report.add("role of 2,000 tokens: first / second", times[0] / times[1])


def clear(scheduler: Scheduler) -> None:
    if scheduler.decoder.prefixes is not None:
        scheduler.decoder.prefixes.clear()


def closeness(model, network, layers: int) -> list[str]:
    """Distances of last logits to float32 arithmetic on the same weights, theirs and ours."""
    import copy

    from bitsandbytes.functional import dequantize_4bit
    from transformers import Qwen2ForCausalLM

    from slm_adapters.engine.network import TransformersNetwork

    with torch.device("cuda"):
        exact = Qwen2ForCausalLM(copy.deepcopy(model.config)).float().eval()
    state = {}
    for name, module in model.named_modules():
        for kind in ("weight", "bias"):
            value = getattr(module, kind, None)
            if isinstance(value, torch.Tensor):
                quantized = getattr(value, "quant_state", None)
                if quantized is not None:
                    dtype, quantized.dtype = quantized.dtype, torch.float32
                    value = dequantize_4bit(value.data, quantized)
                    quantized.dtype = dtype
                state[f"{name}.{kind}"] = value.data.float()
    exact.load_state_dict(state, strict=False)
    truth, own = TransformersNetwork(exact), TransformersNetwork(model)
    lines = []
    with torch.inference_mode():
        for length, steps in ((64, 8), (PROMPT, 8)):
            [prompt] = prompts_of(1, length + steps, 400 + length)
            rows = {"transformers": [], "ours": []}
            caches = [net.new_cache([]) for net in (truth, own, network)]
            results = [
                net.step(prompt[:length], c) for net, c in zip((truth, own, network), caches)
            ]
            for token in [None, *prompt[length:]]:
                if token is not None:
                    results = [
                        net.decode([token], [c])[0] for net, c in zip((truth, own, network), caches)
                    ]
                wide = [r.float() for r in results]
                for name, r in zip(rows, wide[1:]):
                    rows[name].append(float((r - wide[0]).norm() / wide[0].norm()))
            text = ", ".join(f"{n} {statistics.mean(v):.4f}" for n, v in rows.items())
            lines.append(f"prompt {length}, {steps} steps: {text}")
    return lines


def until_fast(scheduler: Scheduler) -> None:
    """Until the kernels are compiled and in use."""
    from slm_adapters.engine.cuda_llama import CudaLlama

    until = time.perf_counter() + 300
    while not isinstance(scheduler.decoder.network, CudaLlama):
        if time.perf_counter() > until:
            sys.exit("the CUDA forward did not come")
        ask(scheduler, [[5, 6, 7]], 1)
        time.sleep(0.02)


def one_start(layers: int) -> None:
    """A fresh process: seconds from loaded weights to a first token, and to the fast forward."""
    model = model_of(layers, quantized=True)
    [prompt] = prompts_of(1, PROMPT, 999)
    torch.cuda.synchronize()
    start = time.perf_counter()
    scheduler = Scheduler(Decoder(model, borders=[151644], prefix_budget=1 << 30))
    ask(scheduler, [prompt], 1)
    token = time.perf_counter()
    until_fast(scheduler)
    fast = time.perf_counter()
    print(json.dumps({"first token": token - start, "fast forward": fast - start}))


def starts(report: Report, rounds: int) -> None:
    """Each round with nothing compiled before, then once more."""
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in ("nothing compiled", "compiled before"):
                command = [sys.executable, __file__, "--one-start"]
                environment = {**os.environ, "TRITON_CACHE_DIR": folder}
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                )
                for name, seconds in json.loads(done.stdout.splitlines()[-1]).items():
                    report.add(f"{kind}: {name}, s", seconds)


def peers() -> None:
    print("\nPeers a user would pick, with the same prompt and reply lengths:")
    for name, (program, command) in PEERS.items():
        found = shutil.which(program)
        print(f"  {name}: {command}" + ("" if found else "   (not installed here)"))
        if found and name == "llama.cpp" and Path("qwen2.5-3b-instruct-q4_k_m.gguf").exists():
            subprocess.run(command.split(), check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", nargs="+", default=["start", "one", "many", "role", "close", "adapters"]
    )
    parser.add_argument("--one-start", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA GPU here")
    import transformers

    if options.one_start:
        one_start(options.layers)
        return
    device = torch.cuda.get_device_name(0)
    print(
        f"{device}, torch {torch.__version__}, transformers {transformers.__version__}", flush=True
    )
    speed = bandwidth()
    model = model_of(options.layers, quantized=True)
    held = base = torch.cuda.memory_allocated()
    weights = model.get_memory_footprint()
    floor = speed / weights
    print(
        f"copy {speed / 1e12:.2f} TB/s, weights {weights / 1e9:.2f} GB, floor {floor:.0f} tokens/s"
    )
    [prompt] = prompts_of(1, PROMPT, 999)
    named = Named(model, "abcd")
    lora = torch.cuda.memory_allocated() - held
    held += lora
    scheduler = Scheduler(Decoder(model, borders=[151644], prefix_budget=1 << 30, adapters=named))
    until_fast(scheduler)
    network = scheduler.decoder.network
    clear(scheduler)
    extra = torch.cuda.memory_allocated() - held
    print(f"{type(network).__name__}: {extra / 1e6:.0f} MB beside weights and adapters", flush=True)
    report, agree = Report(), []
    if "start" in options.only:
        starts(report, options.rounds)
    ask(scheduler, [prompt], 8)
    ask(scheduler, prompts_of(options.streams, PROMPT, 998), 24)
    if "one" in options.only:
        generate(model, prompt, 4)
        agree = one_stream(model, scheduler, report, options.rounds)
    if "many" in options.only:
        many_streams(model, scheduler, report, options.rounds, options.streams)
    if "role" in options.only:
        role_prefix(scheduler, report, options.rounds)
    if "adapters" in options.only:
        adapters_mixed(scheduler, report, options.rounds, options.streams)
    print(
        f"\nnf4, prompt {PROMPT}, {NEW} new tokens, tokens/s: median (min..max) of {options.rounds}"
    )
    report.line("1 stream: generate", "1 stream: generate", floor)
    report.line("1 stream: ours", "1 stream: generate", floor)
    report.line("1 stream: ours, after the first token", "1 stream: generate", floor)
    batch = f"{options.streams} streams: generate_batch"
    report.line(batch, batch)
    report.line(f"{options.streams} streams: ours", batch)
    for name in ("first call, ms", "second call, ms", "first / second"):
        report.line(f"role of 2,000 tokens: {name}")
    for kind in ("nothing compiled", "compiled before"):
        for name in ("first token", "fast forward"):
            report.line(f"{kind}: {name}, s", digits=2)
    one = f"{options.streams} streams of 64: one adapter"
    for kind in ("no adapter", "one adapter", "four adapters, mixed"):
        report.line(f"{options.streams} streams of 64: {kind}", one)
    print(
        f"  memory of four roles: base {base / 1e9:.2f} GB, adapters {lora / 1e9:.2f} GB, "
        f"the engine beside them {extra / 1e9:.2f} GB: {(base + extra) / base:.2f}x + adapters"
    )
    if agree:
        print(f"  greedy tokens until the first that differs from generate's, of {NEW}: {agree}")
    if "close" in options.only:
        print("  distance of logits to float32 arithmetic on the same nf4 weights:")
        for line in closeness(model, network, options.layers):
            print(f"    {line}")
    peers()
    if options.json:
        options.json.write_text(json.dumps({"device": device, "floor": floor, **report.rows}))


if __name__ == "__main__":
    main()
