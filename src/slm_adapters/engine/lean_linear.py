"""Linear layers without the cost of calling a module, over the module's own weights.

At one row a small model spends its time on calls, not on arithmetic: bitsandbytes' CPU kernel
needs 10 us for a 4-bit matrix that takes 55 us through ``Linear4bit.forward``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

__all__ = ["joined"]

#: ``[rows, in] -> [rows, out]``
Linear = Callable[[Any], Any]

_KERNELS = {
    "nf4": "gemv_4bit_inference_cpu_nf4_bf16",
    "fp4": "gemv_4bit_inference_cpu_fp4_bf16",
}


def joined(modules: Sequence[Any]) -> Linear:
    """One function for linear layers with the same input; their outputs side by side.

    Whole weights become one matrix, of which the modules then hold views: no second copy.
    4-bit weights stay as they are and are what is computed with. Anything else (int8, adapters)
    is called as the module it is.
    """
    import torch

    if all(type(module) is torch.nn.Linear for module in modules):
        return _dense(modules)
    return FourBit.of(modules) or _Modules(modules)


def _dense(modules: Sequence[Any]) -> Linear:
    import torch

    first, bias = modules[0], None
    if len(modules) == 1:
        return partial(torch.nn.functional.linear, weight=first.weight, bias=first.bias)
    weight = torch.cat([module.weight.data for module in modules])
    if first.bias is not None:
        bias = torch.cat([module.bias.data for module in modules])
    start = 0
    for module in modules:
        end = start + module.out_features
        module.weight.data = weight[start:end]
        if bias is not None:
            module.bias.data = bias[start:end]
        start = end
    return partial(torch.nn.functional.linear, weight=weight, bias=bias)


class _Modules:
    """The modules themselves, one after the other."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = tuple(modules)

    def __call__(self, rows: Any) -> Any:
        import torch

        if len(self._modules) == 1:
            return self._modules[0](rows)
        return torch.cat([module(rows) for module in self._modules], dim=-1)


class FourBit:
    """bitsandbytes' 4-bit CPU kernel on the modules' weights, each writing its columns."""

    def __init__(self, modules: Sequence[Any], kernel: Any) -> None:
        import torch

        self._kernel, self._empty, self._dtype = kernel, torch.empty, torch.bfloat16
        self._modules = tuple(modules)  # they own the memory that the addresses point to
        self._width = sum(module.out_features for module in modules)
        self._bias = None
        if modules[0].bias is not None:
            self._bias = torch.cat([module.bias.to(torch.bfloat16) for module in modules])
        self._parts, start = [], 0
        for module in modules:
            state = module.weight.quant_state
            self._parts.append(
                (
                    module.out_features,
                    module.in_features,
                    module.weight.data_ptr(),
                    state.absmax.data_ptr(),
                    state.blocksize,
                    2 * start,
                )
            )
            start += module.out_features

    @classmethod
    def of(cls, modules: Sequence[Any]) -> FourBit | None:
        """None unless bitsandbytes has laid all weights out for its bfloat16 kernel."""
        import torch

        states = [getattr(module.weight, "quant_state", None) for module in modules]
        if not all(getattr(state, "packing_format_for_cpu", False) for state in states):
            return None
        fits = all(
            state.absmax.dtype is torch.bfloat16
            and state.absmax.is_contiguous()
            and not state.nested
            and module.weight.is_contiguous()
            and module.compute_dtype is torch.bfloat16
            and type(module).__name__ == "Linear4bit"
            and state.quant_type == states[0].quant_type
            for state, module in zip(states, modules, strict=True)
        )
        kernel = _kernel(states[0].quant_type)
        return cls(modules, kernel) if fits and kernel is not None else None

    def __call__(self, rows: Any) -> Any:
        if rows.dtype is not self._dtype or rows.stride(-1) != 1:
            rows = rows.to(self._dtype).contiguous()
        count, width = rows.shape[0], self._width
        out = self._empty((count, width), dtype=self._dtype)
        source, target, stride = rows.data_ptr(), out.data_ptr(), rows.stride(0)
        for n, k, weight, absmax, block, offset in self._parts:
            self._kernel(count, n, k, source, weight, absmax, target + offset, block, stride, width)
        return out if self._bias is None else out.add_(self._bias)


def _kernel(quant_type: str) -> Any:
    """bitsandbytes' compiled function, or None where this build has none."""
    try:
        from bitsandbytes.cextension import lib

        function = getattr(lib, _KERNELS[quant_type])
        address = ctypes.cast(function, ctypes.c_void_p).value
    except (ImportError, AttributeError, KeyError, RuntimeError, ctypes.ArgumentError):
        return None
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    signature = ctypes.CFUNCTYPE(
        None, number, number, number, pointer, pointer, pointer, pointer, number, number, number
    )
    # A prototype of our own: setting argtypes on theirs would change it for everyone.
    return signature(address) if address else None
