"""LoRA adapters of one loaded base: read from PEFT folders, kept beside its weights, never merged.

A specialist is its base's forward plus ``x A B`` at some linear layers. Networks find an adapter
by its ``key``; whoever wants it kept holds the ``Adapter`` itself, so one that was removed stays
until the replies that use it have ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterError, ModelNotFoundError

__all__ = ["Adapter", "AdapterInfo", "Adapters", "Lora", "NamedAdapters", "locate_adapter"]

logger = logging.getLogger("slm_adapters")

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
#: PEFT options that make an adapter more than ``x A B`` on an unchanged base, and what to do.
_UNSUPPORTED = {
    "use_dora": "train it without DoRA",
    "modules_to_save": "train it without modules_to_save",
    "trainable_token_indices": "train it without trainable_token_indices",
    "target_parameters": "train it on linear layers only",
    "layer_replication": "train it without layer_replication",
    "alora_invocation_tokens": "train it as a plain LoRA",
    "use_qalora": "train it as a plain LoRA",
    "use_bdlora": "train it as a plain LoRA",
    "arrow_config": "train it as a plain LoRA",
    "kasa_config": "train it as a plain LoRA",
    "velora_config": "train it as a plain LoRA",
    "monteclora_config": "train it as a plain LoRA",
    "lora_bias": "train it with lora_bias=False",
    "fan_in_fan_out": "train it on layers of torch.nn.Linear",
}
#: Initializations that leave the base as it was; the others expect a changed one.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(slots=True)
class Lora:
    """What an adapter adds to one linear layer: ``x @ down.T @ up``.

    ``down``: ``[rank, in]``. ``up``: ``[rank, out]``, with the scaling in it. A network may put
    views of its own layout in their place, of the same values.
    """

    down: Any
    up: Any


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Adapter:
    """One adapter in memory, on its base's device and in its number format."""

    #: Folder and revision: two adapters with the same key are the same.
    key: str
    #: The folder's name, for people.
    name: str
    #: The highest rank of its layers.
    rank: int
    nbytes: int
    #: By module name as in ``model.named_modules()``: ``model.layers.0.self_attn.q_proj``.
    layers: dict[str, Lora]


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One adapter in memory, for a list."""

    name: str
    revision: str
    rank: int
    nbytes: int


class Adapters:
    """The adapters on one loaded model; any thread may add while another one computes."""

    def __init__(self, model: Any) -> None:
        # Weakly: the networks that hold this belong to the model.
        self._model = weakref.ref(model)
        self._lock = threading.Lock()
        self._alive: weakref.WeakValueDictionary[str, Adapter] = weakref.WeakValueDictionary()
        self._named: dict[str, Adapter] = {}

    def load(self, folder: Path) -> Adapter:
        """The adapter in ``folder``, read now unless it is in memory.

        Raises ``AdapterError`` where it does not fit this base.
        """
        revision = _revision(folder)
        key = f"{folder}@{revision}"
        with self._lock:
            adapter = self._alive.get(key)
            if adapter is None:
                adapter = _read(key, folder, self._model())
                self._alive[key] = adapter
                text = "added adapter %s, rank %d, %.1f MB"
                logger.info(text, adapter.name, adapter.rank, adapter.nbytes / 1e6)
        return adapter

    def find(self, key: str) -> Adapter:
        """By its key, as long as somebody holds it."""
        adapter = self._alive.get(key)
        if adapter is None:
            raise AdapterError(f"adapter {Path(key).name} was removed: add it again.")
        return adapter

    def hold(self, name: str, adapter: Adapter | None) -> None:
        """Keep an adapter in memory under a name; None lets go of it."""
        with self._lock:
            if adapter is None:
                self._named.pop(name, None)
            else:
                self._named[name] = adapter

    def list(self) -> tuple[AdapterInfo, ...]:
        """What is in memory now."""
        with self._lock:
            found = sorted(self._alive.values(), key=lambda adapter: adapter.key)
        return tuple(
            AdapterInfo(adapter.name, adapter.key.rpartition("@")[2], adapter.rank, adapter.nbytes)
            for adapter in found
        )


_names_lock = threading.Lock()
#: By base, then by name; outlives unloading.
_names: dict[str, dict[str, Path]] = {}


class NamedAdapters:
    """The adapters of one base by name, for every engine of that base in this process.

    ``load_engine(base).adapters.add("triage", folder)``, then ``SLM(base, adapter="triage")``.
    """

    def __init__(self, base: str, loaded: Any) -> None:
        """``loaded``: gives the base's ``Adapters``, or None while it is not in memory."""
        self._base, self._loaded = base, loaded

    def add(self, name: str, folder: str | Path) -> None:
        """Give ``folder`` a name, or the name another folder.

        Read and checked now where the base is in memory, else on first use. Replies in the
        making keep the adapter they began with.
        """
        found = locate_adapter(str(folder))
        adapters = self._loaded()
        adapter = adapters.load(found) if adapters is not None else None
        with _names_lock:
            _names.setdefault(self._base, {})[name] = found
        if adapter is not None:
            adapters.hold(name, adapter)

    def remove(self, name: str) -> None:
        """Forget a name. Its memory is free once no engine and no reply uses the adapter."""
        with _names_lock:
            if _names.get(self._base, {}).pop(name, None) is None:
                known = ", ".join(sorted(_names.get(self._base, {}))) or "none"
                raise ModelNotFoundError(f"no adapter {name!r} to remove: there are {known}.")
        adapters = self._loaded()
        if adapters is not None:
            adapters.hold(name, None)

    def folder_of(self, name: str) -> Path | None:
        """What a name stands for now."""
        with _names_lock:
            return _names.get(self._base, {}).get(name)

    def __iter__(self) -> Iterator[str]:
        with _names_lock:
            return iter(sorted(_names.get(self._base, {})))


def locate_adapter(adapter: str) -> Path:
    """The folder that a path or a hub id stands for; raises ``ModelNotFoundError``."""
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve())
    if "/" not in adapter or folder.is_absolute() or adapter.startswith((".", "~")):
        raise ModelNotFoundError(
            f"no adapter {adapter!r}: pass the folder of a PEFT adapter, or give one this name "
            "with load_engine(base).adapters.add(name, folder)."
        )
    return _checked(_from_hub(adapter))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[_CONFIG, _WEIGHTS]))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"no adapter {name!r} in the local cache, and the hub did not give it: check the "
            f"name, go online, or run `hf download {name}` on a machine that is."
        ) from error


def _checked(folder: Path) -> Path:
    missing = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"{folder} has no {' and no '.join(missing)}: pass a folder that "
            "PeftModel.save_pretrained wrote (with safe_serialization)."
        )
    return folder


def _revision(folder: Path) -> str:
    """The content's digest: a folder that was trained again is another adapter."""
    digest = hashlib.sha256()
    for name in (_CONFIG, _WEIGHTS):
        digest.update(_checked(folder).joinpath(name).read_bytes())
    return digest.hexdigest()[:12]


def _read(key: str, folder: Path, model: Any) -> Adapter:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name = folder.name
    try:
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        weights = load_file(str(folder / _WEIGHTS))
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(
            f"adapter {name} cannot be read ({type(error).__name__}): "
            "check that its files are complete."
        ) from error
    _check_kind(name, config)
    _mention_other_base(name, config, model)
    layers = {
        module: _lora(name, module, pair, config, model)
        for module, pair in _pairs(name, weights, model).items()
    }
    nbytes = _in_one_block(list(layers.values()))
    rank = max(lora.down.shape[0] for lora in layers.values())
    return Adapter(key, name, rank, nbytes, layers)


def _check_kind(name: str, config: Any) -> None:
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise AdapterError(f"adapter {name} is of kind {kind}: train a LoRA adapter.")
    for option, advice in _UNSUPPORTED.items():
        if config.get(option):
            raise AdapterError(f"adapter {name} uses {option}, which is not supported: {advice}.")
    if config.get("bias", "none") != "none":
        raise AdapterError(f'adapter {name} changes biases: train it with bias="none".')
    start = config.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"adapter {name} began as {start}, which changes the base: save it with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it a plain LoRA."
        )


def _mention_other_base(name: str, config: dict[str, Any], model: Any) -> None:
    """Trained on a quantized copy or at another path is common, so this is no error."""
    trained = Path(str(config.get("base_model_name_or_path") or "")).name.lower()
    here = Path(str(getattr(model.config, "_name_or_path", "") or "")).name.lower()
    if trained and here and trained != here:
        logger.warning("adapter %s was trained on %s, and runs on %s", name, trained, here)


def _pairs(name: str, weights: dict[str, Any], model: Any) -> dict[str, dict[str, Any]]:
    """``lora_A`` and ``lora_B`` by module."""
    pairs: dict[str, dict[str, Any]] = {}
    for key, tensor in weights.items():
        module, _, rest = key.removeprefix(_PREFIX).partition(".lora_")
        if not rest and _is_the_bases(module, tensor, model):
            continue
        if rest not in ("A.weight", "B.weight"):
            raise AdapterError(
                f"adapter {name} has weights of another kind ({key}): train a LoRA adapter of "
                "linear layers only."
            )
        pairs.setdefault(module, {})[rest[0]] = tensor
    if not pairs:
        raise AdapterError(f"adapter {name} has no weights: train it before it is used.")
    return pairs


def _is_the_bases(key: str, tensor: Any, model: Any) -> bool:
    """PEFT saves embeddings and heads along where it is not sure that they are unchanged."""
    import torch

    try:
        own = model.get_parameter(key.replace(".base_layer.", "."))
    except AttributeError:
        return False
    same = own.shape == tensor.shape
    return same and torch.equal(own, tensor.to(device=own.device, dtype=own.dtype))


def _lora(name: str, module: str, pair: dict[str, Any], config: dict[str, Any], model: Any) -> Lora:
    import torch

    try:
        layer = model.get_submodule(module)
    except AttributeError:
        raise AdapterError(
            f"adapter {name} changes {module}, which this model does not have: "
            "load the model it was trained on."
        ) from None
    down, up = pair.get("A"), pair.get("B")
    sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if down is None or up is None or None in sizes:
        raise AdapterError(
            f"adapter {name} does not change {module} as a linear layer: "
            "train a LoRA adapter of linear layers only."
        )
    if (down.shape[1], up.shape[0]) != sizes or down.shape[0] != up.shape[1]:
        raise AdapterError(
            f"adapter {name} is {down.shape[1]} to {up.shape[0]} at {module}, which is "
            f"{sizes[0]} to {sizes[1]}: load the model it was trained on."
        )
    if not (down.isfinite().all() and up.isfinite().all()):
        raise AdapterError(f"adapter {name} has weights that are no numbers: train it again.")
    scaling = _scaling(module, down.shape[0], config)
    place: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
    scaled = (up.to(torch.float32) * scaling).T.contiguous()
    return Lora(down.to(**place), scaled.to(**place))


def _in_one_block(loras: list[Lora]) -> int:
    """Move all matrices into one allocation, which goes back whole; its size in bytes."""
    import torch

    numbers = torch.cat([tensor.flatten() for lora in loras for tensor in (lora.down, lora.up)])
    start = 0
    for lora in loras:
        middle = start + lora.down.numel()
        end = middle + lora.up.numel()
        lora.down = numbers[start:middle].view_as(lora.down)
        lora.up = numbers[middle:end].view_as(lora.up)
        start = end
    return int(numbers.nbytes)


def _scaling(module: str, rank: int, config: dict[str, Any]) -> float:
    """PEFT's: alpha over the rank, or over the rank's root (rsLoRA)."""
    alpha = config.get("lora_alpha", 8)
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = special
            break
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)
