"""Forward steps: the same tokens as ``generate``, with and without prefix reuse."""

from __future__ import annotations

from concurrent.futures import Future
from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from slm_adapters.engine.decoder import Decoder, Generation
from slm_adapters.engine.network import TransformersNetwork, networks
from slm_adapters.engine.prefixes import PrefixCache
from slm_adapters.engine.sampling import Sampling
from slm_adapters.errors import GenerationError

ARCHITECTURES = (
    "llama",
    "qwen3",
    "gemma3",
    "phi3",
    "lfm2",
    "granite_hybrid",
    "mistral",
    "smollm3",
)
BORDER = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Models by architecture, read once."""
    from transformers import AutoModelForCausalLM

    @cache
    def read(architecture: str) -> Any:
        folder = tiny_model(tmp_path_factory.mktemp(architecture), architecture)
        return AutoModelForCausalLM.from_pretrained(folder).eval()

    return read


def prompt_of(length: int, seed: int = 0) -> list[int]:
    """Random ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 390, (length,), generator=generator).tolist()


def start(decoder: Decoder, prompt: list[int], sampling: Sampling | None = None) -> Generation:
    """A generation whose prompt is read."""
    generation = decoder.begin(prompt, sampling or Sampling())
    with decoder.computing():
        while not generation.is_read:
            decoder.read(generation)
    return generation


def write(decoder: Decoder, generation: Generation, count: int) -> list[int]:
    """The next ``count`` tokens."""
    tokens: list[int] = []
    with decoder.computing():
        for _ in range(count):
            tokens += decoder.choose([generation])
            decoder.advance([generation], tokens[-1:])
    return tokens


def reply(decoder: Decoder, prompt: list[int], count: int, sampling: Sampling | None = None):
    """The first ``count`` tokens, and the generation they came from."""
    generation = start(decoder, prompt, sampling)
    return write(decoder, generation, count), generation


def generated(model: Any, prompt: list[int], count: int, **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        **options,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("length", [3, 200])
def test_greedy_equals_generate(model: Any, architecture: str, length: int) -> None:
    """Token by token what transformers' own greedy search gives, hybrids included."""
    prompt = prompt_of(length)
    expected = generated(model(architecture), prompt, 24, do_sample=False)
    tokens, _ = reply(Decoder(model(architecture), borders=(BORDER,)), prompt, 24)
    assert tokens == expected


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.8, seed=7), Sampling(1.3, 0.7, seed=1), Sampling(1.0, 0.9, 12, seed=3)],
    ids=["temperature", "top_p", "top_k"],
)
def test_sampling_equals_generate_with_the_same_seed(model: Any, sampling: Sampling) -> None:
    """Temperature, top-k and top-p act as they do in transformers; the seed decides the rest."""
    torch.manual_seed(sampling.seed)
    expected = generated(
        model("llama"),
        prompt_of(20),
        16,
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k or 0,
    )
    state = torch.random.get_rng_state()
    tokens, _ = reply(Decoder(model("llama")), prompt_of(20), 16, sampling)
    assert tokens == expected
    assert torch.equal(torch.random.get_rng_state(), state), "the user's random state was used"


def test_t51_seeds_repeat_and_differ(model: Any) -> None:
    """The same seed gives the same reply, another or no seed another one."""
    decoder = Decoder(model("llama"))

    def sample(seed: int | None) -> list[int]:
        return reply(decoder, prompt_of(20), 16, Sampling(1.5, seed=seed))[0]

    assert sample(5) == sample(5)
    assert len({tuple(sample(s)) for s in (5, 6, None, None)}) == 4


@pytest.mark.parametrize("shared", [1, 127, 128, 130, 300, 399, 400])
def test_prefix_reuse_changes_no_bit(model: Any, shared: int) -> None:
    """Logits and tokens are bit for bit those of a decoder without reuse."""
    first = prompt_of(400)
    second = first[:shared] + prompt_of(60, seed=shared)
    plain = Decoder(model("llama"), borders=(BORDER,))
    reusing = Decoder(model("llama"), borders=(BORDER,), prefix_budget=64 << 20)
    reply(reusing, first, 4)
    expected, one = reply(plain, second, 12)
    tokens, other = reply(reusing, second, 12)
    assert tokens == expected
    assert torch.equal(one.logits, other.logits)
    assert other.cached_tokens == min(shared, len(second)) // 128 * 128


def test_prefix_reuse_cuts_after_messages(model: Any) -> None:
    """A message border is a cut too, so a short system prompt is reused whole."""
    system = [*prompt_of(40), BORDER]
    decoder = Decoder(model("llama"), borders=(BORDER,), prefix_budget=64 << 20)
    reply(decoder, system + prompt_of(30, 1), 2)
    _, generation = reply(decoder, system + prompt_of(30, 2), 2)
    assert generation.cached_tokens == len(system)


def test_prefix_reuse_survives_many_continuations(model: Any) -> None:
    """What is kept is never written to: the tenth use gives the first use's reply."""
    decoder = Decoder(model("llama"), prefix_budget=64 << 20)
    head = prompt_of(256)
    replies = [reply(decoder, head + prompt_of(9, 1), 8)[0] for _ in range(3)]
    for seed in range(5):
        reply(decoder, head + prompt_of(40, seed), 8)
    replies.append(reply(decoder, head + prompt_of(9, 1), 8)[0])
    assert all(tokens == replies[0] for tokens in replies)


def test_the_whole_prompt_is_never_taken_from_the_cache(model: Any) -> None:
    """The last token is always computed: its logits are needed."""
    decoder = Decoder(model("llama"), prefix_budget=64 << 20)
    prompt = prompt_of(128)
    reply(decoder, [*prompt, 5], 1)
    expected, _ = reply(Decoder(model("llama")), prompt, 4)
    tokens, generation = reply(decoder, prompt, 4)
    assert tokens == expected
    assert generation.cached_tokens == 0


def test_prefix_memory_is_bounded(model: Any) -> None:
    """The least recently used prompts go; the budget holds."""
    decoder = Decoder(model("llama"), prefix_budget=300_000)
    for seed in range(8):
        reply(decoder, prompt_of(300, seed), 1)
    assert decoder.prefixes is not None
    assert 0 < decoder.prefixes.nbytes <= 300_000
    assert reply(decoder, prompt_of(300, 7), 1)[1].cached_tokens == 256
    assert reply(decoder, prompt_of(300, 0), 1)[1].cached_tokens == 0


def test_a_longer_prompt_replaces_its_own_beginning() -> None:
    """Turns of one conversation are kept once, not once per turn."""
    kept = PrefixCache(1 << 20)
    layers = [(torch.zeros(1, 1, 300, 4), torch.zeros(1, 1, 300, 4))]
    kept.keep(list(range(200)), [128], layers)
    small = kept.nbytes
    kept.keep(list(range(300)), [128, 256], layers)
    assert kept.nbytes == 2 * small


def test_two_generations_interleave_without_mixing(model: Any) -> None:
    """Steps of two replies may alternate; each keeps its own cache."""
    decoder = Decoder(model("llama"), prefix_budget=64 << 20)
    prompts = [prompt_of(140, 1), prompt_of(140, 2)]
    expected = [reply(Decoder(model("llama")), prompt, 10)[0] for prompt in prompts]
    running = [start(decoder, prompt) for prompt in prompts]
    tokens: list[list[int]] = [[], []]
    for _ in range(10):
        for own, generation in zip(tokens, running, strict=True):
            own += write(decoder, generation, 1)
    assert tokens == expected


def test_masked_and_banned_tokens_are_not_chosen(model: Any) -> None:
    """Banning the likeliest token gives the second likeliest; each row has its own rules."""
    decoder = Decoder(model("llama"))
    rows = [start(decoder, prompt_of(10)) for _ in range(4)]
    (best,) = decoder.choose(rows[:1])
    (second,) = decoder.choose(rows[:1], bans=[(best,)])
    assert second != best
    mask = torch.zeros(rows[0].logits.shape, dtype=torch.bool)
    mask[[7, second]] = True
    only = torch.zeros_like(mask)
    only[7] = True
    tokens = decoder.choose(rows, [None, None, mask, only], [(), (best,), (), ()])
    assert tokens == [best, second, second, 7]
    assert decoder.choose(rows[:1]) == [best]


def test_t51_out_of_memory_frees_prefixes_and_tries_again(model: Any) -> None:
    """One failure costs the kept prefixes; a second is a typed error, and the model lives on."""
    decoder = Decoder(model("llama"), prefix_budget=64 << 20)
    expected, _ = reply(decoder, prompt_of(300), 4)
    forward, failures = decoder.network.step, [1]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failures:
            failures.pop()
            raise torch.OutOfMemoryError("no room")
        return forward(*args, **kwargs)

    decoder.network.step = failing
    try:
        tokens, generation = reply(decoder, prompt_of(300), 4)
        assert (tokens, generation.cached_tokens) == (expected, 0)
        failures += [1, 1]
        with pytest.raises(GenerationError, match="memory"):
            start(decoder, prompt_of(300))
        assert reply(decoder, prompt_of(300), 4)[0] == expected
    finally:
        decoder.network.step = forward


def test_a_faster_network_takes_running_replies_over(model: Any) -> None:
    """Written and half-read replies go on where they are; nothing happens before it is there."""
    llama = model("llama")
    prompts = [prompt_of(150, seed) for seed in range(3)]
    expected = [generated(llama, prompt, 24, do_sample=False) for prompt in prompts]
    own, coming = TransformersNetwork(llama), Future[Any]()
    decoder = Decoder(llama, borders=(BORDER,), prefix_budget=1 << 20, network=own, coming=coming)
    first, second = (start(decoder, prompt) for prompt in prompts[:2])
    written = [write(decoder, first, 9), write(decoder, second, 4)]
    half_read = decoder.begin(prompts[2], Sampling())
    with decoder.computing():
        decoder.read(half_read)
    assert not half_read.is_read
    assert not decoder.can_improve
    coming.set_result(networks(llama)[0])
    assert decoder.can_improve
    with decoder.computing():
        decoder.improve([first, second, half_read])
        while not half_read.is_read:
            decoder.read(half_read)
    assert decoder.network is coming.result()
    assert not decoder.can_improve
    assert written[0] + write(decoder, first, 15) == expected[0]
    assert written[1] + write(decoder, second, 20) == expected[1]
    assert write(decoder, half_read, 24) == expected[2]
    # What the old one kept of a prompt is of use to the new one.
    again, generation = reply(decoder, prompts[0], 24)
    assert (again, generation.cached_tokens) == (expected[0], first.cuts[-1])


@pytest.mark.parametrize("outcome", ["none", "memory"])
def test_a_network_that_cannot_take_over_leaves_the_old(
    model: Any, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    """Where it is none after all, for good; without memory for both, until there is."""
    llama = model("llama")
    expected = generated(llama, prompt_of(40), 12, do_sample=False)
    own, coming = TransformersNetwork(llama), Future[Any]()
    decoder = Decoder(llama, network=own, coming=coming)
    generation = start(decoder, prompt_of(40))
    written = write(decoder, generation, 5)
    faster = networks(llama)[0]
    coming.set_result(None if outcome == "none" else faster)
    with monkeypatch.context() as patch, decoder.computing():

        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("simulated")

        patch.setattr(faster, "new_cache", full, raising=False)
        decoder.improve([generation])
    assert decoder.network is own
    assert decoder.can_improve is (outcome == "memory")
    written += write(decoder, generation, 3)
    if decoder.can_improve:
        decoder.improve([generation])
        assert decoder.network is faster
    assert written + write(decoder, generation, 4) == expected
