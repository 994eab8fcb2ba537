"""Does a model fit this machine? Answered from its config, before its weights are downloaded."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, ModelError, ModelLoadError, ModelNotFoundError
from . import machine
from .checkpoint import folder_of, locate
from .quiet import quiet
from .sizes import Skeleton

__all__ = ["Fit", "Row", "fit"]

#: Names for people -> ``quantization=`` and, for whole weights, ``dtype=``.
_WAYS = {
    "nf4": ("nf4", None),
    "int8": ("int8", None),
    "bf16": ("none", "bfloat16"),
    "fp32": ("none", "float32"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One way to hold the weights; sizes in bytes, the window in tokens."""

    held_as: str
    #: Of what is computed and cached.
    dtype: str
    weights: int
    adapters: int
    cache_per_token: int
    cache_at_window: int
    #: The largest window that fits; 0: the model does not.
    window: int
    #: Whether ``quantization="auto"`` means this here.
    automatic: bool

    @property
    def total(self) -> int:
        """Weights, adapters and one conversation that fills the model's window."""
        return self.weights + self.adapters + self.cache_at_window


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model needs and a machine has."""

    model: str
    parameters: int
    #: Tokens the model was built for.
    window: int
    #: How many layers keep every token, a sliding window, or a state of fixed size.
    layers: dict[str, int]
    device: str
    #: Bytes.
    free: int
    #: Bytes of one adapter.
    adapter: int
    rows: list[Row]


def fit(
    model: str,
    *,
    rank: int = 16,
    adapters: int = 0,
    device: str | None = None,
    memory: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Fit:
    """Compare a model with this machine, or with one that has ``memory`` bytes free.

    ``adapters``: how many LoRA adapters, of ``rank`` on every linear layer. Reads the config of a
    folder or a cached hub model: no weights, no network. Raises ``ModelNotFoundError``,
    ``ModelLoadError`` and ``MissingExtraError``.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("fit", package, "local")
    folder = _folder(model, revision)
    device = device or machine.best_device()
    free = memory or machine.free_memory(device)
    if free is None:
        raise ModelLoadError(f"the free memory of {device} is not known: pass it as memory=.")
    with _readable(model):
        asked = _Asked(folder, device, free, rank, adapters, trust_remote_code)
        rows = [asked.row(*way) for way in asked.ways()]
        some = asked.skeleton(rows[0].dtype)
        return Fit(
            model=model,
            parameters=some.parameters,
            window=asked.window,
            layers=_kinds(some),
            device=device,
            free=free,
            adapter=some.adapter(rank),
            rows=rows,
        )


class _Asked:
    """One model and one machine."""

    def __init__(
        self,
        folder: Path,
        device: str,
        free: int,
        rank: int,
        adapters: int,
        trust_remote_code: bool,
    ) -> None:
        from transformers import AutoConfig

        with quiet():
            self._config: Any = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
        self._trusted, self._device, self._free = trust_remote_code, device, free
        self._rank, self._adapters = rank, adapters
        self._files = machine.checkpoint_bytes(str(folder))
        self._skeletons: dict[str, Skeleton] = {}
        self.window = machine.built_window(self._config)

    def skeleton(self, dtype: str) -> Skeleton:
        if dtype not in self._skeletons:
            self._skeletons[dtype] = Skeleton(self._config, dtype, trust_remote_code=self._trusted)
        return self._skeletons[dtype]

    def ways(self) -> Iterator[tuple[str, str, str]]:
        """(name, quantization, dtype) of each row."""
        if getattr(self._config, "quantization_config", None):
            yield "as saved", "checkpoint", str(self._config.dtype or "bfloat16").split(".")[-1]
            return
        for name, (quantization, dtype) in _WAYS.items():
            yield name, quantization, dtype or self._computed_in(quantization)

    def row(self, name: str, quantization: str, dtype: str) -> Row:
        skeleton = self.skeleton(dtype)
        saved = quantization == "checkpoint"
        weights = self._files if saved else skeleton.weights(quantization)
        if weights is None:
            raise ModelLoadError(
                "it is quantized already, and only its files tell how big it is: download them, "
                "or ask about the original model."
            )
        adapters = self._adapters * skeleton.adapter(self._rank)
        left = machine.cache_room(self._free - weights - adapters)
        window = skeleton.cache_tokens(left, self.window)
        return Row(
            held_as=name,
            dtype=dtype,
            weights=weights,
            adapters=adapters,
            cache_per_token=sum(
                layer.per_token for layer in skeleton.cache_layers if layer.longest is None
            ),
            cache_at_window=skeleton.cache(self.window),
            window=window if window >= min(self.window, machine.LEAST_WINDOW) else 0,
            automatic=(quantization, dtype) == self._automatic,
        )

    @property
    def _automatic(self) -> tuple[str, str]:
        """What the loader would choose."""
        if getattr(self._config, "quantization_config", None):
            return "", ""
        size = self._files or self.skeleton(self._computed_in("none")).weights("none")
        quantization = machine.best_quantization(self._device, size, self._free)
        dtype = self._computed_in(quantization)
        # Two formats of one size share a row.
        return quantization, "bfloat16" if dtype == "float16" else dtype

    def _computed_in(self, quantization: str) -> str:
        return machine.best_dtype(self._device, self._config, quantization)


def _folder(model: str, revision: str | None) -> Path:
    folder = folder_of(locate(model), revision)
    if folder is None or not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{model} is not in the local cache: run `hf download {model} config.json`, a few "
            "kilobytes, and ask again."
        )
    return folder


def _kinds(skeleton: Skeleton) -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for layer in skeleton.cache_layers:
        if layer.per_token:
            kinds["full" if layer.longest is None else "sliding"] += 1
        elif layer.fixed:
            kinds["state"] += 1
    return dict(kinds)


@contextmanager
def _readable(model: str) -> Iterator[None]:
    """Whatever a config makes the libraries raise, in one sentence."""
    try:
        yield
    except ModelError as error:
        raise ModelLoadError(f"{model}: {error}") from error
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:160]
        raise ModelLoadError(
            f"the config of {model} describes no causal language model that this transformers "
            f"can build ({type(error).__name__}: {said}): check the name, upgrade transformers, or "
            "pass trust_remote_code if the model brings its own code."
        ) from error
