"""What a grammar costs a step on a CPU: SmolLM2-135M's shape and vocabulary size, random weights.

    OMP_NUM_THREADS=1 python bench/grammar_cpu.py
    OMP_NUM_THREADS=1 python bench/grammar_cpu.py --rounds 40 --quantization nf4

One reply after another is written under a grammar, each for another tool call. Every step is
measured in its parts, in CPU time of the thread that does all the work: the forward and the free
choice (what a step costs anyway), and what the grammar adds (following the token, the mask, the
masked choice beyond the free one). The ratio is per reply; spread is over replies. The vocabulary
is learnt from Python's own library, since no tokenizer of that size is in the repository.
"""

from __future__ import annotations

import argparse
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path

import torch

from slm_adapters.calls import Message, Tool
from slm_adapters.engine import weights
from slm_adapters.engine.constraint import Constraint, Plan, Thinking
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.engine.sampling import Sampling

VOCABULARY = 49152
TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TOOL = Tool(
    "book_table",
    "Book a table.",
    {
        "type": "object",
        "properties": {
            "restaurant": {"type": "string", "maxLength": 60},
            "guests": {"type": "integer", "minimum": 1, "maximum": 20},
            "when": {"type": "string", "format": "date-time"},
            "area": {"enum": ["inside", "terrace", "bar"]},
            "wishes": {
                "type": "array",
                "items": {"type": "string", "maxLength": 40},
                "maxItems": 3,
            },
            "contact": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "phone": {"type": "string", "pattern": "^[0-9]{6,12}$"},
                },
                "required": ["name"],
            },
        },
        "required": ["restaurant", "guests", "when", "wishes", "contact"],
    },
)


def tokenizer():
    """A byte-level BPE of SmolLM2's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    bpe.train_from_iterator((path.read_text(errors="replace") for path in files), trainer)
    missing = VOCABULARY - bpe.get_vocab_size()
    bpe.add_tokens([f" learnt{index}" for index in range(missing)])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    whole.chat_template = TEMPLATE
    return whole


def load(quantization: str):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=2,
        pad_token_id=0, initializer_range=0.04,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    source = weights.resolve(folder, None, quantization, "bfloat16", "cpu", False)
    return weights.load_model(source, "bench")


class Parts:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, work):
        start = time.thread_time()
        result = work()
        self.seconds.setdefault(name, []).append(time.thread_time() - start)
        return result

    def total(self, *names: str) -> float:
        return sum(sum(self.seconds.get(name, ())) for name in names)


def reply(loaded, request: ChatRequest, seed: int, most: int) -> Parts:
    """One reply under the grammar, in parts."""
    decoder, parts = loaded.decoder, Parts()
    plan = Plan.of(request, loaded.chat_format.calls)
    constraint = parts.time(
        "start", lambda: Constraint.of(loaded.grammars, plan, Thinking(begun=False, possible=False))
    )
    prompt = loaded.encode("Book a table for four at eight, please." * 4)
    with decoder.computing():
        generation = decoder.begin(prompt, Sampling(temperature=1.0, seed=seed))
        free = decoder.begin(prompt, Sampling(temperature=1.0, seed=seed)).chooser
        while not generation.is_read:
            decoder.read(generation)
        for _ in range(most):
            row = parts.time("mask", constraint.allowed)
            bans = parts.time("mask", constraint.banned)
            chooser, generation.chooser = generation.chooser, free
            parts.time("free choice", lambda: decoder.choose([generation]))
            generation.chooser = chooser
            (token,) = parts.time(
                "masked choice", lambda: decoder.choose([generation], [row], [bans])
            )
            parts.time("follow", lambda: constraint.accept(token))
            if constraint.is_over or token in loaded.end_ids:
                break
            parts.time("forward", lambda: decoder.advance([generation], [token]))
        decoder.end(generation)
    return parts


def added(parts: Parts) -> float:
    choice = parts.total("masked choice") - parts.total("free choice")
    return parts.total("mask", "follow") + choice


def quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.2f}  ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--quantization", default="none", choices=["none", "nf4", "int8"])
    parser.add_argument("--most", type=int, default=120, help="tokens of a reply, at most")
    options = parser.parse_args()
    loaded = load(options.quantization)
    start = time.perf_counter()
    assert loaded.grammars.usable
    ready = time.perf_counter() - start
    request = ChatRequest((Message("user", "x"),), tools=(TOOL,), tool_choice="book_table")
    first = reply(loaded, request, 0, options.most)
    replies = [reply(loaded, request, seed, options.most) for seed in range(1, options.rounds + 1)]
    steps = [len(parts.seconds["forward"]) for parts in replies]
    print(f"{loaded.model.num_parameters() / 1e6:.0f}M parameters, {VOCABULARY} tokens, "
          f"{options.quantization}, {torch.get_num_threads()} thread(s), "
          f"{len(replies)} replies, {sum(steps)} steps")  # fmt: skip
    print(f"once a tokenizer: {ready * 1e3:.0f} ms; once a schema: "
          f"{first.total('start') * 1e3:.1f} ms; once a reply: "
          f"{statistics.median(p.total('start') for p in replies) * 1e3:.2f} ms")  # fmt: skip
    print("per step, median over replies (quartiles)")
    rows = {
        "forward and free choice, ms": lambda p, n: p.total("forward", "free choice") / n * 1e3,
        "grammar: mask, us": lambda p, n: p.total("mask") / n * 1e6,
        "grammar: follow, us": lambda p, n: p.total("follow") / n * 1e6,
        "grammar: masked choice beyond free, us": lambda p, n: (
            (p.total("masked choice") - p.total("free choice")) / n * 1e6
        ),
        "grammar in all, % of a step": lambda p, n: (
            added(p) / p.total("forward", "free choice") * 100
        ),
    }
    for name, figure in rows.items():
        print(f"  {name:40s}", quartiles([figure(p, n) for p, n in zip(replies, steps)]))
    longest = max(value for parts in replies for value in parts.seconds["mask"])
    print(f"  longest single mask: {longest * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
