"""Every architecture we name: greedy tokens are those of ``generate``, alone and in a mixed batch.

Weights are random, so prompts are chosen whose answers are clear: at every step the best token
leads by a margin that roundings do not reach.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from slm_adapters.engine.cuda_llama import CudaLlama
from slm_adapters.engine.decoder import Decoder, Generation
from slm_adapters.engine.prefixes import SnapshotCache
from slm_adapters.engine.sampling import Sampling

ARCHITECTURES = (
    "llama", "qwen3", "qwen3_5", "smollm3", "gemma3", "phi3", "lfm2", "granite", "granite_hybrid",
    "nemotron_h",
)  # fmt: skip
#: Caches that cannot be cut.
HYBRIDS = ("qwen3_5", "gemma3", "lfm2", "granite_hybrid", "nemotron_h")
#: The 4-bit CPU kernel's sizes are multiples of 64 and 32; a recurrent layer has others.
FOUR_BIT = ("llama", "qwen3", "smollm3", "gemma3", "phi3", "lfm2", "granite")
COUNT, BORDER, CANDIDATES = 8, 7, 160
#: A token that leads by this share of the largest logit, at every step.
MARGIN = {"float32": 1e-3, "bfloat16": 0.04, "nf4": 0.04}
CASES = [
    *((architecture, kind) for kind in ("float32", "bfloat16") for architecture in ARCHITECTURES),
    *((architecture, "nf4") for architecture in FOUR_BIT),
]
#: Heads as our kernels want them.
KERNELS = {"llama": {"head_dim": 32}, "qwen3": {"head_dim": 32}}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
        ],
    ),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``load(architecture, kind, device)``: the model, read anew."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    @cache
    def folder(architecture: str, device: str) -> Path:
        heads = KERNELS.get(architecture, {}) if device == "cuda" else {}
        return tiny_model(tmp_path_factory.mktemp(architecture), architecture, **heads)

    def model(architecture: str, kind: str, device: str = "cpu") -> Any:
        dtype = torch.float32 if kind == "float32" else torch.bfloat16
        options: dict[str, Any] = {"dtype": dtype}
        if kind == "nf4":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
            options["device_map"] = {"": device}
        read = AutoModelForCausalLM.from_pretrained(folder(architecture, device), **options)
        return (read if kind == "nf4" else read.to(device)).eval().requires_grad_(False)

    return model


def prompt_of(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 390, (length,), generator=generator).tolist()


def generated(model: Any, prompts: list[list[int]]) -> tuple[list[list[int]], list[float]]:
    """Greedy tokens, and each prompt's narrowest lead as a share of its largest logit."""
    ids = torch.tensor(prompts, device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=COUNT,
        min_new_tokens=COUNT,
        eos_token_id=None,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(out.logits, 1).float()
    first, second = logits.topk(2).values.unbind(-1)
    leads = ((first - second) / logits.abs().amax(-1)).amin(-1)
    return out.sequences[:, ids.shape[1] :].tolist(), leads.tolist()


def clear_prompts(
    model: Any, lengths: tuple[int, ...], margin: float, head: list[int] | None = None
) -> list[tuple[list[int], list[int]]]:
    """Prompts of these lengths, each after ``head``, with answers that are clear."""
    found = []
    for number, length in enumerate(lengths):
        count = CANDIDATES if model.device.type == "cpu" else 6 * CANDIDATES
        seeds = range(1000 * number, 1000 * number + count)
        prompts = [[*(head or []), *prompt_of(length, seed)] for seed in seeds]
        _, leads = generated(model, prompts)
        prompt = prompts[leads.index(max(leads))]
        (tokens,), (lead,) = generated(model, [prompt])
        assert lead > margin, f"no clear prompt of {length} tokens: {lead}"
        found.append((prompt, tokens))
    return found


def read(decoder: Decoder, prompt: list[int]) -> Generation:
    generation = decoder.begin(prompt, Sampling())
    with decoder.computing():
        while not generation.is_read:
            decoder.read(generation)
    generation.logits = generation.logits.clone()
    return generation


def write(decoder: Decoder, generations: list[Generation], count: int) -> list[list[int]]:
    written: list[list[int]] = [[] for _ in generations]
    with decoder.computing():
        for _ in range(count):
            tokens = decoder.choose(generations)
            for own, token in zip(written, tokens, strict=True):
                own.append(token)
            decoder.advance(generations, tokens)
    return written


def with_its_best_network(model: Any) -> Decoder:
    """A decoder whose kernels, where it has any, are compiled."""
    decoder = Decoder(model, borders=(BORDER,), prefix_budget=64 << 20)
    if decoder._coming is not None:
        decoder._coming.result(300)
        decoder.improve([])
    return decoder


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("architecture", "kind"), CASES)
def test_t44_greedy_equals_generate_alone_and_in_a_mixed_batch(
    load: Any, architecture: str, kind: str, device: str
) -> None:
    """Four prompts, one at a time; then joining and leaving a batch at different steps."""
    clear = clear_prompts(load(architecture, kind, device), (3, 20, 140, 5), MARGIN[kind])
    decoder = with_its_best_network(load(architecture, kind, device))
    if device == "cuda":
        ours = architecture in KERNELS and kind != "float32"
        assert isinstance(decoder.network, CudaLlama) == ours
    for prompt, expected in clear:
        assert write(decoder, [read(decoder, prompt)], COUNT) == [expected]
    decoder.free()
    written: list[list[int]] = [[] for _ in clear]
    running: dict[int, Generation] = {}
    waiting = list(range(len(clear)))
    while waiting or running:
        if waiting:
            row = waiting.pop(0)
            running[row] = read(decoder, clear[row][0])
        steps = 1 if waiting else 3
        for row, tokens in zip(
            list(running), write(decoder, list(running.values()), steps), strict=True
        ):
            written[row] += tokens
        for row in [row for row in running if len(written[row]) >= COUNT]:
            decoder.end(running.pop(row))
    assert [tokens[:COUNT] for tokens in written] == [expected for _, expected in clear]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_t45_a_role_is_read_once(load: Any, architecture: str, kind: str) -> None:
    """Its prompt up to the first message's end, also where a cache cannot be cut."""
    role = [*prompt_of(170, 1), BORDER]
    model = load(architecture, kind)
    clear = clear_prompts(model, (12, 30, 12), MARGIN[kind], role)
    decoder = Decoder(load(architecture, kind), borders=(BORDER,), prefix_budget=64 << 20)
    assert isinstance(decoder.prefixes, SnapshotCache) == (architecture in HYBRIDS)
    for turn, (prompt, expected) in enumerate(clear):
        generation = read(decoder, prompt)
        assert generation.cached_tokens == (len(role) if turn else 0)
        assert write(decoder, [generation], COUNT) == [expected]
    prompt, expected = clear[0]
    again = read(decoder, prompt)
    assert again.cached_tokens >= len(role)
    assert write(decoder, [again], COUNT) == [expected]


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_t45_snapshots_are_never_written_to(load: Any, architecture: str) -> None:
    """Bit for bit the same after many other continuations, and while they run."""
    decoder = Decoder(load(architecture, "float32"), borders=(BORDER,), prefix_budget=64 << 20)
    role = [*prompt_of(90, 1), BORDER]
    read(decoder, role + prompt_of(9, 2))
    first = read(decoder, role + prompt_of(9, 3))
    assert first.cached_tokens == len(role)
    logits = first.logits
    others = [read(decoder, role + prompt_of(20, seed)) for seed in range(4, 8)]
    write(decoder, [first, *others], 6)
    again = read(decoder, role + prompt_of(9, 3))
    assert again.cached_tokens == len(role)
    assert torch.equal(again.logits, logits)


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_t45_prompts_that_differ_late_are_noticed(load: Any, architecture: str) -> None:
    """Examples behind the first message are kept once two prompts have shared them."""
    decoder = Decoder(load(architecture, "float32"), borders=(BORDER,), prefix_budget=64 << 20)
    shared = [*prompt_of(40, 1), BORDER, *prompt_of(50, 2), BORDER]
    cached = []
    for seed in (3, 4, 5, 6):
        prompt = [*shared, *prompt_of(40, seed), BORDER, *prompt_of(5, seed)]
        cached.append(read(decoder, prompt).cached_tokens)
    assert cached == [0, 41, len(shared), len(shared)]


def test_t45_a_conversation_goes_on_where_it_was(load: Any) -> None:
    """Each turn reads what is new: the last answer and the next question."""
    decoder = Decoder(load("lfm2", "float32"), borders=(BORDER,), prefix_budget=64 << 20)
    talk = [*prompt_of(40, 1), BORDER]
    for turn in range(4):
        talk += [*prompt_of(35, 10 + turn), BORDER, 9]
        generation = read(decoder, talk)
        # What the last turn had asked, less the opening of the answer behind it.
        assert generation.cached_tokens == (0 if turn == 0 else len(talk) - 38)


def test_t45_snapshot_memory_is_bounded(load: Any) -> None:
    decoder = Decoder(load("gemma3", "float32"), borders=(BORDER,), prefix_budget=400_000)
    for seed in range(12):
        read(decoder, [*prompt_of(100, seed), BORDER, *prompt_of(100, seed + 50)])
    assert decoder.prefixes is not None
    assert 0 < decoder.prefixes.nbytes <= 400_000


def test_a_model_that_cannot_resume_reads_whole_prompts(load: Any, monkeypatch: Any) -> None:
    """Where a second piece would start from nothing, there are no pieces and no reuse."""
    from slm_adapters.engine.network import TransformersNetwork

    monkeypatch.setattr(TransformersNetwork, "_resumes", lambda self: False)
    decoder = Decoder(load("lfm2", "float32"), borders=(BORDER,), prefix_budget=64 << 20)
    assert decoder.prefixes is None
    prompt = [*prompt_of(150, 1), BORDER, *prompt_of(20, 2)]
    generation = decoder.begin(prompt, Sampling())
    with decoder.computing():
        assert decoder.read(generation) == len(prompt)


def test_the_check_for_resuming_can_fail(load: Any, monkeypatch: Any) -> None:
    """A model whose state is lost between pieces is found out."""
    from slm_adapters.engine.network import TransformersNetwork

    model = load("lfm2", "float32")
    assert TransformersNetwork(model).resumable
    original = TransformersNetwork.new_cache

    def forgetful(self: Any, layers: Any, adapter: str | None = None) -> Any:
        return original(self, [], adapter)

    monkeypatch.setattr(TransformersNetwork, "new_cache", forgetful)
    assert not TransformersNetwork(model).resumable
