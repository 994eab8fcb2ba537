"""Our engine beside transformers' ``generate`` on a CPU: the same weights, prompts and tokens.

    python bench/engine_cpu.py                  # every part, the SmolLM2-135M shape
    python bench/engine_cpu.py --parts stream --models bundled --rounds 10

Rounds are interleaved and short, so a busy machine slows all sides alike. Two clocks: wall time,
and the CPU time of this process, which other processes disturb less; ``--clock`` says which one
the ratios are of. Weights are random: speed does not depend on what they say.

``generate`` computes in the number format that the engine chose for this CPU. Where that is
float32, because the CPU does not multiply bfloat16, it also runs in bfloat16, as examples of
BitsAndBytesConfig have it, after a prompt of 8 tokens: emulation takes minutes for more.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from slm_adapters.calls import Message
from slm_adapters.engine import loader, weights
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.engine.sampling import Sampling
from slm_adapters.errors import EmptyReplyError

PROMPT, SHORT, NEW, ROLE, ROWS = 256, 8, 32, 2000, 8
BUNDLED = Path(weights.__file__).parents[1] / "models" / "bundled"


def smollm2_shape(folder: Path) -> Path:
    """Random weights of the SmolLM2-135M shape, with the bundled tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

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


def random_adapter(base: Path, folder: Path, seed: int) -> Path:
    """Rank 16 on every linear layer, as PEFT writes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    tuned.save_pretrained(folder)
    return folder


def stock(path: Path, quantization: str, dtype: str):
    """What a user of transformers loads."""
    source = weights.resolve(str(path), None, quantization, dtype, "cpu", False)
    with weights.quiet(), weights.no_kernel_download():
        return weights._read_weights(source)


class Clock:
    """Milliseconds by name, on both clocks."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.rows: dict[str, dict[str, list[float]]] = {"wall": {}, "cpu": {}}

    def add(self, name: str, wall: float, cpu: float) -> None:
        self.rows["wall"].setdefault(name, []).append(wall * 1e3)
        self.rows["cpu"].setdefault(name, []).append(cpu * 1e3)

    def time(self, name: str, work, per: int = 1):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.add(name, (time.perf_counter() - wall) / per, (time.process_time() - cpu) / per)
        return result

    def median(self, name: str) -> float:
        return statistics.median(self.rows[self.of][name])

    def report(self, title: str) -> None:
        print(f"\n{title}; ms: min / median / max")
        for name in self.rows["wall"]:
            line = f"  {name:38s}"
            for label in ("wall", "cpu"):
                row = self.rows[label][name]
                line += f"  {label} {min(row):8.2f} /{statistics.median(row):8.2f} /{max(row):8.2f}"
            print(line, flush=True)

    def ratio(self, text: str, slow: str, fast: str, times: float = 1.0) -> None:
        """Of medians; the spread is the slowest against the fastest round."""
        a, b = self.rows[self.of][slow], self.rows[self.of][fast]
        middle = statistics.median(a) / statistics.median(b) * times
        print(
            f"  {text}: {middle:.2f} ({min(a) / max(b) * times:.2f}..{max(a) / min(b) * times:.2f})"
        )


class Ticks:
    """A logits processor that notes when each step's logits were there."""

    def __init__(self) -> None:
        self.marks = [(time.perf_counter(), time.process_time())]

    def __call__(self, ids, logits):
        self.marks.append((time.perf_counter(), time.process_time()))
        return logits


def generate(model, ids: torch.Tensor, count: int, clock: Clock, name: str) -> list[int]:
    ticks = Ticks()
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
        min_new_tokens=count, do_sample=False, eos_token_id=None, logits_processor=[ticks],
    )  # fmt: skip
    (w0, c0), (w1, c1), (w2, c2) = ticks.marks[0], ticks.marks[1], ticks.marks[-1]
    clock.add(f"prefill, {name}", w1 - w0, c1 - c0)
    clock.add(f"token, {name}", (w2 - w1) / (count - 1), (c2 - c1) / (count - 1))
    return out[0, ids.shape[1] :].tolist()


def read(decoder, prompt: list[int], adapter: str | None = None):
    generation = decoder.begin(prompt, Sampling(), adapter)
    with decoder.computing():
        while not generation.is_read:
            decoder.read(generation)
    generation.logits = generation.logits.clone()
    return generation


def write(decoder, rows: list, count: int) -> list[list[int]]:
    written: list[list[int]] = []
    with decoder.computing():
        for _ in range(count):
            written.append(decoder.choose(rows))
            decoder.advance(rows, written[-1])
    return [list(row) for row in zip(*written)]


def random_ids(length: int, seed: int) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(10, 4000, (length,), generator=random).tolist()


def stream_part(path: Path, quantization: str, options) -> None:
    """One stream, and eight at once, against ``generate``."""
    engine = loader.load_engine(str(path), quantization=quantization, device="cpu")
    engine.warm_up()
    loaded = engine._handle.loaded()
    decoder, own = loaded.decoder, str(loaded.model.dtype).removeprefix("torch.")
    models = {own: stock(path, quantization, own)}
    if own == "float32":
        models["bfloat16"] = stock(path, quantization, "bfloat16")
    clock, agree = Clock(options.clock), []
    for seed in range(-1, options.rounds):
        now = clock if seed >= 0 else Clock(options.clock)
        prompt = random_ids(PROMPT, seed + 1)
        said = generate(models[own], torch.tensor([prompt]), 1 + NEW, now, f"generate {own}")
        if "bfloat16" != own:
            short = torch.tensor([prompt[:SHORT]])
            generate(models["bfloat16"], short, 5, now, f"generate bfloat16 (prompt {SHORT})")
        decoder.prefixes.clear()
        generation = now.time("prefill, ours", lambda: read(decoder, prompt))
        tokens = now.time("token, ours", lambda: write(decoder, [generation], NEW)[0], NEW)
        decoder.end(generation)
        prompts = [random_ids(64, 1000 * row + seed + 1) for row in range(ROWS)]
        rows = [read(decoder, prompt) for prompt in prompts]
        now.time(f"token of {ROWS} streams, ours", lambda: write(decoder, rows, NEW), NEW * ROWS)
        agree.append(next((i for i, (a, b) in enumerate(zip(tokens, said)) if a != b), NEW))
    clock.report(
        f"{path.name} {quantization} ({type(decoder.network).__name__}, {own}): "
        f"prompt {PROMPT}, {NEW} new tokens"
    )
    clock.ratio(f"prefill: generate {own} / ours", f"prefill, generate {own}", "prefill, ours")
    for name in [name for name in clock.rows["wall"] if name.startswith("token, generate")]:
        side = name.removeprefix("token, ")
        clock.ratio(f"one stream: {side} / ours", name, "token, ours")
        many = f"token of {ROWS} streams, ours"
        clock.ratio(f"{ROWS} at once: {side}, one after another / ours", name, many)
    print(f"  tokens until the first difference from generate, of {NEW}: {agree[1:]}")


def role_part(path: Path, quantization: str, options) -> None:
    """Time to the first token of a role's first call and of its second, through the engine."""
    engine = loader.load_engine(str(path), quantization=quantization, device="cpu")
    engine.warm_up()
    loaded, clock = engine._handle.loaded(), Clock(options.clock)

    def first_token(request: ChatRequest) -> None:
        # Random weights may end a reply with its first token.
        with contextlib.suppress(EmptyReplyError):
            engine.complete(request)

    for number in range(-1, options.rounds):
        now = clock if number >= 0 else Clock(options.clock)
        loaded.decoder.prefixes.clear()
        system = loaded.decode(random_ids(ROLE, number + 1))
        for name in ("first call", "second call"):
            question = Message("user", f"{name} {number}: where is my order?")
            request = ChatRequest((Message("system", system), question), max_tokens=1)
            now.time(name, lambda: first_token(request))
    clock.report(
        f"{path.name} {quantization}: a role of {engine.count_tokens(request.messages)} prompt tokens"
    )
    clock.ratio("first token: second call / first call", "second call", "first call")


def adapters_part(path: Path, quantization: str, options) -> None:
    """Four roles with four adapters on one base: memory, and throughput of a mixed batch."""
    folders = [random_adapter(path, path.parent / f"role{n}", n) for n in range(4)]
    gc.collect()
    base = loader.load_engine(str(path), quantization=quantization, device="cpu")
    base.warm_up()
    before = resident()
    engines = [
        loader.load_engine(str(path), quantization=quantization, device="cpu", adapter=folder)
        for folder in folders
    ]
    for engine in engines:
        engine.complete(ChatRequest((Message("user", "hi"),), max_tokens=1))
    gc.collect()
    info = loader.loaded_models()[0]
    added = sum(adapter.nbytes for adapter in info.adapters)
    grown = resident() - before
    print(
        f"\n{path.name} {quantization}: base {info.nbytes / 1e6:.0f} MB, 4 adapters {added / 1e6:.0f} MB"
    )
    print(
        f"  the process grew by {grown / 1e6:.0f} MB with them, of at most {(info.nbytes * 0.1 + added) / 1e6:.0f}"
    )
    loaded = base._handle.loaded()
    decoder, clock = loaded.decoder, Clock(options.clock)
    keys = [loaded.adapters.load(folder).key for folder in folders]
    for seed in range(-1, options.rounds):
        now = clock if seed >= 0 else Clock(options.clock)
        for name, used in (
            ("no adapter", [None] * ROWS), ("one adapter", keys[:1] * ROWS), ("four adapters", keys * (ROWS // 4)),
        ):  # fmt: skip
            rows = [read(decoder, random_ids(64, row), key) for row, key in enumerate(used)]
            now.time(
                f"token of {ROWS} streams, {name}", lambda: write(decoder, rows, NEW), NEW * ROWS
            )
    clock.report(f"{path.name} {quantization}: adapters of rank 16 on all linear layers")
    one, four = (f"token of {ROWS} streams, {name}" for name in ("one adapter", "four adapters"))
    clock.ratio("throughput: four adapters mixed / one adapter", one, four)
    clock.ratio("throughput: one adapter / none", f"token of {ROWS} streams, no adapter", one)


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PARTS = {"stream": stream_part, "role": role_part, "adapters": adapters_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    parser.add_argument("--quantization", nargs="+", default=["nf4"])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, ratios of {options.clock} time"
    )
    with tempfile.TemporaryDirectory() as place:
        for name in options.models:
            path = BUNDLED if name == "bundled" else smollm2_shape(Path(place) / "smollm2")
            for quantization in options.quantization:
                for part in options.parts:
                    PARTS[part](path, quantization, options)
                    loader.unload_all()
                    gc.collect()


if __name__ == "__main__":
    main()
