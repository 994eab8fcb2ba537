"""One load per (model, revision, quantization, dtype, device): lazy, shared, counted.

``load_engine`` returns at once; weights are read on first use and given back when the last
engine that used them is gone.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MissingExtraError, ModelLoadError, RequestError
from .adapters import AdapterInfo, NamedAdapters
from .checkpoint import locate, split_adapter
from .engine import ChatEngine

if TYPE_CHECKING:
    from .weights import LoadedModel, Source

__all__ = ["LoadedInfo", "Quantization", "load_engine", "loaded_models", "unload_all"]

Quantization = Literal["auto", "nf4", "int8", "none"]

_QUANTIZATIONS = ("auto", "nf4", "int8", "none")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class LoadedInfo:
    """One set of weights in memory."""

    model: str
    revision: str | None
    quantization: str
    dtype: str
    device: str
    nbytes: int
    users: int
    #: On these weights, and not counted in ``nbytes``.
    adapters: tuple[AdapterInfo, ...] = ()


def load_engine(
    model: str | os.PathLike[str] | ChatEngine,
    *,
    quantization: Quantization | None = "auto",
    device: str | None = None,
    dtype: Any = None,
    revision: str | None = None,
    context_window: int | None = None,
    trust_remote_code: bool = False,
    adapter: str | os.PathLike[str] | None = None,
    keep_alive: float | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    tokenizer: str | None = None,
) -> ChatEngine:
    """An engine for a hub id, a folder, ``"bundled"``, or an engine (returned as it is).

    Takes milliseconds and no network; the first call loads. ``quantization="auto"``: nf4 on CUDA,
    whole weights on a CPU if they fit. ``context_window``: tokens, at most what the model has.
    ``adapter``: a PEFT LoRA folder, a hub id of one, or a name given with
    ``engine.adapters.add``; the model ``"base:adapter"`` says the same. Engines of one base share
    its weights, whatever their adapters. ``keep_alive``: seconds after the last reply until the
    weights are given back; None, which wins where engines differ, is as long as there is an
    engine. ``base_url``: ask for the model of that name on an OpenAI-compatible server instead;
    ``adapter`` is then the name the server has for it. ``tokenizer``: what to count its prompts
    with, where the server does not count. Raises ``ModelNotFoundError``, ``MissingExtraError``,
    and ``ValueError`` for unknown words.

    ``load_engine("Qwen/Qwen3-1.7B").complete(ChatRequest((Message("user", "hi"),)))``
    """
    if isinstance(model, ChatEngine):
        if adapter is not None:
            raise RequestError(
                "adapter= goes with a model's name: make the engine with "
                "load_engine(model, adapter=...)."
            )
        return model
    if base_url is not None:
        weights = {"quantization": quantization, "device": device, "dtype": dtype}
        weights |= {"revision": revision, "keep_alive": keep_alive}
        _check_remote(**weights, trust_remote_code=trust_remote_code)
        from .remote import RemoteEngine

        return RemoteEngine(
            os.fspath(model),
            base_url,
            api_key=api_key,
            adapter=None if adapter is None else os.fspath(adapter),
            context_window=context_window,
            tokenizer=tokenizer,
        )
    from .local import LocalEngine

    word = _word("quantization", quantization or "none", _QUANTIZATIONS)
    number_type = _word("dtype", str(dtype or "auto").removeprefix("torch."), _DTYPES)
    if context_window is not None and context_window < 1:
        raise ValueError(f"context_window is {context_window}: pass at least 1 token.")
    if keep_alive is not None and keep_alive < 0:
        raise ValueError(f"keep_alive is {keep_alive}: pass seconds, or None for no limit.")
    name, of_name = split_adapter(os.fspath(model))
    path = locate(name)
    _check_extras(word)
    handle = Handle(name, path, revision, word, number_type, device, trust_remote_code, keep_alive)
    chosen = of_name if adapter is None else os.fspath(adapter)
    return LocalEngine(handle, context_window=context_window, adapter=chosen)


def loaded_models() -> list[LoadedInfo]:
    """The weights in memory now, and how many engines use each."""
    with _registry_lock:
        entries = [entry for entry in _registry.values() if entry.loaded is not None]
    return [
        LoadedInfo(
            model=entry.name,
            revision=entry.source.revision,
            quantization=entry.loaded.quantization,
            dtype=str(entry.loaded.model.dtype).removeprefix("torch."),
            device=entry.loaded.device,
            nbytes=entry.loaded.nbytes,
            users=entry.users,
            adapters=entry.loaded.adapters.list(),
        )
        for entry in entries
        if entry.loaded is not None
    ]


def unload_all() -> None:
    """Give all weights back; engines stay usable and load again. Running replies finish."""
    with _registry_lock:
        entries = list(_registry.values())
        _registry.clear()
    for entry in entries:
        entry.drop()
    _release_memory()


@dataclass(slots=True)
class _Entry:
    """One source's weights and their users; ``lock`` makes concurrent first calls load once."""

    source: Source
    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    loaded: LoadedModel | None = None
    users: int = 0
    #: Of all users: the longest, or None.
    keep_alive: float | None = 0.0

    def get(self) -> LoadedModel:
        with self.lock:
            if self.loaded is None:
                from .weights import load_model

                patience = self.keep_alive
                self.loaded = load_model(
                    self.source, self.name, patience, lambda: self._idle(patience)
                )
            return self.loaded

    def serve(self, keep_alive: float | None) -> None:
        """One more user."""
        self.users += 1
        longer = None in (keep_alive, self.keep_alive)
        self.keep_alive = None if longer else max(keep_alive or 0.0, self.keep_alive or 0.0)

    def _idle(self, patience: float | None) -> None:
        """Nothing was asked for so long; by now somebody may want it kept for longer."""
        if patience is not None and patience == self.keep_alive:
            self.drop()
            _release_memory()

    def drop(self) -> None:
        with self.lock:
            self.loaded = None


_registry: dict[Source, _Entry] = {}
#: Reentrant: a finalizer may run in the middle of anything, also of a block that holds it.
_registry_lock = threading.RLock()
#: The process that first used a model.
_process: int | None = None


class Handle:
    """One engine's claim on weights: what it asked for, and the shared entry once it used them."""

    def __init__(
        self,
        name: str,
        path: str,
        revision: str | None,
        quantization: str,
        dtype: str,
        device: str | None,
        trust_remote_code: bool,
        keep_alive: float | None = None,
    ) -> None:
        self.name, self.path, self.keep_alive = name, path, keep_alive
        self.is_folder = name != "bundled" and os.path.isabs(path)
        self.asked = (revision, quantization, dtype, device, trust_remote_code)
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._entry: _Entry | None = None
        self.adapters = NamedAdapters(path, self._adapters)

    def _adapters(self) -> Any:
        loaded = self.peek()
        return loaded.adapters if loaded is not None else None

    def loaded(self) -> LoadedModel:
        """The model, loaded now if it is not in memory; later calls are a dict look-up."""
        _check_process(self.name)
        with self._lock:
            if self._source is None:
                from .weights import resolve

                self._source = resolve(self.path, *self.asked)
            entry = self._claim(self._source)
        return entry.get()

    def peek(self) -> LoadedModel | None:
        """The model if it is in memory; never loads."""
        entry = self._entry
        return entry.loaded if entry is not None else None

    def _claim(self, source: Source) -> _Entry:
        with _registry_lock:
            entry = _registry.get(source)
            if entry is None:
                entry = _registry[source] = _Entry(source, self.name)
            if entry is not self._entry:
                entry.serve(self.keep_alive)
                # Again: a finalizer running inside this block may just have removed it.
                _registry[source] = entry
                weakref.finalize(self, _give_up, entry).atexit = False
                self._entry = entry
        return entry


def _give_up(entry: _Entry) -> None:
    """An engine is gone; the last one's weights go with it."""
    with _registry_lock:
        entry.users -= 1
        last = entry.users == 0
        if last and _registry.get(entry.source) is entry:
            del _registry[entry.source]
    if last:
        # A finalizer may run anywhere, also under this lock: never wait here.
        entry.loaded = None


def _check_process(name: str) -> None:
    """torch's threads do not survive a fork: a forward in the child would never return."""
    global _process
    if _process is None:
        _process = os.getpid()
    if _process != os.getpid():
        raise ModelLoadError(
            f"{name} cannot run here: this process was forked from one that already used a local "
            'model, and torch hangs after that. Start workers with the "spawn" method.'
        )


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _word(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"{argument}={value!r} is not known: pass one of {', '.join(allowed)}.")
    return value


def _check_remote(quantization: str | None, **weights: Any) -> None:
    given = [name for name, value in weights.items() if value]
    if quantization not in (None, "auto"):
        given.append("quantization")
    if given:
        raise ValueError(
            f"{', '.join(sorted(given))} cannot be chosen with base_url=: the server loads the "
            "model, so set it there (an adapter has a model name of its own on a server)."
        )
    if not _installed("httpx"):
        raise MissingExtraError("base_url=", "httpx", "remote")


def _check_extras(quantization: str) -> None:
    needed = ["torch", "transformers"]
    if quantization in ("nf4", "int8"):
        needed.append("bitsandbytes")
    for package in needed:
        if not _installed(package):
            raise MissingExtraError("a local model", package, "local")


def _installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    with contextlib.suppress(ValueError, ImportError):
        return importlib.util.find_spec(package) is not None
    return False
