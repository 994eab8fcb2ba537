"""What the kernels of one model share: room for what lies between them, and how they start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from .kernels.nf4 import LEVELS

__all__ = ["Launcher", "ceiling", "compiling", "planes"]

#: Seconds; Python's own is 5 ms.
_SWITCH_S = 0.001
#: Where kernels are only compiled, not run: those so far.
_ahead: ContextVar[list[Any] | None] = ContextVar("_ahead", default=None)


def ceiling(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(number - 1, 0).bit_length()


def planes(vector: Any) -> Any:
    """The elements in the order of ``kernels.nf4``."""
    import torch

    return torch.cat([vector[..., first::4] for first in range(4)], -1)


@contextmanager
def compiling(threads: int, device: Any) -> Iterator[None]:
    """Kernels launched within are compiled, ``threads`` at a time, and not run."""
    import torch
    import triton

    mode = getattr(triton, "AsyncCompileMode", None)  # Triton 3.4
    kernels: list[Any] = []
    token = _ahead.set(kernels)
    # A forward lets go of Python's lock at every operation, and compilers keep it this long.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        with ThreadPoolExecutor(
            threads, "slm-adapters-compile", torch.cuda.set_device, (device,)
        ) as pool:
            with mode(pool) if mode else nullcontext():
                yield
            for _ in pool.map(_load, set(kernels)):
                pass
    finally:
        sys.setswitchinterval(interval)
        _ahead.reset(token)


def _load(kernel: Any) -> None:
    """Make what launches a compiled kernel, which is compiled too, and bring it to the GPU."""
    kernel = kernel.result() if hasattr(kernel, "result") else kernel
    _ = kernel.run


@dataclass(slots=True)
class Launcher:
    """What the kernels of one model share, besides weights."""

    #: RMS norm's epsilon.
    eps: float
    #: Whether a kernel may start while the one before it ends (Hopper and later).
    overlap: bool
    levels: Any
    #: Room for one matrix made whole, for half of a gated layer and for a normed input.
    whole: Any
    half: Any
    normed: Any
    #: Room for partial results of programs that share outputs, and zeros to count them with.
    parts: Any
    counters: Any

    @classmethod
    def of(
        cls, weight: Any, eps: float, rows: int, hidden: int, inner: int, largest: int
    ) -> Launcher:
        """For inputs of up to ``rows`` rows; ``largest``: elements of the largest matrix."""
        import torch

        def room(*size: int, dtype: Any = weight.dtype) -> Any:
            return torch.empty(size, dtype=dtype, device=weight.device)

        cuda = weight.device.type == "cuda"
        return cls(
            eps=eps,
            overlap=cuda and torch.cuda.get_device_capability(weight.device) >= (9, 0),
            levels=torch.tensor(LEVELS, dtype=torch.float32, device=weight.device),
            whole=room(largest),
            half=room(rows, inner),
            normed=room(rows, hidden),
            parts=room((1 << 21) + (1 << 17), dtype=torch.float32),
            counters=torch.zeros(1 << 14, dtype=torch.int32, device=weight.device),
        )

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        """Run a Triton kernel."""
        ahead = _ahead.get()
        if ahead is None:
            kernel[grid](*arguments, **options)
        else:
            ahead.append(kernel.warmup(*arguments, grid=grid, **options))

    @property
    def options(self) -> dict[str, Any]:
        """For the launch of a kernel that waits for the one before it itself."""
        return {"launch_pdl": True} if self.overlap else {}
