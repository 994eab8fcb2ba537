"""Linear layers without the cost of calling a module, over the module's own weights.

At one row a small model spends its time on calls, not on arithmetic: bitsandbytes' CPU kernel
needs 10 us for a 4-bit matrix that takes 55 us through ``Linear4bit.forward``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from .machine import is_little

__all__ = ["FourBitLayout", "joined", "packed_head"]

#: ``[rows, in] -> [rows, out]``
Linear = Callable[[Any], Any]

#: bitsandbytes' compiled functions: a few rows times a 4-bit matrix, and a matrix written out.
_KERNEL = "gemv_4bit_inference_cpu_{quant_type}_bf16"
_UNPACK = "cdequantize_blockwise_cpu_{quant_type}_{dtype}"
#: From so many rows on, the 4-bit kernel takes longer than a matrix that is written out already,
#: and than one that has to be.
_SEVERAL_ROWS, _MANY_ROWS = 8, 64
#: A head tied to the embedding is packed into a copy of its own only up to this size.
_TIED_HEAD_BYTES = 16 << 20


def joined(parent: Any, names: Sequence[str], four_bit: FourBitLayout | None = None) -> Linear:
    """One function for linear layers of ``parent`` with the same input, outputs side by side.

    Whole weights become one matrix that replaces them, so nothing is held twice, and the
    modules keep working. 4-bit weights stay as they are and are what is computed with.
    Raises ``TypeError`` for other layers (int8, adapters).
    """
    import torch

    modules = [getattr(parent, name) for name in names]
    if all(type(module) is torch.nn.Linear for module in modules):
        return _whole(parent, names, modules)
    if four_bit is None or any(type(m).__name__ != "Linear4bit" for m in modules):
        raise TypeError(f"no lean form of {type(modules[0]).__name__}")
    return four_bit.linear(modules)


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
            setattr(parent, name, _columns_class()(packed, bias, start, end, module.in_features))
        elif len(modules) > 1:
            module.weight.data = weight[start:end]
        start = end
    if packed is None:
        return partial(torch.nn.functional.linear, weight=weight, bias=bias)
    return partial(_packed_linear, weight=packed, bias=bias)


def _packed(weight: Any) -> Any:
    """bfloat16 in oneDNN's own layout, twice as fast at one row; None where there is none."""
    import torch

    if weight.dtype is not torch.bfloat16 or not _multiplies_bfloat16():
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight, 1)
    except (AttributeError, RuntimeError):
        return None


@cache
def _multiplies_bfloat16() -> bool:
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def _packed_linear(rows: Any, weight: Any, bias: Any) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")


@cache
def _columns_class() -> type[Any]:
    import torch

    class PackedColumns(torch.nn.Module):
        """A linear layer that is some columns of a packed one, for the model's own forward."""

        def __init__(self, packed: Any, bias: Any, start: int, end: int, in_features: int) -> None:
            super().__init__()
            self.register_buffer("packed", packed, persistent=False)
            self.register_buffer("joint_bias", bias, persistent=False)
            self._start, self._end = start, end
            self.in_features, self.out_features = in_features, end - start

        def forward(self, rows: Any) -> Any:
            whole = _packed_linear(rows, self.packed, self.joint_bias)
            return whole[..., self._start : self._end]

    return PackedColumns


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
        kernel = _compiled(_KERNEL.format(quant_type=states[0].quant_type), "nnnppppnnn")
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


class WrittenOut:
    """4-bit matrices written out: once and kept, or before each use and then forgotten.

    Writing out is one pass over the weights however many rows there are: right for prompts, for
    batches, and where bitsandbytes has no kernel for this CPU. Multiplied in float32 where the
    CPU does not multiply bfloat16, since emulation takes ten times as long.
    """

    def __init__(self, parts: Sequence[_Packed], bias: Any, layout: FourBitLayout) -> None:
        self._parts, self._bias, self._layout = tuple(parts), bias, layout
        self._width, self._inputs = sum(part.rows for part in parts), parts[0].columns
        self._kept = layout.keep(self._written()) if layout.keeps else None

    def __call__(self, rows: Any) -> Any:
        import torch

        if self._kept is not None:
            return self._kept(rows.to(self._layout.multiplied), bias=self._bias).to(rows.dtype)
        weight = self._written()
        out = torch.nn.functional.linear(rows.to(weight.dtype), weight, self._bias)
        return out.to(rows.dtype)

    def _written(self) -> Any:
        """``[out, in]``, valid until the next matrix is."""
        layout = self._layout
        weight = layout.scratch(self._width * self._inputs)
        target, size = weight.data_ptr(), weight.element_size()
        for part in self._parts:
            part.write(target)
            target += part.rows * part.columns * size
        return weight.view(self._width, self._inputs).to(layout.multiplied)


@dataclass(frozen=True, slots=True)
class _Packed:
    """One module's 4-bit weights as they were loaded, and the function that writes them out."""

    rows: int
    columns: int
    weight: Any
    absmax: Any
    block: int
    unpack: Callable[..., None]

    def write(self, target: int) -> None:
        """``[rows, columns]`` to the address ``target``."""
        weight, absmax = self.weight.data_ptr(), self.absmax.data_ptr()
        self.unpack(weight, absmax, target, self.block, self.rows, self.columns)


class FourBitLayout:
    """A model's 4-bit weights in the layouts that a CPU computes with.

    Made before the first forward, in which bitsandbytes may replace its layout by one that only
    its kernel for a few rows reads. Then both are kept, at one byte a weight. Where all matrices
    written out are little beside the free memory, they are kept so: a small model saves nobody
    memory, and is several times as fast.
    """

    def __init__(self, model: Any) -> None:
        import torch

        half = model.dtype is torch.bfloat16
        #: What matrices are written out in, rounded as the model rounds them, and multiplied in.
        self.written = torch.bfloat16 if half else torch.float32
        self.multiplied = self.written if _multiplies_bfloat16() else torch.float32
        self._scratch = torch.empty(0, dtype=self.written)
        self._packed = {
            module: packed
            for module in model.modules()
            if type(module).__name__ == "Linear4bit"
            and (packed := _packed_weights(module, self.written)) is not None
        }
        numbers = sum(packed.rows * packed.columns for packed in self._packed.values())
        self.keeps = is_little(numbers * self.multiplied.itemsize)
        self._written_bytes = 0

    @property
    def kept_bytes(self) -> int:
        """What is held besides the modules: matrices written out, and layouts they gave up."""
        given_up = (
            int(kept.nbytes)
            for module, packed in self._packed.items()
            for kept, own in (
                (packed.weight, module.weight),
                (packed.absmax, module.weight.quant_state.absmax),
            )
            if kept.data_ptr() != own.data_ptr()
        )
        return self._written_bytes + sum(given_up)

    def keep(self, weight: Any) -> Any:
        """``linear(rows, bias=...)`` over a copy of ``weight`` in the fastest layout."""
        import torch

        self._written_bytes += int(weight.nbytes)
        packed = _packed(weight)
        if packed is not None:
            return partial(_packed_linear, weight=packed)
        return partial(torch.nn.functional.linear, weight=weight.clone())

    def scratch(self, count: int) -> Any:
        """Room for so many numbers, until the next call."""
        if self._scratch.numel() < count:
            self._scratch = self._scratch.new_empty(count)
        return self._scratch[:count]

    def linear(self, modules: Sequence[Any]) -> Linear:
        """These modules' outputs side by side; raises ``TypeError`` where that is not known."""
        import torch

        missing = [module for module in modules if module not in self._packed]
        if missing:
            raise TypeError("4-bit weights of an unknown layout")
        bias = None
        if modules[0].bias is not None:
            bias = torch.cat([module.bias.to(self.multiplied) for module in modules])
        many = WrittenOut([self._packed[module] for module in modules], bias, self)
        few = FourBit.of(modules)
        if few is None:
            return many
        border = _SEVERAL_ROWS if self.keeps else _MANY_ROWS
        return lambda rows: few(rows) if rows.shape[0] < border else many(rows)


def _packed_weights(module: Any, dtype: Any) -> _Packed | None:
    import torch

    weight, state = module.weight.data, module.weight.quant_state
    plain = not state.nested and not getattr(state, "packing_format_for_cpu", False)
    if not plain or weight.dtype is not torch.uint8 or state.absmax.dtype is not torch.float32:
        return None
    kind = "bf16" if dtype is torch.bfloat16 else "fp32"
    name = _UNPACK.format(quant_type=state.quant_type, dtype=kind)
    unpack = _compiled(name, "pppnnn")
    if unpack is None or module.in_features % state.blocksize:
        return None
    # What its kernel for a few rows multiplies with, so that both come to the same.
    rounds = kind == "bf16" and _multiplies_bfloat16()
    absmax = state.absmax.to(torch.bfloat16).float() if rounds else state.absmax
    return _Packed(module.out_features, module.in_features, weight, absmax, state.blocksize, unpack)


@cache
def _compiled(name: str, signature: str) -> Any:
    """A function of bitsandbytes' CPU library (n: number, p: pointer), or None without it."""
    try:
        from bitsandbytes.cextension import lib

        function = getattr(lib, name)
        address = ctypes.cast(function, ctypes.c_void_p).value
    except (ImportError, AttributeError, RuntimeError, ctypes.ArgumentError):
        return None
    kinds = {"n": ctypes.c_int64, "p": ctypes.c_void_p}
    # A prototype of our own: setting argtypes on theirs would change it for everyone.
    prototype = ctypes.CFUNCTYPE(None, *(kinds[kind] for kind in signature))
    return prototype(address) if address else None
