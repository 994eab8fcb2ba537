"""The CUDA forward against the model's own: on a GPU, or kernel by kernel in Triton's interpreter.

Without Triton (which comes with torch's CUDA builds) only the bookkeeping is tested.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import os
import threading
import time
import weakref
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from slm_adapters.engine.adapters import Adapter, Lora
from slm_adapters.engine.cuda_adapters import AdapterTable
from slm_adapters.engine.cuda_cache import CudaCache
from slm_adapters.engine.cuda_graphs import Graphs
from slm_adapters.engine.cuda_llama import CudaLlama
from slm_adapters.engine.cuda_start import start
from slm_adapters.engine.decoder import Decoder
from slm_adapters.engine.engine import Chunk
from slm_adapters.engine.network import TransformersNetwork
from slm_adapters.engine.patience import Patience
from slm_adapters.engine.sampling import Sampling
from slm_adapters.engine.scheduler import Scheduler
from slm_adapters.engine.ticket import Ticket
from slm_adapters.errors import AdapterError, GenerationError

CUDA = torch.cuda.is_available()
if not CUDA:
    # Kernels are made for one or the other when they are imported, which the tests below do.
    os.environ.setdefault("TRITON_INTERPRET", "1")
DEVICE = "cuda" if CUDA else "cpu"
#: The interpreter cannot multiply 16-bit matrices.
DTYPE = torch.bfloat16 if CUDA else torch.float32
LIMIT = 0.03 if CUDA else 1e-5

triton_only = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
)
gpu_only = pytest.mark.skipif(not CUDA, reason="no CUDA GPU here")


def distance(ours: torch.Tensor, expected: torch.Tensor) -> float:
    ours, expected = ours.float(), expected.float()
    return float((ours - expected).norm() / expected.norm())


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 400, (length,), generator=generator).tolist()


def models(kind: str, *, nf4: bool, nested: bool = False) -> tuple[Any, Any]:
    """A tiny model and one of the same weights whose layers are whole."""
    import transformers as hf

    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 400}
    shape |= {"max_position_embeddings": 1024, "initializer_range": 0.2}
    shape |= {"tie_word_embeddings": True, "eos_token_id": 2}
    shape |= {"head_dim": 32} if kind == "qwen3" else {}
    config = getattr(hf, f"{names[kind]}Config")(**shape)
    torch.manual_seed(0)
    model, whole = (
        getattr(hf, f"{names[kind]}ForCausalLM")(config).to(DTYPE).eval().requires_grad_(False)
        for _ in range(2)
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
        elif "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    whole.load_state_dict(model.state_dict())
    if nf4:
        quantize(model, whole, nested)
    return model.to(DEVICE), whole.to(DEVICE)


def quantize(model: Any, whole: Any, nested: bool) -> None:
    import bitsandbytes as bnb

    for name, old in list(model.named_modules()):
        if not isinstance(old, torch.nn.Linear) or name == "lm_head":
            continue
        weight = old.weight.data.to(DEVICE)
        codes, state = bnb.functional.quantize_4bit(
            weight, quant_type="nf4", blocksize=64, compress_statistics=nested
        )
        new = bnb.nn.Linear4bit(
            old.in_features, old.out_features, bias=old.bias is not None,
            compute_dtype=DTYPE, quant_type="nf4",
        )  # fmt: skip
        new.weight = bnb.nn.Params4bit(
            codes, requires_grad=False, quant_state=state, bnb_quantized=True, quant_type="nf4"
        )
        if old.bias is not None:
            new.bias = old.bias
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new)
        restored = bnb.functional.dequantize_4bit(codes, state).to(DTYPE)
        whole.get_submodule(name).weight.data = restored.cpu()


# --- bookkeeping ------------------------------------------------------------------------------


def test_a_sequence_grows_and_keeps_what_it_has() -> None:
    cache = CudaCache(torch.zeros(2, 3, 2, 256, 4))
    cache.buffer[..., :200, :] = torch.arange(200.0)[:, None]
    cache.length = 200
    cache.reserve(256)
    assert cache.buffer.shape[3] == 256
    cache.reserve(257)
    assert cache.buffer.shape[3] == 512
    assert torch.equal(cache.buffer[1, 2, 1, :200, 3], torch.arange(200.0))
    assert cache.row(7) == [7, 200, cache.buffer.data_ptr(), 512]


def test_without_graphs_every_run_launches() -> None:
    graphs, runs = Graphs(torch.device("cpu")), []
    for key in ("a", "a", "b", "a"):
        graphs.run(key, lambda key=key: runs.append(key))
    assert runs == ["a", "a", "b", "a"]


def test_a_model_on_a_cpu_does_not_fit() -> None:
    model, _ = models("llama", nf4=False)
    if not CUDA:
        assert start(model, TransformersNetwork(model)) is None


def test_a_removed_adapter_gives_its_memory_back() -> None:
    """Its slot is free, and what is captured with its addresses is never taken for another's."""
    weight = torch.zeros(1)

    def adapter(name: str) -> Adapter:
        lora = Lora(torch.ones(2, 8), torch.ones(2, 8))
        return Adapter(name, name, 2, 0, {"model.layers.0.mlp.up_proj": lora})

    table = AdapterTable(weight, layers=1, rows=4, widest=8)
    first, second = adapter("first"), adapter("second")
    assert (table.slot(None), table.slot(first), table.slot(second)) == (0, 1, 2)
    assert table.slot(first) == 1
    serial, matrix = (
        table.serial(first),
        weakref.ref(first.layers["model.layers.0.mlp.up_proj"].down),
    )
    del first
    gc.collect()
    assert not table.choose([None], 1)
    third = adapter("third")
    assert table.choose([third, None, second], 4)
    assert matrix() is None
    assert table.slots.tolist() == [1, 0, 2, 0]
    assert table.serial(third) not in (serial, table.serial(second))


class _Device:
    """All that a decoder with a network of its own asks of a model."""

    device = torch.device("cpu")

    def get_memory_footprint(self) -> int:
        return 1 << 30


class _Counting:
    """A network that knows its likeliest tokens; the rest of the decoder is real."""

    croppable, resumable, rows = True, True, 4

    def __init__(self) -> None:
        self.asked = 0

    def new_cache(self, layers: Any, adapter: str | None = None) -> Any:
        return object()

    def step(self, tokens: Any, cache: Any) -> Any:
        return torch.eye(8)[3]

    def decode(self, tokens: Any, caches: Any) -> Any:
        return torch.eye(8)[: len(tokens)]

    def likeliest(self, count: int) -> list[int]:
        self.asked += 1
        return list(range(count))

    def release(self, cache: Any) -> None:
        pass


def test_greedy_replies_take_the_tokens_that_a_step_found() -> None:
    """Not where something is masked, banned or drawn, nor before the first step."""
    network = _Counting()
    decoder = Decoder(_Device(), network=network)
    greedy = [decoder.begin([1, 2], Sampling()) for _ in range(3)]
    for generation in greedy:
        decoder.read(generation)
    assert decoder.choose(greedy) == [3, 3, 3]
    assert network.asked == 0
    decoder.advance(greedy, [3, 3, 3])
    assert decoder.choose(greedy) == [0, 1, 2]
    assert decoder.choose(greedy[1:]) == [1, 2]
    assert network.asked == 2
    only = torch.tensor([False] * 7 + [True])
    assert decoder.choose(greedy, [None, only, None]) == [0, 7, 2]
    assert decoder.choose(greedy, None, [(), (), {2}]) != [0, 1, 2]
    drawn = decoder.begin([1, 2], Sampling(temperature=1.0, seed=1))
    decoder.read(drawn)
    decoder.advance([greedy[0], drawn], [3, 3])
    decoder.choose([greedy[0], drawn])
    assert network.asked == 2


# --- kernels ----------------------------------------------------------------------------------


@triton_only
@pytest.mark.parametrize("rows", [1, 5, 20, 40, 70])
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_linear_layers_over_nf4(rows: int, nested: bool) -> None:
    """Norm and bias before, gate and residual behind; few, one and many rows by other kernels."""
    from slm_adapters.engine.cuda_launch import Launcher, planes
    from slm_adapters.engine.cuda_linear import ADD, GATE, PLAIN, linear

    model, whole = models("qwen2", nf4=True, nested=nested)
    layer, truth = model.model.layers[0], whole.model.layers[0]
    launcher = Launcher.of(model.model.embed_tokens.weight, 1e-6, 128, 128, 192, 1 << 16)
    norm = layer.input_layernorm.weight
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 128, generator=generator).to(DEVICE, DTYPE)
    inner = torch.randn(128, 192, generator=generator).to(DEVICE, DTYPE)
    normed = torch.nn.functional.rms_norm(x, (128,), norm, 1e-6)
    attention, mlp = truth.self_attn, truth.mlp

    def room(width: int) -> torch.Tensor:
        return torch.full((128, width), float("nan"), dtype=DTYPE, device=DEVICE)

    names = ["q_proj", "k_proj", "v_proj"]
    extra = torch.randn(128, 256, generator=generator).to(DEVICE)
    expected = torch.cat([getattr(attention, name)(normed) for name in names], -1)
    layer_of = linear(layer.self_attn, names, PLAIN, norm, launcher)
    for added in (None, extra):
        out = room(256)
        layer_of.run(planes(x), out, rows, added)
        total = expected if added is None else expected + added
        assert distance(out[:rows], total[:rows]) < LIMIT

    out = room(192)
    expected = torch.nn.functional.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed)
    linear(layer.mlp, ["gate_proj", "up_proj"], GATE, norm, launcher).run(planes(x), out, rows)
    assert distance(out[:rows], planes(expected)[:rows]) < LIMIT

    out = planes(x).clone()
    expected = x + mlp.down_proj(inner)
    linear(layer.mlp, ["down_proj"], ADD, None, launcher).run(planes(inner), out, rows)
    assert distance(out[:rows], planes(expected)[:rows]) < LIMIT


@triton_only
def test_the_modules_keep_working_on_the_joined_weights() -> None:
    """The model's own forward reads the same weights afterwards; nothing is held twice."""
    from slm_adapters.engine.cuda_launch import Launcher
    from slm_adapters.engine.cuda_linear import GATE, linear

    model, whole = models("llama", nf4=True, nested=True)
    mlp, truth = model.model.layers[0].mlp, whole.model.layers[0].mlp
    launcher = Launcher.of(model.model.embed_tokens.weight, 1e-6, 16, 128, 192, 1 << 16)
    joined = linear(mlp, ["gate_proj", "up_proj"], GATE, None, launcher)
    x = torch.randn(3, 128, device=DEVICE, dtype=DTYPE)
    assert mlp.up_proj.weight.data_ptr() == joined._codes[192:].data_ptr()  # type: ignore[attr-defined]
    assert distance(mlp.up_proj(x), truth.up_proj(x)) < 0.02


@triton_only
@pytest.mark.parametrize("nf4", [True, False], ids=["nf4", "whole"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_logits_are_the_models_own(kind: str, nf4: bool) -> None:
    """In pieces, token by token, in a batch of other lengths, and from a kept beginning."""
    model, whole = models(kind, nf4=nf4)
    own = TransformersNetwork(whole)
    with torch.inference_mode():
        network = CudaLlama(model)
        prompts = [prompt_of(length, length) for length in (1, 18, 21)]
        caches = [network.new_cache([]) for _ in prompts]
        theirs = [own.new_cache([]) for _ in prompts]
        for prompt, cache, other in zip(prompts, caches, theirs, strict=True):
            expected = own.step(prompt, other)
            if len(prompt) > 20:
                network.step(prompt[:7], cache)
                logits = network.step(prompt[7:], cache)
            else:
                logits = network.step(prompt, cache)
            assert distance(logits, expected) < LIMIT
        for token, rows in ((5, slice(0, 3)), (9, slice(1, 2)), (7, slice(0, 2))):
            batch = caches[rows]
            logits = network.decode([token] * len(batch), batch)
            expected = own.decode([token] * len(batch), theirs[rows])
            assert distance(logits, expected) < LIMIT
            assert network.likeliest(len(batch)) == logits.argmax(-1).tolist()
        [(keys, values)] = network.layers_of(caches[2])
        kept = network.new_cache([(keys[..., :9, :].clone(), values[..., :9, :].clone())])
        expected = own.step(prompts[2], own.new_cache([]))
        assert distance(network.step(prompts[2][9:], kept), expected) < LIMIT
        begun = own.new_cache([])
        own.step(prompts[2][:9], begun)
        taken_over = network.new_cache(own.layers_of(begun))
        assert distance(network.step(prompts[2][9:], taken_over), expected) < LIMIT


class _Adapters:
    """Adapters by key, as the engine keeps them."""

    def __init__(self, adapters: list[Adapter]) -> None:
        self._adapters = {adapter.key: adapter for adapter in adapters}

    def find(self, key: str) -> Adapter:
        return self._adapters[key]


def adapter_of(name: str, model: Any, rank: int, modules: tuple[str, ...]) -> Adapter:
    """Random matrices for some modules of every layer."""
    generator = torch.Generator().manual_seed(rank)

    def random(*size: int) -> torch.Tensor:
        return (torch.randn(size, generator=generator) * 0.1).to(DEVICE, DTYPE)

    layers = {
        path: Lora(random(rank, module.in_features), random(rank, module.out_features))
        for path, module in model.named_modules()
        if path.endswith(modules)
    }
    return Adapter(name, name, rank, 0, layers)


def merged(whole: Any, adapter: Adapter) -> Any:
    """The adapter's own truth: its product added to the whole weights."""
    model = copy.deepcopy(whole)
    for path, lora in adapter.layers.items():
        model.get_submodule(path).weight.data += (lora.down.t() @ lora.up).t()
    return model


@triton_only
@pytest.mark.parametrize("nf4", [True, False], ids=["nf4", "whole"])
def test_rows_of_different_adapters_in_one_step(nf4: bool) -> None:
    """Each row has its own adapter's logits, a row without one the base's."""
    model, whole = models("qwen2", nf4=nf4)
    everything = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    first = adapter_of("first", whole, 5, everything)
    second = adapter_of("second", whole, 8, ("q_proj", "v_proj", "up_proj"))
    truths = [merged(whole, first), merged(whole, second), whole]
    with torch.inference_mode():
        network = CudaLlama(model, _Adapters([first, second]))  # type: ignore[arg-type]
        keys = ["first", "second", None]
        owns = [TransformersNetwork(truth) for truth in truths]
        caches = [network.new_cache([], key) for key in keys]
        others = [own.new_cache([]) for own in owns]
        for length, cache, own, other in zip((3, 17, 2), caches, owns, others, strict=True):
            prompt = prompt_of(length, length)
            assert distance(network.step(prompt, cache), own.step(prompt, other)) < LIMIT
        for rows in (slice(0, 3), slice(1, 2)):
            batch = caches[rows]
            logits = network.decode([5] * len(batch), batch)
            pairs = zip(owns[rows], others[rows], strict=True)
            expected = torch.stack([own.step([5], other) for own, other in pairs])
            assert distance(logits, expected) < LIMIT


@triton_only
def test_an_adapter_that_does_not_fit_is_refused() -> None:
    model, whole = models("llama", nf4=False)
    wide = adapter_of("wide", whole, 200, ("q_proj",))
    head = adapter_of("head", whole, 4, ("lm_head",))
    network = CudaLlama(model, _Adapters([wide, head]))  # type: ignore[arg-type]
    for name, word in (("wide", "rank 200"), ("head", "lm_head")):
        with pytest.raises(AdapterError, match=word):
            network.new_cache([], name)


# --- on a GPU ---------------------------------------------------------------------------------


def started(model: Any) -> CudaLlama:
    """The forward that a load comes to, its kernels compiled and proved."""
    coming = start(model, TransformersNetwork(model))
    assert coming is not None
    network = coming.result(300)
    assert network is not None
    return network


@pytest.mark.gpu
@gpu_only
@pytest.mark.parametrize("nf4", [True, False], ids=["nf4", "whole"])
def test_it_is_chosen_and_replays_what_it_launched(nf4: bool) -> None:
    """Graphs of later steps give what the first run gave, for sequences elsewhere in memory."""
    model, _ = models("qwen2", nf4=nf4)
    network = started(model)
    assert ("step", 1, False) in network.graphs._graphs
    with torch.inference_mode():
        first = None
        for _ in range(4):
            caches = [network.new_cache([]) for _ in range(3)]
            for cache in caches:
                network.step(prompt_of(300), cache)
            logits = network.decode([1, 2, 3], caches).clone()
            first = logits if first is None else first
            assert torch.equal(logits, first)
        assert ("prompt", 384, 0) in network.graphs._graphs
        assert ("step", 4, False) in network.graphs._graphs


@pytest.mark.gpu
@gpu_only
def test_a_long_sequence_in_steps() -> None:
    """Over the borders of memory blocks and of the pieces that keys are attended to in."""
    model, whole = models("llama", nf4=True)
    own, network = TransformersNetwork(whole), started(model)
    exact = TransformersNetwork(copy.deepcopy(whole).float())
    tokens = prompt_of(600, 5)
    with torch.inference_mode():
        networks = (network, own, exact)
        caches = [net.new_cache([]) for net in networks]
        for net, cache in zip(networks, caches, strict=True):
            net.step(tokens[:2], cache)
        for token in tokens[2:]:
            results = [
                net.decode([token], [cache])[0] for net, cache in zip(networks, caches, strict=True)
            ]
        ours, theirs = (distance(result, results[2]) for result in results[:2])
        assert ours < 1.5 * theirs


class _Tokens:
    """A writer that takes ``limit`` tokens, whatever they are."""

    banned = ()

    def __init__(self, limit: int) -> None:
        self.limit, self.tokens = limit, []

    @property
    def ended(self) -> bool:
        return len(self.tokens) >= self.limit

    def allowed(self) -> Any:
        return None

    def accept(self, token: int) -> bool:
        self.tokens.append(token)
        return True

    def read(self, token: int) -> list[Chunk]:
        return [Chunk(text="x")]


def ask_all(scheduler: Scheduler, prompts: list[list[int]], limit: int) -> list[Ticket]:
    """All at one moment; ended when this returns."""
    ends = [threading.Event() for _ in prompts]
    tickets = []
    for prompt, end in zip(prompts, ends, strict=True):

        def deliver(chunk: Chunk | None, end: threading.Event = end) -> None:
            if chunk is None:
                end.set()

        ticket = Ticket(_Tokens(limit), prompt, Sampling(), limit, Patience(None), deliver)
        scheduler.submit(ticket)
        tickets.append(ticket)
    assert all(end.wait(300) for end in ends)
    return tickets


@pytest.mark.gpu
@gpu_only
def test_replies_begin_before_the_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model's own forward; they go over while they are written, and end."""
    model, whole = models("llama", nf4=True)
    coming = start(model, own := TransformersNetwork(model))
    assert coming is not None
    later: Future[Any] = Future()
    scheduler = Scheduler(Decoder(model, network=own, coming=later))
    exact = TransformersNetwork(copy.deepcopy(whole).float())

    def hand_over(seconds: float) -> None:
        network = coming.result(300)
        time.sleep(seconds)
        later.set_result(network)

    thread = threading.Thread(target=hand_over, args=(1.0,))
    thread.start()
    while not coming.done():
        time.sleep(0.01)
    prompts = [prompt_of(length, length) for length in (5, 40, 300)]
    tickets = ask_all(scheduler, prompts, 700)
    thread.join()
    assert isinstance(scheduler.decoder.network, CudaLlama)
    for prompt, ticket in zip(prompts, tickets, strict=True):
        assert ticket.error is None
        tokens, cache = ticket.writer.tokens, exact.new_cache([])  # type: ignore[attr-defined]
        assert len(tokens) == 700
        # Each token is among the likeliest after those before it, on both sides of the change.
        with torch.inference_mode():
            logits = exact.step(prompt, cache)
            for token in tokens:
                assert float(logits.max() - logits[token]) < 0.5 * float(logits.std())
                logits = exact.step([token], cache)


@pytest.mark.gpu
@gpu_only
def test_a_full_gpu_fails_some_replies_and_serves_the_next() -> None:
    """Every waiter is released with its reply or a typed error; then all is as before."""
    model, _ = models("llama", nf4=False)
    scheduler = Scheduler(Decoder(model, network=started(model), prefix_budget=1 << 28))
    prompts = [prompt_of(900, seed) for seed in range(32)]
    expected = [t.writer.tokens for t in ask_all(scheduler, prompts[:2], 40)]  # type: ignore[attr-defined]
    scheduler.decoder.free()
    torch.cuda.synchronize()
    total = torch.cuda.get_device_properties(0).total_memory
    hoard = torch.empty(torch.cuda.mem_get_info()[0] // 2, dtype=torch.uint8, device=DEVICE)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (2 << 20)) / total)
    try:
        tickets = ask_all(scheduler, prompts, 100)
        failed = [ticket for ticket in tickets if ticket.error is not None]
        assert failed, "there was memory for all"
        assert all(isinstance(ticket.error, GenerationError) for ticket in failed)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        del hoard
    tickets = ask_all(scheduler, prompts[:2], 40)
    assert [t.writer.tokens for t in tickets] == expected  # type: ignore[attr-defined]
