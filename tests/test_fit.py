"""``slm-adapters fit``: its estimates against loaded models, its verdicts against the engine's."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from test_cli import BUNDLED, invoke
from tiny_models import tiny_model

from slm_adapters.engine import machine
from slm_adapters.engine.fit import Fit, Row, fit
from slm_adapters.engine.loader import load_engine, loaded_models
from slm_adapters.engine.network import TransformersNetwork, networks
from slm_adapters.engine.sizes import Skeleton, _tensor_bytes, held_bytes
from slm_adapters.engine.weights import _read_weights, resolve
from slm_adapters.errors import ModelLoadError, ModelNotFoundError

ARCHITECTURES = ["llama", "qwen3", "smollm3", "gemma3", "phi3", "lfm2", "granite_hybrid"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folders of tiny models by architecture, with shapes that nf4 can take."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            path = tmp_path_factory.mktemp(architecture)
            made[architecture] = tiny_model(path / "tiny", architecture)
        return made[architecture]

    return folder


def row_of(found: Fit, held_as: str) -> Row:
    return next(row for row in found.rows if row.held_as == held_as)


QUANTIZED = [(name, way) for name in ("llama", "lfm2", "bundled") for way in ("nf4", "int8")]


@pytest.mark.parametrize(
    ("architecture", "held_as"), [*((name, "bf16") for name in ARCHITECTURES), *QUANTIZED]
)
def test_weights_are_exactly_those_of_the_loaded_model(tiny, architecture, held_as) -> None:
    """Without reading one: quantized layers, tied heads, buffers, scales."""
    quantization = "none" if held_as == "bf16" else held_as
    if quantization != "none":
        pytest.importorskip("bitsandbytes")
    folder = BUNDLED if architecture == "bundled" else tiny(architecture)
    found = fit(str(folder), device="cpu")
    row = row_of(found, held_as)
    model = _read_weights(resolve(str(folder), None, quantization, row.dtype, "cpu", False))
    assert row.weights == held_bytes(model)
    if quantization == "none":
        assert found.parameters == sum(weight.numel() for weight in model.parameters())


def reachable(root: Any) -> int:
    """Bytes of all tensors that can be reached from here, each once."""
    found, seen, waiting = {}, set(), [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found[item.data_ptr()] = item.nbytes
            waiting.extend(vars(item).values())
        elif isinstance(item, FunctionType):
            waiting.extend(item.__closure__ or ())
        else:
            waiting.extend(gc.get_referents(item))
    return sum(found.values())


@pytest.mark.parametrize("used", [False, True], ids=["loaded", "used"])
@pytest.mark.parametrize("way", ["whole", "int8", "nf4", "nf4 twice"])
def test_what_a_model_holds_is_every_tensor_there_is(tiny, way, used) -> None:
    """Scales, tables, and the scales of scales; also in the layout that a first forward makes."""
    options: dict[str, Any] = {}
    if way != "whole":
        pytest.importorskip("bitsandbytes")
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_8bit=way == "int8",
            load_in_4bit=way != "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=way == "nf4 twice",
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny("llama"), dtype=torch.float32, device_map={"": "cpu"}, **options
    ).eval()
    if used:
        with torch.inference_mode():
            model(input_ids=torch.full((1, 3), 5))
    # An int8 layer remembers a few indices of its last forward; any scale would be more.
    notes = 64 if way == "int8" and used else 1
    assert 0 <= reachable(model) - held_bytes(model) < notes


def test_the_size_that_is_told_is_the_one_estimated(tiny) -> None:
    """``slm-adapters fit`` before, ``loaded_models()`` after."""
    pytest.importorskip("bitsandbytes")
    folder = tiny("lfm2")
    engine = load_engine(folder, quantization="nf4", device="cpu")
    engine.warm_up()
    (told,) = (info.nbytes for info in loaded_models() if info.model == str(folder))
    assert told == row_of(fit(str(folder), device="cpu"), "nf4").weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cache_is_what_a_forward_fills(tiny, architecture) -> None:
    """Full, sliding, convolutional and recurrent layers, to the byte."""
    model = _read_weights(resolve(str(tiny(architecture)), None, "none", "bfloat16", "cpu", False))
    skeleton = Skeleton(model.config, "bfloat16")
    for tokens in (1, 15, 16, 17, 300):
        cache = transformers.DynamicCache(config=model.config)
        with torch.inference_mode():
            model(input_ids=torch.full((1, tokens), 5), past_key_values=cache, use_cache=True)
        assert skeleton.cache(tokens) == sum(_tensor_bytes(vars(layer)) for layer in cache.layers)


def test_the_engine_s_own_cache_is_within_a_few_percent() -> None:
    """The lean step rounds its buffers up; at the window's end that is little."""
    model = _read_weights(resolve(str(BUNDLED), None, "none", "float32", "cpu", False))
    network = networks(model)[0]
    assert type(network) is not TransformersNetwork
    cache = network.new_cache([])
    with torch.inference_mode():
        for _ in range(2047 // 89):
            network.step([5] * 89, cache)
    real = _tensor_bytes([cache.layers])
    assert Skeleton(model.config, "float32").cache(2047) == pytest.approx(real, rel=0.05)


def test_the_kinds_of_layers_are_told(tiny) -> None:
    """What stops growing is not charged for every token."""
    assert fit(str(tiny("gemma3")), device="cpu").layers == {"sliding": 1, "full": 1}
    assert fit(str(tiny("granite_hybrid")), device="cpu").layers == {"state": 1, "full": 1}
    gemma = row_of(fit(str(tiny("gemma3")), device="cpu"), "bf16")
    # 2 x 2 heads x 16 numbers x 2 bytes, in the full layer alone.
    assert gemma.cache_per_token == 128
    assert gemma.cache_at_window < 128 * 2 * 2048


def test_the_verdict_is_the_window_the_engine_gives(monkeypatch) -> None:
    """With the memory that weights and one whole window need, half of it for the cache."""
    for room in (10_000_000, 30_000_000):
        weights = row_of(fit("bundled", device="cpu"), "fp32").weights
        found = fit("bundled", device="cpu", memory=weights + room)
        monkeypatch.setattr(machine, "_free_memory", lambda room=room: room)
        model = _read_weights(resolve(str(BUNDLED), None, "none", "float32", "cpu", False))
        assert row_of(found, "fp32").window == machine.fitting_window(model)
        monkeypatch.undo()


@pytest.mark.parametrize("memory", [30_000_000, 10**9])
def test_the_row_marked_is_what_auto_chooses(memory, monkeypatch) -> None:
    """nf4 where whole weights would not fit."""
    found = fit("bundled", device="cpu", memory=memory)
    monkeypatch.setattr(machine, "_free_memory", lambda: memory)
    source = resolve(str(BUNDLED), None, "auto", "auto", "cpu", False)
    (chosen,) = [row for row in found.rows if row.automatic]
    assert (chosen.held_as in ("bf16", "fp32")) is (source.quantization == "none")
    assert chosen.dtype == source.dtype


def test_adapters_are_counted(tiny) -> None:
    """rank x (inputs + outputs) numbers per linear layer, per adapter."""
    found = fit(str(tiny("llama")), rank=8, adapters=3, device="cpu")
    # Inputs and outputs of q and o, k and v, gate and up, down; two layers.
    layers = 2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 128) + (128 + 64)
    assert row_of(found, "bf16").adapters == 3 * 2 * 8 * layers * 2
    assert row_of(found, "fp32").adapters == 3 * 2 * 8 * layers * 4
    assert found.rows[0].adapters == 3 * found.adapter


def test_a_quantized_checkpoint_is_as_big_as_its_files(tmp_path) -> None:
    """It is not quantized twice; without the files nobody knows."""
    folder = tiny_model(tmp_path / "q")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (row,) = fit(str(folder), device="cpu").rows
    assert row.held_as == "as saved"
    assert row.weights == (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="download them"):
        fit(str(folder), device="cpu")


def test_a_cached_hub_model_needs_its_config_only(tmp_path, monkeypatch) -> None:
    """Nothing is downloaded, and nothing but config.json is there to read."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelNotFoundError, match=r"hf download org/tiny config\.json"):
        fit("org/tiny")
    made = tiny_model(tmp_path / "made", window=1024)
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    (snapshot / "config.json").write_bytes((made / "config.json").read_bytes())
    assert fit("org/tiny").window == 1024


def test_configs_that_are_none_are_named(tmp_path) -> None:
    """No config, no JSON, no model type, no language model: one sentence each."""
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        fit(str(tmp_path))
    for text in ("{broken", '{"model_type": "no-such-type"}', '{"model_type": "vit"}', "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelLoadError, match="no causal language model") as caught:
            fit(str(tmp_path))
        assert "\n" not in str(caught.value)


def test_the_command_prints_a_verdict_per_row() -> None:
    """Sizes, the choice of ``auto``, and what to type."""
    code, text = invoke("fit", "bundled", "--device", "cpu", "--adapters", "2")
    assert code == 0
    assert "14.3 million parameters, built for 2,048 tokens" in text
    assert "6 that keep every token" in text
    for held_as in ("nf4", "int8", "bf16", "fp32"):
        assert held_as in text
    assert text.count(" fits") == 4
    assert 'SLM("bundled") chooses this here.' in text
    code, text = invoke("fit", "bundled", "--device", "cpu", "--memory", "0.033")
    assert code == 0
    assert "up to 718 tokens" in text
    assert "does not fit" in text
    code, text = invoke("fit", "bundled", "--device", "cpu", "--memory", "0.002")
    assert "Nothing fits" in text


def test_json_has_every_figure() -> None:
    """For programs: bytes, tokens, and the total of each row."""
    code, text = invoke("fit", "bundled", "--device", "cpu", "--memory", "1", "--json")
    assert code == 0
    data = json.loads(text)
    assert (data["parameters"], data["free"], data["window"]) == (14_293_504, 10**9, 2048)
    for row in data["rows"]:
        assert row["total"] == row["weights"] + row["adapters"] + row["cache_at_window"]


def test_the_command_s_errors_are_one_sentence_and_its_help_teaches(tmp_path, monkeypatch) -> None:
    """What is not here says how to get it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code, text = invoke("fit", "org/nothing")
    assert code == 2
    assert text.startswith("Error: org/nothing is not in the local cache: run `hf download")
    code, text = invoke("fit", "--help")
    assert code == 0
    for word in ("--rank", "--memory", "--json", "hf download", "grows with every token"):
        assert word in text
