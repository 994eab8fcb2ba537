"""One OpenMP thread for small models, in the calling thread only.

A small model's matrices take microseconds. On busy cores a second thread mostly makes the first
one wait: measured on two, 65 ms a token instead of 5.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

__all__ = ["one_thread", "suits_one_thread"]

#: Models up to this size are computed on one thread.
_SMALL_BYTES = 64 << 20


def suits_one_thread(model: Any) -> bool:
    """Whether this is a small model on a CPU, and this torch lets us choose."""
    if model.device.type != "cpu" or _openmp() is None:
        return False
    return bool(model.get_memory_footprint() <= _SMALL_BYTES)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on the calling thread alone; other threads, and what comes after, as before.

    ``torch.set_num_threads`` would also change what threads started meanwhile begin with.
    """
    import torch

    openmp = _openmp()
    before = torch.get_num_threads()
    if openmp is None or before == 1:
        yield
        return
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@cache
def _openmp() -> Any:
    """The OpenMP runtime that torch uses, or None where it cannot be told."""
    import torch

    # Only what is loaded already: a second runtime would know nothing of torch's threads.
    no_load = getattr(os, "RTLD_NOLOAD", None)
    if no_load is None:
        return None
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    for name in ("libgomp.so.1", "libomp.so", "libiomp5.so", "libomp.dylib"):
        try:
            library = ctypes.CDLL(name, mode=no_load | os.RTLD_NOW)
            library.omp_set_num_threads(other)
            heard = torch.get_num_threads() == other
            library.omp_set_num_threads(before)
        except (OSError, AttributeError):
            continue
        if heard:
            return library
    return None
