"""Read a model's weights once: where they are, how they are quantized, whether they fit.

Everything here needs torch and transformers and may take seconds; ``loader`` decides when.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import (
    ChatTemplateError,
    MissingExtraError,
    ModelError,
    ModelLoadError,
    ModelNotFoundError,
)
from .adapters import Adapters
from .decoder import Decoder
from .grammar import Grammars
from .machine import (
    best_device,
    best_dtype,
    best_quantization,
    cache_tokens,
    checkpoint_bytes,
    fitting_window,
)
from .quiet import no_kernel_download, quiet, somebody_waits
from .sampling import Sampling
from .scheduler import Scheduler
from .sizes import held_bytes
from .template_probe import ChatFormat
from .tokenizing import (
    chat_format_of,
    decoder,
    encoder,
    end_ids,
    render_chat,
    tools_keyword,
)
from .tool_formats import DELIMITERS

__all__ = ["LoadedModel", "Source", "load_model", "resolve"]

logger = logging.getLogger("slm_adapters")

#: Keys and values kept for reuse, at most: bytes on a CPU and on an accelerator.
_PREFIX_BYTES_CPU, _PREFIX_BYTES_GPU = 256 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Source:
    """What to load; the words are resolved, so equal sources are the same weights."""

    path: str
    revision: str | None
    quantization: str
    dtype: str
    device: str
    trust_remote_code: bool = False


@dataclass(slots=True, weakref_slot=True)
class LoadedModel:
    """One set of weights in memory, with what is needed to talk to it."""

    source: Source
    model: Any
    tokenizer: Any
    tools_keyword: str
    chat_format: ChatFormat
    decoder: Decoder
    window: int
    quantization: str
    device: str
    nbytes: int
    end_ids: tuple[int, ...]
    silent_ids: frozenset[int]
    special_tokens: tuple[str, ...]
    control_tokens: tuple[str, ...]
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    grammars: Grammars
    scheduler: Scheduler
    adapters: Adapters

    def template(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, answer: bool
    ) -> str:
        """The tokenizer's chat template as text."""
        return render_chat(self.tokenizer, self.tools_keyword, messages, tools, answer)


def resolve(
    path: str,
    revision: str | None,
    quantization: str,
    dtype: str,
    device: str | None,
    trust_remote_code: bool,
) -> Source:
    """Turn "auto" words into what this machine and this checkpoint call for."""
    device = device or best_device()
    with quiet(), _load_errors(path):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    if getattr(config, "quantization_config", None):
        quantization = "checkpoint"
    size = checkpoint_bytes(path, revision)
    if quantization == "auto":
        quantization = best_quantization(device, size)
    if dtype == "auto":
        dtype = best_dtype(device, config, quantization)
    return Source(path, revision, quantization, dtype, device, trust_remote_code)


def load_model(
    source: Source,
    name: str,
    idle_s: float | None = None,
    on_idle: Callable[[], None] | None = None,
) -> LoadedModel:
    """Load weights and tokenizer; logs one INFO line. Raises the errors of ``ModelError``.

    ``on_idle`` is called when nothing was asked for ``idle_s`` seconds after a reply.
    """
    start = time.perf_counter()
    bars = somebody_waits(checkpoint_bytes(source.path, source.revision))
    with quiet(bars=bars), no_kernel_download(), _load_errors(name):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        model = _read_weights(source)
        loaded = _assemble(source, model, tokenizer, idle_s, on_idle)
        # First forwards set up kernels, convert 4-bit weights and warn: here, not in a call.
        if not _first_forwards(loaded):
            raise ModelLoadError(
                f"{name} computes no finite numbers on {source.device} as {source.quantization}: "
                'pass another quantization= or dtype="float32".'
            )
    logger.info(
        "loaded %s on %s, %s, %.0f MB, %.1f s",
        name,
        loaded.device,
        loaded.quantization,
        loaded.nbytes / 1e6,
        time.perf_counter() - start,
    )
    return loaded


def _read_weights(source: Source) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "dtype": getattr(torch, source.dtype) if source.dtype != "auto" else "auto",
    }
    if source.quantization in ("nf4", "int8"):
        _require("bitsandbytes")
        _require("accelerate")
        _check_shapes(source)
        options["quantization_config"] = _bitsandbytes(source, options["dtype"])
    if source.quantization != "none":
        options["device_map"] = {"": source.device}
    model = AutoModelForCausalLM.from_pretrained(source.path, **options)
    if source.quantization == "none":
        model = model.to(source.device)
    return model.eval().requires_grad_(False)


def _bitsandbytes(source: Source, dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    if source.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _check_shapes(source: Source) -> None:
    """The 4-bit CPU kernel refuses some shapes, but only in the first forward."""
    if source.quantization != "nf4" or not source.device.startswith("cpu"):
        return
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(
            config, trust_remote_code=source.trust_remote_code
        )
    head = skeleton.get_output_embeddings()
    for name, layer in skeleton.named_modules():
        if not isinstance(layer, torch.nn.Linear) or layer is head:
            continue
        if layer.in_features % 64 or layer.out_features % 32:
            raise ModelLoadError(
                f"layer {name} ({layer.in_features} to {layer.out_features}) does not fit the "
                "4-bit CPU kernel, which needs multiples of 64 and 32: "
                'pass quantization="int8" or "none".'
            )


def _assemble(
    source: Source,
    model: Any,
    tokenizer: Any,
    idle_s: float | None,
    on_idle: Callable[[], None] | None,
) -> LoadedModel:
    if not getattr(tokenizer, "chat_template", None):
        raise ChatTemplateError(
            f"{source.path} has no chat template, so it cannot hold a conversation: use the "
            "instruction-tuned version of the model, or set chat_template in its tokenizer."
        )
    keyword = tools_keyword(tokenizer)
    added = {token: i for token, i in tokenizer.get_added_vocab().items() if token.strip()}
    special = set(tokenizer.all_special_tokens)
    ends = end_ids(model, tokenizer, added)
    budget = _PREFIX_BYTES_CPU if source.device.startswith("cpu") else _PREFIX_BYTES_GPU
    adapters = Adapters(model)
    steps = Decoder(model, borders=ends, prefix_budget=budget, adapters=adapters)
    nbytes = held_bytes(model) + getattr(steps.network, "kept_bytes", 0)
    encode = encoder(tokenizer)
    chat_format = chat_format_of(tokenizer, keyword)
    spoken = "".join(DELIMITERS) + chat_format.calls.write([("name", {"key": "value"})])
    silent = {i for token, i in added.items() if token in special and token not in spoken}
    return LoadedModel(
        source=source,
        model=model,
        tokenizer=tokenizer,
        tools_keyword=keyword,
        chat_format=chat_format,
        decoder=steps,
        window=fitting_window(model),
        quantization=_quantization_in_force(source, model),
        device=str(model.device),
        nbytes=nbytes,
        end_ids=ends,
        silent_ids=frozenset(silent) | set(ends),
        special_tokens=tuple(sorted(special & set(added), key=len, reverse=True)),
        control_tokens=tuple(sorted(added, key=len, reverse=True)),
        encode=encode,
        decode=decoder(tokenizer),
        grammars=Grammars(tokenizer, encode, ends=ends, size=_logits(model)),
        scheduler=Scheduler(steps, memory=cache_tokens(model), idle_s=idle_s, on_idle=on_idle),
        adapters=adapters,
    )


def _logits(model: Any) -> int:
    """Logits per token, which may be more than the tokenizer has tokens."""
    return int(model.config.get_text_config().vocab_size)


def _first_forwards(loaded: LoadedModel) -> bool:
    """One prefill and one step; whether they gave numbers."""
    decoder = loaded.decoder
    with decoder.computing():
        generation = decoder.begin(loaded.encode("a b") or [0], Sampling())
        while not generation.is_read:
            decoder.read(generation)
        decoder.advance([generation], decoder.choose([generation]))
        finite = bool(generation.logits.isfinite().all())
        decoder.end(generation)
    return finite


# --- what was loaded -------------------------------------------------------------------------


def _quantization_in_force(source: Source, model: Any) -> str:
    if source.quantization != "checkpoint":
        return source.quantization
    config = getattr(model.config, "quantization_config", None)
    data = config if isinstance(config, dict) else getattr(config, "to_dict", dict)()
    if data.get("load_in_4bit"):
        return str(data.get("bnb_4bit_quant_type", "nf4"))
    if data.get("load_in_8bit"):
        return "int8"
    return str(getattr(data.get("quant_method"), "value", data.get("quant_method", "checkpoint")))


@contextlib.contextmanager
def _load_errors(name: str) -> Any:
    """Errors of the libraries become ours, with what to do next."""
    try:
        yield
    except (ModelError, ImportError):
        raise
    except OSError as error:
        if Path(name).exists():
            raise ModelLoadError(
                f"{name} cannot be read ({type(error).__name__}): check that its files are "
                "complete."
            ) from error
        raise ModelNotFoundError(
            f"no model {name!r} in the local cache, and the hub did not give it: check the name, "
            f"go online, or run `hf download {name}` on a machine that is."
        ) from error
    except Exception as error:
        raise ModelLoadError(
            f"{name} cannot be loaded here ({_first_line(error)}): "
            "try another quantization=, dtype= or device=."
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError("a quantized local model", package, "local")
