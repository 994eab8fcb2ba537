"""Keep the libraries' own talk off the terminal while a model loads."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["no_cast_notes", "no_kernel_download", "quiet", "somebody_waits"]

logger = logging.getLogger("slm_adapters.load")

_TALKATIVE = ("transformers", "bitsandbytes", "accelerate", "huggingface_hub", "torch")

_one_at_a_time = threading.RLock()


class _ToDebug(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


#: Weights that take long enough to read for somebody to wonder.
_LONG_LOAD_BYTES = 500_000_000


def somebody_waits(nbytes: int | None) -> bool:
    """Whether to show progress: a person at a terminal, and weights that are big or not here."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal and (nbytes is None or nbytes >= _LONG_LOAD_BYTES)


@contextlib.contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Send log lines and warnings to ``slm_adapters.load`` at DEBUG; no progress ``bars``.

    Levels are left alone and everything is put back: a user's verbosity survives. One thread
    at a time, or two would put back each other's changes.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_at_a_time)
        for name in _TALKATIVE:
            stack.enter_context(_rerouted(logging.getLogger(name)))
        if not bars:
            stack.enter_context(_no_progress_bars())
        heard = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in heard:
                logger.debug("%s: %s", warning.category.__name__, warning.message)


@contextlib.contextmanager
def _rerouted(talker: logging.Logger) -> Iterator[None]:
    handlers, propagate = talker.handlers, talker.propagate
    talker.handlers, talker.propagate = [_ToDebug()], False
    try:
        yield
    finally:
        talker.handlers, talker.propagate = handlers, propagate


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging as hf_logging

    # By name: the package does not declare these exports to type checkers.
    hub: Any = importlib.import_module("huggingface_hub.utils")
    hub_had = not hub.are_progress_bars_disabled()
    had = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    if hub_had:
        hub.disable_progress_bars()
    try:
        yield
    finally:
        if hub_had:
            hub.enable_progress_bars()
        if had:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def no_kernel_download() -> Iterator[None]:
    """bitsandbytes fetches a CPU kernel from the hub when it is imported; not in this block."""
    if "bitsandbytes" in sys.modules:
        yield
        return
    missing: Any = object()
    before: Any = sys.modules.get("kernels", missing)
    # None makes ``import kernels`` fail, which bitsandbytes takes as "not installed".
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before


#: bitsandbytes' int8 layers log that they cast their input: once per layer and step.
_CAST_NOTE = "MatMul8bitLt: inputs will be cast"
_forward = threading.local()


def _not_our_cast_note(record: logging.LogRecord) -> bool:
    ours = getattr(_forward, "ours", False)
    return not (ours and str(record.msg).startswith(_CAST_NOTE))


@contextlib.contextmanager
def no_cast_notes() -> Iterator[None]:
    """int8 layers called in this block, by this thread, do not log their casts."""
    # Adding the same filter again changes nothing.
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_our_cast_note)
    _forward.ours = True
    try:
        yield
    finally:
        _forward.ours = False
