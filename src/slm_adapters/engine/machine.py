"""What this machine can carry: device, number format, quantization, memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from .checkpoint import folder_of

__all__ = [
    "LEAST_WINDOW",
    "best_device",
    "best_dtype",
    "best_quantization",
    "built_window",
    "cache_room",
    "cache_tokens",
    "checkpoint_bytes",
    "fitting_window",
    "free_memory",
    "is_little",
]

#: A smaller window is of no use to an agent.
LEAST_WINDOW = 512
#: What takes at most this part of the free memory is kept for speed alone.
_LITTLE = 16


def best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_quantization(device: str, checkpoint_bytes: int | None, free: int | None = None) -> str:
    """nf4 on CUDA; elsewhere whole weights if they fit in memory, which are faster there."""
    if device.startswith("cuda"):
        return "nf4"
    free = free or _free_memory()
    fits = checkpoint_bytes is None or free is None or checkpoint_bytes * 1.5 < free
    return "none" if fits or device == "mps" else "nf4"


def best_dtype(device: str, config: Any, quantization: str) -> str:
    import torch

    wanted = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    if quantization == "checkpoint":
        return "auto"
    if device.startswith("cpu"):
        if quantization == "nf4":
            return "bfloat16" if _fast_bfloat16() else "float32"
        return "bfloat16" if wanted != "float32" and _fast_bfloat16() else "float32"
    if wanted == "float32":
        return "bfloat16" if device.startswith("cuda") and quantization != "none" else "float32"
    if device.startswith("cuda") and not torch.cuda.is_bf16_supported():
        return "float16"
    return wanted


def _fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulation is slower than float32."""
    import torch

    for probe_name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, probe_name, None)
        if supported is not None and supported():
            return True
    return False


def free_memory(device: str) -> int | None:
    """Bytes of ``device`` that nobody uses; None where that is unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return _free_memory()


def _free_memory() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return None


def is_little(nbytes: int) -> bool:
    """Whether so many bytes are hardly noticed beside what is free on this machine."""
    free = _free_memory()
    return free is not None and nbytes <= free // _LITTLE


def checkpoint_bytes(path: str, revision: str | None = None) -> int | None:
    """Bytes of the weight files of a folder or a cached hub model; None where there are none."""
    folder = folder_of(path, revision)
    if folder is None:
        return None
    files = [f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")]
    return sum(f.stat().st_size for f in files) or None


def built_window(config: Any) -> int:
    """Tokens a model was built for."""
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", 0) or 4096)


def fitting_window(model: Any) -> int:
    """Tokens the model was built for, or fewer when their keys and values would not fit."""
    window, room = built_window(model.config), cache_tokens(model)
    return window if room is None else max(min(window, room), min(window, LEAST_WINDOW))


def cache_tokens(model: Any) -> int | None:
    """Tokens whose keys and values fit beside the weights; None where that is unknown."""
    config = model.config.get_text_config(decoder=True)
    free = free_memory(str(model.device))
    per_token = _cache_bytes_per_token(config, model.dtype.itemsize)
    return cache_room(free) // per_token if free is not None and per_token else None


def cache_room(free: int) -> int:
    """Bytes for keys and values, of those free beside the weights: the rest is to compute in."""
    return free // 2


def _cache_bytes_per_token(config: Any, itemsize: int) -> int:
    heads = getattr(config, "num_key_value_heads", None) or getattr(
        config, "num_attention_heads", 0
    )
    size = getattr(config, "head_dim", None) or (
        config.hidden_size // max(getattr(config, "num_attention_heads", 1), 1)
    )
    types = getattr(config, "layer_types", None) or []
    layers = sum("full" in t or t == "attention" for t in types) or config.num_hidden_layers
    return int(2 * layers * heads * size * itemsize) if isinstance(heads, int) else 0
