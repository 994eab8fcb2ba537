"""Our engine on a CPU, beside transformers' ``generate`` and llama.cpp, on the same weights.

    python bench/engine_cpu.py                                  # every part: 10 to 15 minutes
    python bench/engine_cpu.py --parts stream --rounds 2        # one part, in a minute or two
    python bench/engine_cpu.py --parts llamacpp --threads 2 --keep out

parts
  stream    one stream and eight at once against ``generate``: a prompt of 256 tokens, 32 new ones
  role      time to the first token of a role's first call and of its second, 2,000 tokens of prompt
  adapters  eight streams with no LoRA adapter, with one, and with four mixed; and their memory
  llamacpp  one stream after a prompt of 512 tokens, and eight at once, against llama.cpp's server
            on q4_0 weights, in a process of its own; it needs: pip install xllamacpp gguf

Rounds are interleaved and short, so a busy machine slows all sides alike. The first is not
counted; then minimum, median and maximum are printed, and ratios of medians with their spread.
Two clocks: wall time, and the CPU time of the process that computes, which other processes disturb
less; --clock says which one the ratios are of. Weights are random, of the SmolLM2-135M shape:
speed does not depend on what they say.

``generate`` computes in the number format that the engine chose for this CPU. Where that is
float32, because the CPU does not multiply bfloat16, it also runs in bfloat16, as examples of
BitsAndBytesConfig have it, after a prompt of 8 tokens: emulation takes minutes for more.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from clocks import Clock
from llamacpp_peer import INSTALL, is_here, served, write_gguf

from slm_adapters.calls import Message
from slm_adapters.engine import loader, weights
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.engine.sampling import Sampling
from slm_adapters.errors import EmptyReplyError

PROMPT, LONG, SHORT, NEW, ROLE, ROWS = 256, 512, 8, 32, 2000, 8
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
        rows = [read(decoder, ids) for ids in several_ids(seed + 1)]
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

    for number in range(-1, options.rounds):
        now = clock if number >= 0 else Clock(options.clock)
        loaded.decoder.prefixes.clear()
        system = loaded.decode(random_ids(ROLE, number + 1))
        for name in ("first call", "second call"):
            question = Message("user", f"{name} {number}: where is my order?")
            request = ChatRequest((Message("system", system), question), max_tokens=1)
            now.time(name, lambda: first_token(engine, request))
    clock.report(
        f"{path.name} {quantization}: a role of {engine.count_tokens(request.messages)} prompt tokens"
    )
    clock.ratio("first token: second call / first call", "second call", "first call")


def first_token(engine, request: ChatRequest) -> None:
    # Random weights may end a reply with its first token.
    with contextlib.suppress(EmptyReplyError):
        engine.complete(request)


def adapters_part(path: Path, quantization: str, options) -> None:
    """Four roles with four adapters on one base: memory, and throughput of a mixed batch."""
    folders = [random_adapter(path, path.parent / f"role{n}", n) for n in range(4)]
    gc.collect()
    base = loader.load_engine(str(path), quantization=quantization, device="cpu")
    base.warm_up()
    # What a first answer brings along (the reply's vocabulary, work space) is the base's.
    first_token(base, ChatRequest((Message("user", "hi"),), max_tokens=1))
    gc.collect()
    before = resident()
    engines = [
        loader.load_engine(str(path), quantization=quantization, device="cpu", adapter=folder)
        for folder in folders
    ]
    for engine in engines:
        first_token(engine, ChatRequest((Message("user", "hi"),), max_tokens=1))
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


def llamacpp_part(path: Path, quantization: str, options) -> None:
    """One stream and eight at once, against llama.cpp's server on 4-bit weights."""
    if not is_here():
        print(f"\nllama.cpp is not here, so it was not measured: {INSTALL}")
        return
    gguf = write_gguf(path, path.parent / f"{path.name}-q4_0.gguf", "q4_0")
    engine = loader.load_engine(str(path), quantization=quantization, device="cpu")
    engine.warm_up()
    decoder, clock = engine._handle.loaded().decoder, Clock(options.clock)
    many = f"token of {ROWS} streams"
    with served(gguf, torch.get_num_threads(), ROWS, LONG + 2 * NEW) as peer:
        for seed in range(-1, options.rounds):
            now = clock if seed >= 0 else Clock(options.clock)
            prompt, prompts = random_ids(LONG, seed + 1), several_ids(seed + 1)
            decoder.prefixes.clear()
            one = now.time("prompt, ours", lambda: read(decoder, prompt))
            now.time("token, ours", lambda: write(decoder, [one], NEW), NEW)
            decoder.end(one)
            now.add("prompt, llama.cpp", *peer.read([prompt]))
            now.add("token, llama.cpp", *peer.write([prompt], NEW))
            rows = [read(decoder, ids) for ids in prompts]
            now.time(f"{many}, ours", lambda: write(decoder, rows, NEW), NEW * ROWS)
            peer.read(prompts)
            now.add(f"{many}, llama.cpp", *peer.write(prompts, NEW))
    size = gguf.stat().st_size / 1e6
    clock.report(f"{path.name}: prompt {LONG}, ours {quantization}, llama.cpp q4_0 ({size:.0f} MB)")
    for name in ("prompt", "token", many):
        clock.ratio(f"{name}: llama.cpp / ours", f"{name}, llama.cpp", f"{name}, ours")


def several_ids(seed: int) -> list[list[int]]:
    return [random_ids(64, 1000 * row + seed) for row in range(ROWS)]


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


PARTS = {
    "stream": stream_part, "role": role_part, "adapters": adapters_part, "llamacpp": llamacpp_part,
}  # fmt: skip

#: What a user of other engines types for the same figures; --keep leaves the files.
BY_HAND = """
The same by hand, with the files that --keep FOLDER leaves (commands of their projects, not run here):
  llama.cpp  llama-batched-bench -m FOLDER/smollm2-q4_0.gguf -t {threads} -npp {LONG} -ntg {NEW} -npl 1,{ROWS} -c 8192
  Ollama     echo 'FROM ./smollm2-q4_0.gguf' > FOLDER/Modelfile && ollama create smollm2-bench -f FOLDER/Modelfile
             OLLAMA_NUM_PARALLEL={ROWS} ollama serve, then: ollama run --verbose smollm2-bench
  vLLM       vllm bench latency --model FOLDER/smollm2 --input-len {LONG} --output-len {NEW} --batch-size {ROWS}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each part")
    parser.add_argument("--threads", type=int, help="of every side; else torch's choice")
    parser.add_argument("--models", nargs="+", default=["smollm2"], help="smollm2, bundled")
    parser.add_argument("--quantization", nargs="+", default=["nf4"], help="ours: nf4, none, auto")
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="of the ratios")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the models there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = torch.get_num_threads()
    print(
        f"torch {torch.__version__}, {threads} threads, load {os.getloadavg()}, "
        f"{torch.backends.cpu.get_cpu_capability()}, ratios of {options.clock} time"
    )
    with contextlib.ExitStack() as stack:
        place = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            path = bundled_copy(place) if name == "bundled" else smollm2_shape(place / "smollm2")
            for quantization in options.quantization:
                for part in options.parts:
                    began = time.monotonic()
                    PARTS[part](path, quantization, options)
                    print(f"  ({part} took {time.monotonic() - began:.0f} s)", flush=True)
                    loader.unload_all()
                    gc.collect()
    if "llamacpp" in options.parts:
        print(BY_HAND.format(threads=threads, LONG=LONG, NEW=NEW, ROWS=ROWS))


def bundled_copy(place: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, place / "bundled", dirs_exist_ok=True))


if __name__ == "__main__":
    main()
