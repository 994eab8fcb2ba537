"""LoRA adapters: PEFT's output without PEFT, many on one base, in one batch, added and removed."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_adapters import peft_model, random_adapter
from tiny_models import tiny_model

from slm_adapters.calls import Message
from slm_adapters.engine import loader
from slm_adapters.engine.adapters import Adapters
from slm_adapters.engine.decoder import Decoder
from slm_adapters.engine.engine import ChatEngine, ChatRequest
from slm_adapters.engine.lean_llama import LeanLlama
from slm_adapters.engine.loader import loaded_models, unload_all
from slm_adapters.engine.network import TransformersNetwork
from slm_adapters.engine.sampling import Sampling
from slm_adapters.errors import AdapterError, ModelNotFoundError, RequestError

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 192}
HI = ChatRequest((Message("user", "Where is my order?"),), max_tokens=12)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``place(architecture)``: the folder of a base and those of three adapters on it."""

    @cache
    def made(architecture: str = "llama") -> tuple[Path, list[Path]]:
        root = tmp_path_factory.mktemp(architecture)
        shape = SHAPE if architecture in ("llama", "qwen3", "mistral") else {}
        base = tiny_model(root / "base", architecture, **shape)
        return base, [random_adapter(base, root / f"role{n}", n) for n in range(3)]

    return made


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    unload_all()
    yield
    unload_all()


def load_engine(model: Any, **options: Any) -> Any:
    return loader.load_engine(model, **{"device": "cpu", **options})


def read(base: Path, dtype: Any = torch.float32, quantization: str = "none") -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": dtype}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": "cpu"}
    return AutoModelForCausalLM.from_pretrained(base, **options).eval().requires_grad_(False)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 390, (length,), generator=generator).tolist()


def peft_says(base: Any, folder: Path, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = peft_model(base, folder).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        do_sample=False,
    )
    return out[0, len(prompt) :].tolist()


class Bench:
    """A decoder over a base with adapters."""

    def __init__(self, model: Any, folders: list[Path], **options: Any) -> None:
        self.adapters = Adapters(model)
        self.held = [self.adapters.load(folder) for folder in folders]
        self.decoder = Decoder(model, adapters=self.adapters, **options)

    def key(self, number: int | None) -> str | None:
        return None if number is None else self.held[number].key

    def start(self, prompt: list[int], number: int | None) -> Any:
        generation = self.decoder.begin(prompt, Sampling(), self.key(number))
        with self.decoder.computing():
            while not generation.is_read:
                self.decoder.read(generation)
        return generation

    def write(self, generations: list[Any], count: int) -> list[list[int]]:
        written: list[list[int]] = [[] for _ in generations]
        with self.decoder.computing():
            for _ in range(count):
                tokens = self.decoder.choose(generations)
                for own, token in zip(written, tokens, strict=True):
                    own.append(token)
                self.decoder.advance(generations, tokens)
        return written

    def say(self, prompt: list[int], number: int | None, count: int = 16) -> list[int]:
        return self.write([self.start(prompt, number)], count)[0]


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen3", "gemma3", "phi3", "lfm2", "granite_hybrid", "smollm3"]
)
def test_greedy_tokens_are_pefts(place: Any, architecture: str) -> None:
    """On every linear layer of each architecture; and the base says what it said before."""
    base, folders = place(architecture)
    bench = Bench(read(base), folders[:2])
    prompt = prompt_of(40)
    plain = Decoder(read(base))
    alone = plain.begin(prompt, Sampling())
    bare = Bench.__new__(Bench)
    bare.decoder = plain
    with plain.computing():
        while not alone.is_read:
            plain.read(alone)
    unadapted = bare.write([alone], 16)[0]
    for number in (0, 1):
        expected = peft_says(read(base), folders[number], prompt, 16)
        assert bench.say(prompt, number) == expected
        assert expected != unadapted
    assert bench.say(prompt, None) == unadapted


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "lora_alpha": 3},
        {"r": 3, "rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.1.mlp.up_proj": 30}},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["gate_proj", "lm_head"]},
        {"target_modules": "all-linear", "layers_to_transform": None, "exclude_modules": "k_proj"},
    ],
    ids=["rslora", "patterns", "query-value", "head", "exclude"],
)
def test_scaling_ranks_and_targets_are_pefts(
    place: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    base, _ = place("llama")
    folder = random_adapter(base, tmp_path / "special", 5, **options)
    bench = Bench(read(base), [folder])
    assert isinstance(bench.decoder.network, LeanLlama)
    prompt = prompt_of(30)
    expected = peft_says(read(base), folder, prompt, 16)
    assert bench.say(prompt, 0) == expected
    assert bench.say(prompt, None) != expected


@pytest.mark.parametrize(
    ("dtype", "quantization"), [(torch.bfloat16, "none"), (torch.bfloat16, "nf4")], ids=str
)
def test_logits_over_bfloat16_and_nf4_are_pefts(place: Any, dtype: Any, quantization: str) -> None:
    """Up to roundings: PEFT computes an adapter in float32. Never merged into 4-bit weights."""
    base, folders = place("llama")
    prompt = torch.tensor([prompt_of(40)])
    bench = Bench(read(base, dtype, quantization), folders[:1])
    start = bench.start(prompt[0].tolist(), 0).logits.float()
    bare = bench.start(prompt[0].tolist(), None).logits.float()
    expected = peft_model(read(base, dtype, quantization), folders[0])(prompt).logits[0, -1].float()
    assert (start - expected).abs().max() < 0.05 * expected.abs().max()
    assert (bare - expected).abs().max() > 0.3 * expected.abs().max()
    assert all(lora.down.dtype is dtype for lora in bench.held[0].layers.values())


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "granite_hybrid"])
def test_t40_one_prompt_alternating_adapters(place: Any, architecture: str) -> None:
    """Each answer is PEFT's own, whatever was answered before from the same prompt."""
    base, folders = place(architecture)
    border = 7
    bench = Bench(read(base), folders[:2], borders=(border,), prefix_budget=64 << 20)
    prompt = [*prompt_of(60), border, *prompt_of(20, 1)]
    expected: list[Any] = [peft_says(read(base), folder, prompt, 10) for folder in folders[:2]]
    expected.append(bench.say(prompt, None, 10))
    cached = []
    for number in (0, 1, 0, 1, None, 0):
        generation = bench.start(prompt, number)
        cached.append(generation.cached_tokens)
        says = expected[2 if number is None else number]
        assert bench.write([generation], 10)[0] == says
    assert cached == [0, 0, 61, 61, 61, 61]


def test_t40_a_mixed_batch_gives_each_row_its_own(place: Any) -> None:
    """Rows of three adapters and of none, joining and leaving at different steps."""
    base, folders = place("llama")
    bench = Bench(read(base), folders, prefix_budget=64 << 20)
    order: list[int | None] = [0, None, 2, 1, 0, 1]
    prompts = [prompt_of(20 + 9 * (row // 2), row // 2) for row in range(len(order))]
    alone = [bench.say(prompt, number, 12) for prompt, number in zip(prompts, order, strict=True)]
    for number in (0, 1, 2):
        row = order.index(number)
        assert alone[row] == peft_says(read(base), folders[number], prompts[row], 12)
    running: list[int] = []
    generations: dict[int, Any] = {}
    written: dict[int, list[int]] = {row: [] for row in range(len(order))}
    waiting = list(range(len(order)))
    while waiting or running:
        if waiting:
            row = waiting.pop(0)
            generations[row] = bench.start(prompts[row], order[row])
            # Valid until the network's next step only.
            generations[row].logits = generations[row].logits.clone()
            running.append(row)
        for row, tokens in zip(
            running, bench.write([generations[r] for r in running], 2), strict=True
        ):
            written[row] += tokens
        running = [row for row in running if len(written[row]) < 12]
    assert list(written.values()) == alone


def test_layers_that_one_adapter_has_and_another_has_not(place: Any, tmp_path: Path) -> None:
    """A batch of adapters with different targets and ranks."""
    base, _ = place("llama")
    one = random_adapter(base, tmp_path / "one", 1, target_modules=["q_proj"], r=2)
    two = random_adapter(base, tmp_path / "two", 2, target_modules=["down_proj", "k_proj"], r=8)
    bench = Bench(read(base), [one, two])
    prompts = [prompt_of(12, row) for row in range(3)]
    order = (0, 1, None)
    alone = [bench.say(prompt, number) for prompt, number in zip(prompts, order, strict=True)]
    rows = [bench.start(prompt, number) for prompt, number in zip(prompts, order, strict=True)]
    assert bench.write(rows, 16) == alone


def test_an_adapter_is_held_once(place: Any) -> None:
    """The network's layout replaces the tensors that were read, so nothing is held twice."""
    base, folders = place("llama")
    bench = Bench(read(base), folders)
    for number in range(3):
        bench.say(prompt_of(5), number, 1)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for adapter in bench.held
        for lora in adapter.layers.values()
        for tensor in (lora.down, lora.up)
    }
    assert sum(storages.values()) == sum(adapter.nbytes for adapter in bench.held)


def test_one_base_for_all_engines_of_its_adapters(place: Any) -> None:
    """Four engines, one set of weights; each answers as PEFT's model does; sizes are listed."""
    base, folders = place("llama")
    engines = [load_engine(base), *(load_engine(base, adapter=folder) for folder in folders)]
    says = [engine.complete(HI).reply.message.content for engine in engines]
    assert len(set(says)) == 4
    (info,) = loaded_models()
    assert info.users == 4
    assert [adapter.name for adapter in info.adapters] == ["role0", "role1", "role2"]
    assert all(adapter.rank == 4 for adapter in info.adapters)
    assert 0 < sum(adapter.nbytes for adapter in info.adapters) < info.nbytes
    assert engines[1].name == "base:role0"
    assert load_engine(f"{base}:{folders[1]}").complete(HI).reply.message.content == says[2]
    del engines[3]
    gc.collect()
    assert [adapter.name for adapter in loaded_models()[0].adapters] == ["role0", "role1"]


def test_many_threads_with_different_adapters(place: Any) -> None:
    """One worker writes the replies of all together; each is what it is alone."""
    base, folders = place("llama")
    engines = [load_engine(base), *(load_engine(base, adapter=folder) for folder in folders)]
    expected = [engine.complete(HI).reply.message.content for engine in engines]
    got: dict[int, str] = {}

    def ask(number: int) -> None:
        got[number] = engines[number % 4].complete(HI).reply.message.content

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {number: expected[number % 4] for number in range(16)}


def test_names_are_added_and_removed_while_replies_run(place: Any) -> None:
    """A removed adapter stays until its reply has ended, and is gone then."""
    base, folders = place("llama")
    engine = load_engine(base)
    engine.warm_up()
    engine.adapters.add("triage", folders[0])
    triage = load_engine(base, adapter="triage")
    expected = load_engine(base, adapter=folders[0]).complete(HI).reply.message.content
    stream = triage.stream(HI)
    first = next(stream)
    adapter = weakref.ref(triage._used[2])
    engine.adapters.remove("triage")
    with pytest.raises(ModelNotFoundError, match=r"no adapter 'triage'.*adapters\.add"):
        triage.complete(HI)
    del triage
    gc.collect()
    assert adapter() is not None
    *_, last = stream
    assert last.reply.message.content == expected
    assert first.text
    del stream, last
    gc.collect()
    assert adapter() is None
    assert loaded_models()[0].adapters == ()
    assert list(engine.adapters) == []
    with pytest.raises(ModelNotFoundError, match="no adapter 'triage' to remove"):
        engine.adapters.remove("triage")


def test_a_name_can_be_given_to_another_folder(place: Any) -> None:
    """The next call has the new one, and nothing of the old one's prompt."""
    base, folders = place("llama")
    engine = load_engine(base, adapter="triage")
    engine.adapters.add("triage", folders[0])
    first = engine.complete(HI).reply.message.content
    engine.adapters.add("triage", folders[1])
    second = engine.complete(HI).reply.message.content
    assert (
        second == load_engine(base, adapter=folders[1]).complete(HI).reply.message.content != first
    )
    engine.adapters.remove("triage")


def test_names_outlive_unloading(place: Any) -> None:
    base, folders = place("llama")
    engine = load_engine(base, adapter="kept")
    engine.adapters.add("kept", folders[0])
    text = engine.complete(HI).reply.message.content
    unload_all()
    assert engine.complete(HI).reply.message.content == text
    engine.adapters.remove("kept")


def test_an_adapter_that_was_trained_again_is_another_one(place: Any, tmp_path: Path) -> None:
    """New content in the same folder: a new engine reads it, and reuses no prefix of the old."""
    base, folders = place("llama")
    folder = tmp_path / "again"
    random_adapter(base, folder, 1)
    old = load_engine(base, adapter=folder)
    before = old.complete(HI).reply.message.content
    random_adapter(base, folder, 2)
    new = load_engine(base, adapter=folder)
    assert (
        new.complete(HI).reply.message.content
        == load_engine(base, adapter=folders[2]).complete(HI).reply.message.content
    )
    assert old.complete(HI).reply.message.content == before
    assert len({info.revision for info in loaded_models()[0].adapters}) == 2


def test_engines_with_an_adapter_can_be_copied(place: Any) -> None:
    import copy
    import pickle

    base, folders = place("llama")
    engine = load_engine(base, adapter=folders[0])
    text = engine.complete(HI).reply.message.content
    for twin in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert twin.complete(HI).reply.message.content == text


def test_t46_four_bit_weights_stay_as_they_are(place: Any) -> None:
    """Nothing is merged, and nobody asks a used 4-bit model for its state."""
    base, folders = place("llama")
    engine = load_engine(base, adapter=folders[0], quantization="nf4")
    engine.warm_up()
    model = engine._handle.loaded().model
    packed = {
        name: module.weight.data.clone()
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit"
    }
    assert packed
    engine.complete(HI)
    for name, weight in packed.items():
        assert torch.equal(model.get_submodule(name).weight.data, weight)


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy of an adapter with another config."""
    target.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | changes))
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (target / "adapter_model.safetensors").write_bytes(weights)
    return target


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora.*without DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "IA3: train a LoRA"),
        ({"init_lora_weights": "pissa"}, "pissa, which changes the base"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    place: Any, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """With what to do, before anything is computed; the base goes on answering."""
    base, folders = place("llama")
    engine = load_engine(base, adapter=edited(folders[0], tmp_path / "edited", **changes))
    with pytest.raises(AdapterError, match=says):
        engine.warm_up()
    assert load_engine(base).complete(HI).reply.message.content


def test_an_adapter_of_another_model_is_refused(
    place: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its shapes or layers; a base of another name alone is only mentioned."""
    base, _ = place("llama")
    wide = tiny_model(tmp_path / "wide")
    with pytest.raises(
        AdapterError,
        match=r"is \d+ to \d+ at model\.layers\.0.*, which is \d+ to \d+: load the model",
    ):
        load_engine(base, adapter=random_adapter(wide, tmp_path / "a", 0)).warm_up()
    deep = tiny_model(tmp_path / "deep", num_hidden_layers=3, **SHAPE)
    with pytest.raises(AdapterError, match=r"model\.layers\.2\S+, which this model does not have"):
        load_engine(base, adapter=random_adapter(deep, tmp_path / "b", 0)).warm_up()
    twin = tiny_model(tmp_path / "twin", **SHAPE)
    load_engine(base, adapter=random_adapter(twin, tmp_path / "c", 0)).warm_up()
    assert "adapter c was trained on twin, and runs on base" in caplog.text


def test_broken_and_missing_adapters(place: Any, tmp_path: Path) -> None:
    base, folders = place("llama")
    broken = edited(folders[0], tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(AdapterError, match="broken cannot be read"):
        load_engine(base, adapter=broken).warm_up()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json and no adapter_model"):
        load_engine(base, adapter=empty).warm_up()
    with pytest.raises(ModelNotFoundError, match="no adapter '/nowhere'"):
        load_engine(base, adapter="/nowhere").warm_up()
    with pytest.raises(RequestError, match="adapter= goes with a model's name"):
        load_engine(load_engine(base), adapter=folders[0])


def test_weights_that_are_no_numbers_are_refused(place: Any, tmp_path: Path) -> None:
    """In a mixed batch they would reach the rows of others."""
    from safetensors.torch import load_file, save_file

    base, folders = place("llama")
    folder = edited(folders[0], tmp_path / "nan")
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = torch.nan
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="no numbers"):
        load_engine(base, adapter=folder).warm_up()


def test_a_layer_computed_without_being_called_is_noticed(place: Any, monkeypatch: Any) -> None:
    """A fused kernel reads a layer's weight itself; an adapter there would do nothing."""
    base, folders = place("gemma3")
    model = read(base)
    mlp = model.model.layers[0].mlp
    monkeypatch.setattr(
        mlp,
        "forward",
        lambda x: torch.nn.functional.linear(
            mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight
        ),
    )
    bench = Bench(model, folders[:1])
    assert isinstance(bench.decoder.network, TransformersNetwork)
    with pytest.raises(AdapterError, match=r"layers\.0\.mlp\.down_proj.*without calling it"):
        bench.start(prompt_of(5), 0)


def test_t29_the_cache_key_names_the_adapter(place: Any) -> None:
    """LangChain's cache must not give one specialist's answer for another's."""
    from langchain_core.caches import InMemoryCache

    from slm_adapters.langchain import ChatSLM

    base, folders = place("llama")
    shared = InMemoryCache()
    options: dict[str, Any] = {"device": "cpu", "max_tokens": 12, "cache": shared}
    models = [ChatSLM(base, adapter=folder, **options) for folder in folders]
    texts = [model.invoke("Where is my order?").content for model in models]
    assert len(set(texts)) == 3
    assert [model.invoke("Where is my order?").content for model in models] == texts


def test_t30_a_call_may_name_another_model_or_adapter(place: Any) -> None:
    """``model=`` at the call wins, with its own adapter or none; so does ``adapter=``."""
    from slm_adapters.langchain import ChatSLM

    base, folders = place("llama")
    plain = ChatSLM(base, device="cpu", max_tokens=12)
    bound = ChatSLM(base, adapter=folders[0], device="cpu", max_tokens=12)
    texts = [bound.invoke("hi").content, plain.invoke("hi").content]
    assert texts[0] != texts[1]
    assert plain.invoke("hi", model=f"{base}:{folders[0]}").content == texts[0]
    assert plain.invoke("hi", adapter=str(folders[0])).content == texts[0]
    assert bound.invoke("hi", adapter=None).content == texts[1]
    assert bound.invoke("hi", model="bundled").response_metadata["model_name"] == "bundled"


def test_crewai_and_litellm_take_adapters(place: Any) -> None:
    """``SLM(base, adapter=...)`` and ``slm/base:adapter`` answer as the engine does."""
    import litellm

    from slm_adapters.crewai import SLM
    from slm_adapters.litellm import register, unregister

    base, folders = place("llama")
    engine: ChatEngine = load_engine(base, adapter=folders[0])
    expected = engine.complete(
        ChatRequest((Message("user", "hi"),), max_tokens=12)
    ).reply.message.content
    llm = SLM(base, adapter=folders[0], device="cpu", max_tokens=12)
    assert llm.model_name == "base:role0"
    assert llm.call("hi").strip() == expected.strip()
    messages = [{"role": "user", "content": "hi"}]
    register()
    try:
        for options in (
            {"model": f"slm/{base}:{folders[0]}"},
            {"model": f"slm/{base}", "adapter": str(folders[0])},
        ):
            answer = litellm.completion(messages=messages, max_tokens=12, device="cpu", **options)
            assert answer.choices[0].message.content.strip() == expected.strip()
    finally:
        unregister()
