"""Linear layers without the cost of calling a module, over the module's own weights.

At one row a small model spends its time on calls, not on arithmetic: bitsandbytes' CPU kernel
needs 10 us for a 4-bit matrix that takes 55 us through ``Linear4bit.forward``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

__all__ = ["joined", "packed_head"]

#: ``[rows, in] -> [rows, out]``
Linear = Callable[[Any], Any]

_KERNELS = {
    "nf4": "gemv_4bit_inference_cpu_nf4_bf16",
    "fp4": "gemv_4bit_inference_cpu_fp4_bf16",
}
#: A head tied to the embedding is packed into a copy of its own only up to this size.
_TIED_HEAD_BYTES = 16 << 20


def joined(parent: Any, names: Sequence[str]) -> Linear:
    """One function for linear layers of ``parent`` with the same input, outputs side by side.

    Whole weights become one matrix that replaces them, so nothing is held twice, and the
    modules keep working. 4-bit weights stay as they are and are what is computed with.
    Raises ``TypeError`` for other layers (int8, adapters).
    """
    import torch

    modules = [getattr(parent, name) for name in names]
    if all(type(module) is torch.nn.Linear for module in modules):
        return _whole(parent, names, modules)
    if any(type(module).__name__ != "Linear4bit" for module in modules):
        raise TypeError(f"no lean form of {type(modules[0]).__name__}")
    return FourBit.of(modules) or _Modules(modules)


def packed_head(model: Any) -> Linear:
    """The LM head, packed where that is faster and costs little memory."""
    import torch

    head = model.lm_head
    tied = head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    if type(head) is torch.nn.Linear and tied and head.weight.nbytes > _TIED_HEAD_BYTES:
        return partial(torch.nn.functional.linear, weight=head.weight, bias=head.bias)
    return joined(model, ["lm_head"])


def _whole(parent: Any, names: Sequence[str], modules: Sequence[Any]) -> Linear:
    import torch

    weight, bias = modules[0].weight.data, None
    if len(modules) > 1:
        weight = torch.cat([module.weight.data for module in modules])
    if modules[0].bias is not None:
        bias = torch.cat([module.bias.data for module in modules])
    packed = _packed(weight)
    start = 0
    for name, module in zip(names, modules, strict=True):
        end = start + module.out_features
        if packed is not None:
            setattr(parent, name, _columns_class()(packed, bias, start, end))
        elif len(modules) > 1:
            module.weight.data = weight[start:end]
        start = end
    if packed is None:
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)
    return partial(_packed_linear, weight=packed, bias=bias)


def _packed(weight: Any) -> Any:
    """bfloat16 in oneDNN's own layout, twice as fast at one row; None where there is none."""
    import torch

    if weight.dtype is not torch.bfloat16:
        return None
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return None
        return torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return None


def _packed_linear(rows: Any, weight: Any, bias: Any) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")


@cache
def _columns_class() -> type[Any]:
    import torch

    class PackedColumns(torch.nn.Module):
        """A linear layer that is some columns of a packed one, for the model's own forward."""

        def __init__(self, packed: Any, bias: Any, start: int, end: int) -> None:
            super().__init__()
            self.register_buffer("packed", packed, persistent=False)
            self.register_buffer("joint_bias", bias, persistent=False)
            self._start, self._end = start, end

        def forward(self, rows: Any) -> Any:
            whole = _packed_linear(rows, self.packed, self.joint_bias)
            return whole[..., self._start : self._end]

    return PackedColumns


class _Modules:
    """The modules themselves: 4-bit layers where bitsandbytes has no kernel for this CPU."""

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

        states: list[Any] = [getattr(module.weight, "quant_state", None) for module in modules]
        if not all(getattr(state, "packing_format_for_cpu", False) for state in states):
            return None
        fits = all(
            state.absmax.dtype is torch.bfloat16
            and state.absmax.is_contiguous()
            and not state.nested
            and module.weight.is_contiguous()
            and module.compute_dtype is torch.bfloat16
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
