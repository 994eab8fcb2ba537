"""Loading: lazy, once, shared, given back; early and readable errors."""

from __future__ import annotations

import copy
import gc
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_model

from slm_adapters.calls import Message
from slm_adapters.engine import loader
from slm_adapters.engine.engine import ChatEngine, ChatRequest
from slm_adapters.engine.loader import loaded_models, unload_all
from slm_adapters.errors import (
    ChatTemplateError,
    MissingExtraError,
    ModelLoadError,
    ModelNotFoundError,
)
from slm_adapters.testing import ScriptedModel

HI = ChatRequest((Message("user", "hi"),), max_tokens=4)


def load_engine(model: Any, **options: Any) -> ChatEngine:
    """On the CPU, also where there is a GPU."""
    return loader.load_engine(model, **{"device": "cpu", **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    unload_all()
    yield
    unload_all()


def in_new_process(code: str, **environment: str) -> str:
    """Run Python code without this process's imports; its standard output and error."""
    source = str(Path(__file__).resolve().parent.parent / "src")
    env = {**os.environ, "PYTHONPATH": source, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_construction_takes_milliseconds_and_imports_nothing_heavy(folder: Path) -> None:
    """Neither importing the loader nor making an engine touches torch or transformers."""
    code = f"""
import sys, time
from slm_adapters.engine.loader import load_engine
first = load_engine({str(folder)!r})
start = time.perf_counter()
for _ in range(20):
    engine = load_engine({str(folder)!r})
    engine.context_window, engine.name
print(round((time.perf_counter() - start) / 20 * 1000, 2))
print([m for m in ("torch", "transformers", "bitsandbytes", "tokenizers") if m in sys.modules])
"""
    milliseconds, heavy = in_new_process(code).splitlines()
    assert float(milliseconds) < 20
    assert heavy == "[]"


def test_concurrent_first_calls_load_once(folder: Path, monkeypatch: Any) -> None:
    """Eight threads, two engines: one load, shared weights, all replies."""
    from slm_adapters.engine import weights

    loads, original = [], weights.load_model

    def counted(*args: Any) -> Any:
        loads.append(threading.get_ident())
        time.sleep(0.1)
        return original(*args)

    monkeypatch.setattr(weights, "load_model", counted)
    engines = [load_engine(folder), load_engine(str(folder))]
    replies: list[Any] = []

    def work(index: int) -> None:
        replies.append(engines[index % 2].complete(HI).reply)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loads) == 1
    assert len(replies) == 8
    assert all(reply == replies[0] for reply in replies)
    (info,) = loaded_models()
    assert info.users == 2
    assert info.nbytes > 100_000
    assert (info.quantization, info.device, info.dtype) == ("none", "cpu", "float32")


def test_t14_copies_share_weights_and_hold_none(folder: Path) -> None:
    """deepcopy and pickle carry the name and options; the weights stay one."""
    engine = load_engine(folder, context_window=99)
    engine.warm_up()
    twins = [copy.deepcopy(engine), pickle.loads(pickle.dumps(engine)), copy.copy(engine)]
    assert len(pickle.dumps(engine)) < 1000
    expected = engine.complete(HI).reply
    for twin in twins:
        assert twin.context_window == 99
        assert twin.complete(HI).reply == expected
    assert [info.users for info in loaded_models()] == [4]


def test_the_last_engine_takes_the_weights_along(folder: Path) -> None:
    """Weights are freed with the last engine, not before, and not while a stream runs."""
    import weakref

    one, two = load_engine(folder), load_engine(folder)
    one.warm_up()
    two.warm_up()
    model = weakref.ref(one._handle.loaded().model)  # type: ignore[attr-defined]
    del one
    gc.collect()
    assert [info.users for info in loaded_models()] == [1]
    stream = two.stream(HI)
    next(stream)
    del two
    gc.collect()
    assert len(list(stream)) >= 1
    del stream
    gc.collect()
    assert loaded_models() == []
    assert model() is None


def test_t51_unload_all_while_a_reply_runs(folder: Path) -> None:
    """The running reply finishes; the engine loads again for the next one."""
    engine = load_engine(folder)
    expected = engine.complete(HI).reply
    stream = engine.stream(HI)
    next(stream)
    unload_all()
    assert loaded_models() == []
    *_, last = stream
    assert last.reply == expected
    assert engine.complete(HI).reply == expected
    assert len(loaded_models()) == 1


def test_t51_one_base_two_quantizations(tmp_path: Path, monkeypatch: Any) -> None:
    """The same folder as nf4, int8 and whole weights: three loads side by side."""
    from slm_adapters.engine import lean_linear

    # As on a machine whose memory is short: nf4 is not kept written out as well.
    monkeypatch.setattr(lean_linear, "is_little", lambda nbytes: False)
    big = tiny_model(tmp_path, num_attention_heads=4, num_key_value_heads=4)
    engines = {q: load_engine(big, quantization=q) for q in ("nf4", "int8", "none")}
    for word, engine in engines.items():
        completion = engine.complete(HI)
        assert completion.usage.output_tokens == 4
        assert completion.attributes["slm_adapters.quantization"] == word
    sizes = {info.quantization: info.nbytes for info in loaded_models()}
    assert sizes["nf4"] < sizes["int8"] < sizes["none"]


def test_auto_on_a_cpu_is_whole_weights_that_fit(folder: Path, monkeypatch: Any) -> None:
    """Without room for the checkpoint, auto becomes nf4."""
    from slm_adapters.engine import machine

    assert machine.best_quantization("cuda:0", 10**9) == "nf4"
    monkeypatch.setattr(machine, "_free_memory", lambda: 10**9)
    assert machine.best_quantization("cpu", 10**8) == "none"
    assert machine.best_quantization("cpu", 10**9) == "nf4"


def test_checkpoints_that_are_quantized_stay_so(tmp_path: Path) -> None:
    """auto does not quantize twice: the checkpoint's own word is reported."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    plain = tiny_model(tmp_path / "plain", num_attention_heads=4, num_key_value_heads=4)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=config, device_map={"": "cpu"}
    )
    # Saved before any forward: afterwards the CPU layout would be written (T46).
    model.save_pretrained(tmp_path / "quantized")
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "quantized")
    completion = load_engine(tmp_path / "quantized").complete(HI)
    assert completion.attributes["slm_adapters.quantization"] == "nf4"


def test_t46_weights_are_never_saved_or_dumped_after_use(folder: Path, monkeypatch: Any) -> None:
    """Nothing here asks a used 4-bit model for its state."""
    import torch

    engine = load_engine(folder, quantization="nf4")
    engine.warm_up()

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("state_dict after a forward")

    monkeypatch.setattr(torch.nn.Module, "state_dict", forbidden)
    engine.complete(HI)
    pickle.dumps(engine)
    loaded_models()
    unload_all()


def test_t47_shapes_the_cpu_kernel_refuses_are_found_before_loading(tmp_path: Path) -> None:
    """A readable error that names the layer and the way out, without reading the weights."""
    odd = tiny_model(tmp_path, intermediate_size=100)
    (odd / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelLoadError, match=r"mlp.*multiples of 64 and 32") as caught:
        load_engine(odd, quantization="nf4").warm_up()
    assert 'quantization="int8"' in str(caught.value)


def test_t48_bitsandbytes_fetches_nothing_from_the_hub(tmp_path: Path) -> None:
    """With a ``kernels`` package at hand, importing bitsandbytes for us does not call it."""
    fake = tmp_path / "kernels"
    fake.mkdir()
    (fake / "__init__.py").write_text(
        "def get_kernel(*a, **k):\n    print('FETCHED')\n    raise RuntimeError('no network')\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from slm_adapters.engine.quiet import no_kernel_download
with no_kernel_download():
    import bitsandbytes
import kernels
print("kernels" in sys.modules, hasattr(kernels, "get_kernel"))
"""
    out = in_new_process(code)
    assert "FETCHED" not in out
    assert "True True" in out


def test_loading_is_quiet_and_leaves_settings_alone(folder: Path, tmp_path: Path) -> None:
    """Nothing reaches the terminal, and a user's verbosity and progress bars survive."""
    hybrid = tiny_model(tmp_path, "granite_hybrid")
    code = f"""
import transformers
from transformers.utils import logging as hf
hf.set_verbosity_info()
def state():
    return hf.get_verbosity(), hf.is_progress_bar_enabled(), hf.get_logger("transformers").handlers
before = state()
from slm_adapters.calls import Message
from slm_adapters.engine.engine import ChatRequest
from slm_adapters.engine.loader import load_engine
for path in ({str(folder)!r}, {str(hybrid)!r}):
    load_engine(path).complete(ChatRequest((Message("user", "hi"),), max_tokens=2))
after = state()
print("same" if before == after else (before, after))
"""
    assert in_new_process(code).strip() == "same"


def test_one_line_tells_what_was_loaded(folder: Path, caplog: Any) -> None:
    """Model, device, quantization, size and time, at INFO."""
    with caplog.at_level(logging.INFO, logger="slm_adapters"):
        load_engine(folder).warm_up()
    (record,) = [r for r in caplog.records if r.name == "slm_adapters"]
    assert record.levelno == logging.INFO
    for part in (folder.name, "cpu", "none", "MB", " s"):
        assert part in record.getMessage()


def test_engines_are_returned_as_they_are() -> None:
    """Anything that already answers goes wherever a model name goes."""
    engine = ScriptedModel(["hi"])
    assert load_engine(engine) is engine


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/no/such/folder", "there is no folder"),
        ("./nowhere", "there is no folder"),
        ("a/b/c", "there is no folder"),
        ("specialist:research", "no specialist 'research' is registered"),
    ],
)
def test_unknown_models_are_named_at_once(model: str, says: str) -> None:
    """No weights are needed to say that there are none."""
    with pytest.raises(ModelNotFoundError, match=says):
        load_engine(model)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    """A folder must hold a config.json."""
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_engine(tmp_path)


def test_an_uncached_hub_model_offline(tmp_path: Path, monkeypatch: Any) -> None:
    """Construction works; the first use says how to get the model."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    engine = load_engine("nobody/nothing-1b")
    assert engine.name == "nobody/nothing-1b"
    with pytest.raises(ModelNotFoundError, match=r"hf download nobody/nothing-1b"):
        engine.warm_up()


def test_a_cached_hub_model_tells_its_window_before_loading(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The window comes from the cache's config.json, also one for multimodal models."""
    snapshot = tmp_path / "models--own--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"text_config": {"max_position_embeddings": 777}}')
    refs = tmp_path / "models--own--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert load_engine("own/tiny").context_window == 777
    assert load_engine("own/tiny", context_window=5).context_window == 5
    assert load_engine("own/unknown").context_window == 4096


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantization": "q4_k_m"}, "auto, nf4, int8, none"),
        ({"dtype": "float8"}, "auto, float32, bfloat16, float16"),
        ({"context_window": 0}, "at least 1"),
    ],
)
def test_unknown_words_name_the_known_ones(
    folder: Path, options: dict[str, Any], says: str
) -> None:
    """A typo is found where it was made."""
    with pytest.raises(ValueError, match=says):
        load_engine(folder, **options)


def test_none_means_whole_weights_and_dtypes_may_be_torch_ones(folder: Path) -> None:
    """quantization=None and dtype=torch.bfloat16 are as good as their words."""
    import torch

    engine = load_engine(folder, quantization=None, dtype=torch.bfloat16)
    engine.warm_up()
    (info,) = loaded_models()
    assert (info.quantization, info.dtype) == ("none", "bfloat16")


@pytest.mark.parametrize("package", ["torch", "transformers", "bitsandbytes"])
def test_missing_packages_name_the_extra(folder: Path, monkeypatch: Any, package: str) -> None:
    """One sentence with the command to type, at construction."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'slm-adapters\[local\]'"):
        load_engine(folder, quantization="nf4")


def test_a_model_without_chat_template(tmp_path: Path) -> None:
    """A base model is told apart from an instruction-tuned one when it is loaded."""
    engine = load_engine(tiny_model(tmp_path, chat_template=False))
    with pytest.raises(ChatTemplateError, match="instruction-tuned"):
        engine.warm_up()


def test_broken_weights(tmp_path: Path) -> None:
    """A file that cannot be read is a load error, not a traceback of the library."""
    broken = tiny_model(tmp_path)
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelLoadError):
        load_engine(broken).warm_up()


def test_a_failed_load_can_be_repeated(tmp_path: Path) -> None:
    """The error does not stick: once the files are right, the same engine works."""
    broken = tiny_model(tmp_path)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    engine = load_engine(broken)
    with pytest.raises(ModelLoadError):
        engine.warm_up()
    (broken / "model.safetensors").write_bytes(weights)
    assert engine.complete(HI).usage.output_tokens == 4


def test_weights_are_given_back_when_nothing_is_asked(folder: Path) -> None:
    """After keep_alive seconds without a call; the next call loads again."""
    engine = load_engine(folder, keep_alive=0.2)
    expected = engine.complete(HI).reply
    until = time.monotonic() + 20
    while loaded_models() and time.monotonic() < until:
        time.sleep(0.05)
    assert loaded_models() == []
    assert engine.complete(HI).reply == expected
    assert pickle.loads(pickle.dumps(engine))._handle.keep_alive == 0.2
    with pytest.raises(ValueError, match="keep_alive"):
        load_engine(folder, keep_alive=-1)


def test_the_engine_that_keeps_longest_decides(folder: Path) -> None:
    """None is for as long as the engine is there."""
    short, kept = load_engine(folder, keep_alive=0.1), load_engine(folder)
    short.complete(HI)
    kept.warm_up()
    time.sleep(0.5)
    assert [info.users for info in loaded_models()] == [2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_t51_a_forked_child_gets_an_error_instead_of_a_hang(folder: Path) -> None:
    """torch cannot compute after a fork; the engine says so at once."""
    engine = load_engine(folder)
    engine.warm_up()
    queue = multiprocessing.get_context("fork").Queue()

    def child() -> None:
        try:
            engine.complete(HI)
        except ModelLoadError as error:
            queue.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    try:
        assert "spawn" in queue.get(timeout=20)
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()


def test_two_loads_at_once_leave_the_loggers_as_they_were(tmp_path: Path) -> None:
    """Threads that load different models do not put back each other's changes."""
    import transformers.utils.logging as hf

    folders = [tiny_model(tmp_path / name) for name in "abcd"]
    before = list(hf.get_logger("transformers").handlers), hf.is_progress_bar_enabled()
    engines = [load_engine(folder) for folder in folders]
    threads = [threading.Thread(target=engine.warm_up) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loaded_models()) == 4
    assert (list(hf.get_logger("transformers").handlers), hf.is_progress_bar_enabled()) == before


def test_a_relative_folder_survives_a_change_of_directory(tmp_path: Path, monkeypatch: Any) -> None:
    """The name on a span is the folder's; a copy finds the folder from anywhere."""
    tiny_model(tmp_path / "own-model")
    monkeypatch.chdir(tmp_path)
    engine = load_engine("own-model")
    assert engine.name == "own-model"
    stored = pickle.dumps(engine)
    monkeypatch.chdir("/")
    assert pickle.loads(stored).complete(HI).usage.output_tokens == 4
