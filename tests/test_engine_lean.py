"""The lean forward on CPUs: the same logits and tokens as the model's own, or not used."""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from slm_adapters.engine import lean_linear
from slm_adapters.engine.decoder import Decoder
from slm_adapters.engine.lean_llama import LeanLlama
from slm_adapters.engine.network import TransformersNetwork, networks
from slm_adapters.engine.sampling import Sampling
from slm_adapters.engine.threads import one_thread

LEAN = ("llama", "mistral", "qwen3")
#: Shapes that the 4-bit kernel takes and that differ from one another.
SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 192}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``read(architecture, dtype, quantization)``: a fresh model every time."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    @cache
    def folder(architecture: str, overrides: tuple[tuple[str, Any], ...]) -> Path:
        place = tmp_path_factory.mktemp(architecture)
        return tiny_model(place, architecture, **{**SHAPE, **dict(overrides)})

    def model(
        architecture: str, dtype: Any = torch.float32, quantization: str = "none", **overrides: Any
    ) -> Any:
        options: dict[str, Any] = {"dtype": dtype}
        if quantization == "nf4":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
            options["device_map"] = {"": "cpu"}
        if quantization == "int8":
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
            options["device_map"] = {"": "cpu"}
        path = folder(architecture, tuple(sorted(overrides.items())))
        return AutoModelForCausalLM.from_pretrained(path, **options).eval().requires_grad_(False)

    return model


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 390, (length,), generator=generator).tolist()


def logits_of(network: Any, tokens: list[int], cuts: tuple[int, ...] = ()) -> torch.Tensor:
    """The last logits when ``tokens`` are read in pieces."""
    cache, logits = network.new_cache([]), None
    with torch.inference_mode():
        for start, end in zip((0, *cuts), (*cuts, len(tokens)), strict=True):
            logits = network.step(tokens[start:end], cache)
    return logits.float()


def greedy(network: Any, prompt: list[int], count: int) -> list[int]:
    tokens: list[int] = []
    with torch.inference_mode():
        cache = network.new_cache([])
        logits = network.step(prompt, cache)
        for _ in range(count):
            tokens.append(int(logits.argmax()))
            logits = network.step(tokens[-1:], cache)
    return tokens


@pytest.mark.parametrize("architecture", LEAN)
@pytest.mark.parametrize("cuts", [(), (1,), (5, 6, 7), (100, 299), (255, 256, 257)])
def test_float32_logits_are_the_models_own(
    read: Any, architecture: str, cuts: tuple[int, ...]
) -> None:
    """However the prompt is cut, and across the borders of the blocks that buffers grow by."""
    own, lean = TransformersNetwork(read(architecture)), networks(read(architecture))[0]
    assert isinstance(lean, LeanLlama)
    tokens = prompt_of(300)
    expected = logits_of(own, tokens)
    assert torch.allclose(logits_of(lean, tokens, cuts), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", LEAN)
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, "none"), (torch.bfloat16, "none"), (torch.bfloat16, "nf4")],
    ids=["float32", "bfloat16", "nf4"],
)
def test_greedy_tokens_are_the_models_own(
    read: Any, architecture: str, dtype: Any, quantization: str
) -> None:
    """Twenty prompts; in bfloat16 logits differ by a rounding now and then, a token by a tie."""
    own = TransformersNetwork(read(architecture, dtype, quantization))
    lean = networks(read(architecture, dtype, quantization))[0]
    assert isinstance(lean, LeanLlama)
    exact = dtype is torch.float32
    for seed in range(20):
        prompt = prompt_of(3 + 7 * seed, seed)
        expected, tokens = greedy(own, prompt, 12), greedy(lean, prompt, 12)
        for at, (ours, theirs) in enumerate(zip(tokens, expected, strict=True)):
            if ours != theirs:
                logits = logits_of(own, prompt + expected[:at])
                assert not exact
                assert logits[theirs] - logits[ours] <= 0.02 * logits.abs().max()
                break


@pytest.mark.parametrize("architecture", LEAN)
@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [(torch.float32, "none"), (torch.bfloat16, "none"), (torch.bfloat16, "nf4")],
    ids=["float32", "bfloat16", "nf4"],
)
def test_a_batch_gives_each_row_its_own_logits(
    read: Any, architecture: str, dtype: Any, quantization: str
) -> None:
    """Sequences of different lengths, one at the end of its block, in one decode."""
    lean = networks(read(architecture, dtype, quantization))[0]
    assert isinstance(lean, LeanLlama)
    prompts = [prompt_of(length, length) for length in (1, 17, 256, 300)]
    with torch.inference_mode():
        caches = [lean.new_cache([]) for _ in prompts]
        for prompt, cache in zip(prompts, caches, strict=True):
            lean.step(prompt, cache)
        for token in (5, 77):
            together = lean.decode([token] * len(prompts), caches).float()
    for prompt, logits in zip(prompts, together, strict=True):
        alone = logits_of(lean, [*prompt, 5, 77], (len(prompt), len(prompt) + 1))
        limit = (1e-4 if dtype is torch.float32 else 0.03) * float(alone.abs().max())
        assert float((logits - alone).abs().max()) <= limit


@pytest.mark.parametrize(
    "options",
    [
        {"attention_bias": True, "mlp_bias": False},
        {"num_key_value_heads": 8},
        {"num_key_value_heads": 1},
        {"head_dim": 32},
        {"tie_word_embeddings": False},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["bias", "no groups", "one kv head", "head size", "own head", "llama3 rotary"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_features_of_the_family(read: Any, options: dict[str, Any], dtype: Any) -> None:
    """Biases, head counts and sizes, an untied head, stretched rotary angles."""
    frozen = {k: _Frozen(v) if isinstance(v, dict) else v for k, v in options.items()}
    own = TransformersNetwork(_with_biases(read("llama", dtype, **frozen)))
    lean = networks(_with_biases(read("llama", dtype, **frozen)))[0]
    assert isinstance(lean, LeanLlama)
    tokens = prompt_of(90)
    expected = logits_of(own, tokens)
    limit = float(expected.abs().max()) * (1e-4 if dtype is torch.float32 else 0.03)
    for cuts in ((), (60,), (89,)):
        assert float((logits_of(lean, tokens, cuts) - expected).abs().max()) <= limit


class _Frozen(dict[str, Any]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def _with_biases(model: Any) -> Any:
    """Random biases where the layers have any; they start as zeros."""
    generator = torch.Generator().manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer.bias is not None:
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator).to(
                layer.bias.dtype
            )
    return model


def packed(model: Any) -> int:
    """Bytes of the 4-bit weights; a CPU may need them in two layouts."""
    layers = [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
    return sum(layer.weight.nbytes for layer in layers)


def test_nf4_stays_nf4(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 4-bit weights are what is computed with: without room, no whole layer is kept."""
    monkeypatch.setattr(lean_linear, "is_little", lambda nbytes: False)
    model = read("llama", torch.bfloat16, "nf4")
    before, size = model.get_memory_footprint(), packed(model)
    lean = networks(model)[0]
    assert isinstance(lean, LeanLlama)
    assert lean.kept_bytes < 2 * size
    layers = model.model.layers
    assert layers[0].mlp.up_proj.weight.dtype == torch.uint8
    # The tiny head is tied, so it has a packed copy of its own.
    assert model.get_memory_footprint() <= before + model.model.embed_tokens.weight.nbytes
    up, rows = layers[0].mlp.up_proj, torch.ones(1, 128, dtype=torch.bfloat16)
    old = lean._layers[0].gate_up(rows)[:, 192:].clone()
    up.weight.data.zero_()
    new = lean._layers[0].gate_up(rows)[:, 192:]
    assert torch.equal(new, up(rows))
    assert not torch.equal(new, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_nf4_written_out_once_or_each_time_is_the_same(
    read: Any, monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    """Bit for bit; what is kept is counted, and is the size of the layers."""
    prompt = prompt_of(90)
    logits = []
    for keeps in (True, False):
        monkeypatch.setattr(lean_linear, "is_little", lambda nbytes, keeps=keeps: keeps)
        model = read("llama", dtype, "nf4")
        size = packed(model)
        lean = networks(model)[0]
        assert isinstance(lean, LeanLlama)
        assert (lean.kept_bytes > 2 * size) == keeps
        logits.append(logits_of(lean, prompt))
    assert torch.equal(*logits)
    expected = logits_of(TransformersNetwork(read("llama", dtype, "nf4")), prompt)
    limit = (1e-4 if dtype is torch.float32 else 0.03) * float(expected.abs().max())
    assert float((logits[0] - expected).abs().max()) <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_memory_does_not_double(read: Any, dtype: Any) -> None:
    """Joined weights replace the model's, and its own forward goes on working."""
    model = read("llama", dtype, tie_word_embeddings=False)
    before, prompt = model.get_memory_footprint(), prompt_of(30)
    expected = logits_of(TransformersNetwork(model), prompt)
    assert isinstance(networks(model)[0], LeanLlama)
    assert model.get_memory_footprint() == before
    assert torch.equal(logits_of(TransformersNetwork(model), prompt), expected)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("smollm3", {}),
        ("gemma3", {"head_dim": 16}),
        ("phi3", {}),
        ("mistral", {"sliding_window": 16}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": _Frozen(rope_type="dynamic", rope_theta=1e4, factor=2.0)}),
    ],
)
def test_other_models_run_their_own_forward(
    read: Any, architecture: str, overrides: dict[str, Any]
) -> None:
    """Anything unusual falls back."""
    model = read(architecture, **overrides)
    assert isinstance(networks(model)[0], TransformersNetwork)


def test_a_subclass_and_a_changed_forward_fall_back(read: Any) -> None:
    """A user's own Llama is not taken for the library's, and other logits are noticed."""
    from transformers import LlamaForCausalLM

    class Mine(LlamaForCausalLM):
        pass

    model = read("llama")
    mine = Mine(model.config)
    assert isinstance(networks(mine.eval())[0], TransformersNetwork)
    model.model.layers[0].mlp.act_fn = torch.nn.ReLU()
    assert isinstance(networks(model)[0], TransformersNetwork)


def test_kept_prefixes_are_not_written_to(read: Any) -> None:
    """Many continuations of one prefix, also longer than a block: the first reply again."""
    decoder = Decoder(read("llama"), prefix_budget=64 << 20)
    head = prompt_of(256)

    def reply(tail: list[int], count: int) -> list[int]:
        generation = decoder.begin(head + tail, Sampling())
        tokens: list[int] = []
        with decoder.computing():
            while not generation.is_read:
                decoder.read(generation)
            for _ in range(count):
                tokens += decoder.choose([generation])
                decoder.advance([generation], tokens[-1:])
        return tokens

    first = reply(prompt_of(9, 1), 300)
    for seed in range(3):
        reply(prompt_of(40, seed), 8)
    assert reply(prompt_of(9, 1), 300) == first


def test_one_thread_is_this_threads_alone() -> None:
    """Inside the block torch uses one thread here, as many as before elsewhere and after."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen: list[int] = []
        with one_thread():
            inside = torch.get_num_threads()
            other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            other.start()
            other.join()
        assert inside in (1, 2)  # 2 where torch's OpenMP cannot be reached
        assert seen == [2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_int8_steps_do_not_log_their_casts(read: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The note comes once per layer and step; the user's own int8 models still write it."""
    model = read("llama", torch.bfloat16, "int8")
    network = networks(model)[0]
    assert isinstance(network, TransformersNetwork)
    talker = logging.getLogger("bitsandbytes.autograd._functions")
    with caplog.at_level(logging.DEBUG):
        greedy(network, prompt_of(5), 2)
        assert "will be cast" not in caplog.text
        talker.warning("MatMul8bitLt: inputs will be cast from %s", "bfloat16")
    assert "will be cast" in caplog.text
