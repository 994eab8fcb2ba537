"""Linear layers of a model on a CUDA GPU, over the model's own weights, as a step needs them.

Layers with the same input are one matrix that the modules' weights become views of, so nothing
is held twice and the modules keep working.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cuda_launch import Launcher, ceiling, planes
from .kernels.nf4 import few_rows_kernel, one_row_kernel, whole_kernel
from .kernels.steps import gate_kernel, norm_kernel

__all__ = ["ADD", "GATE", "PLAIN", "Linear", "linear"]

#: What becomes of the product: written; added to what is there; ``silu(first half) * second``.
PLAIN, ADD, GATE = 0, 1, 2
#: The same over long rows, for the tables below.
_LONG_ADD = 3
_LONG = 4096
#: What a program of the one-row kernel takes, measured on an H100 and an H200: rows of the matrix,
#: elements at a time, warps. Several warps share long rows.
_ONE_ROW = {PLAIN: (2, 1024, 1), ADD: (8, 2048, 1), GATE: (4, 2048, 1), _LONG_ADD: (8, 4096, 8)}
#: The same of the few-rows kernel, with its stages and how many programs keep a GPU busy, by how
#: many rows there are at most; more go through weights made whole. ``Launcher.parts`` holds what
#: twice as many programs leave.
_FEW_ROWS = {
    16: {
        PLAIN: (64, 256, 4, 2, 256),
        ADD: (64, 256, 4, 3, 256),
        GATE: (64, 256, 4, 2, 256),
        _LONG_ADD: (64, 128, 4, 4, 512),
    },
    32: {
        PLAIN: (64, 256, 4, 2, 256),
        ADD: (64, 256, 4, 3, 256),
        GATE: (64, 128, 4, 3, 256),
        _LONG_ADD: (64, 256, 4, 3, 256),
    },
    64: {
        PLAIN: (64, 128, 4, 3, 128),
        ADD: (32, 512, 4, 2, 256),
        GATE: (32, 256, 4, 3, 128),
        _LONG_ADD: (64, 128, 4, 4, 256),
    },
}
_FEW = max(_FEW_ROWS)


def _power(number: int, limit: int) -> int:
    """The greatest power of two that divides ``number``, at most ``limit``."""
    return min(number & -number, limit)


class Linear:
    """``run(x, out, rows)``; where there is a ``norm``, of the normed ``x``."""

    #: Whether inputs, and outputs of ``ADD`` and ``GATE``, are in planes.
    planes: bool

    def __init__(self, modules: Sequence[Any], mode: int, norm: Any, launcher: Launcher) -> None:
        self._mode, self.launcher = mode, launcher
        #: In the order of the input.
        self.norm = planes(norm) if norm is not None and self.planes else norm
        #: Outputs of each module.
        self.widths = [int(module.out_features) for module in modules]
        self._bias = None
        if modules[0].bias is not None:
            self._bias = _joined([module.bias for module in modules])

    def run(self, x: Any, out: Any, rows: int, extra: Any = None) -> None:
        """The first ``rows`` rows; ``extra`` float32, like the product, is added to it."""
        # Every number format has a layout and kernels of its own.
        raise NotImplementedError

    def natural(self, x: Any, rows: int) -> Any:
        """The normed input in the order of its elements."""
        x = self._normed(x, rows)
        if not self.planes:
            return x
        return x.view(rows, 4, -1).transpose(1, 2).reshape(rows, -1)

    def _normed(self, x: Any, rows: int) -> Any:
        if self.norm is None:
            return x[:rows]
        normed, width = self.launcher.normed, x.shape[1]
        self.launcher.launch(
            norm_kernel, (rows,), x, x, self.norm, normed, self.launcher.eps,
            WIDTH=width, BLOCK=ceiling(width), LAST=False, UNDO=False,
        )  # fmt: skip
        return normed[:rows]

    def _gate(self, gate: Any, up: Any) -> None:
        rows, width = gate.shape
        block = ceiling(width)
        self.launcher.launch(
            gate_kernel, (rows,), gate, up,
            WIDTH=width, BLOCK=block, PLANES=self.planes, num_warps=8 if block <= 1 << 14 else 16,
        )  # fmt: skip


class Whole(Linear):
    """Over a matrix ``[out, in]`` in the model's number format."""

    planes = False

    def __init__(self, modules: Sequence[Any], mode: int, norm: Any, launcher: Launcher) -> None:
        import torch

        super().__init__(modules, mode, norm, launcher)
        self._weight = modules[0].weight.data
        if len(modules) > 1:
            self._weight = torch.cat([module.weight.data for module in modules])
            start = 0
            for module in modules:
                module.weight.data = self._weight[start : start + module.out_features]
                start += module.out_features

    def run(self, x: Any, out: Any, rows: int, extra: Any = None) -> None:
        import torch

        x = self._normed(x, rows)
        if self._mode == GATE:
            halves = out[:rows], self.launcher.half[:rows]
            half = self._weight.shape[0] // 2
            for number, target in enumerate(halves):
                part = slice(number * half, (number + 1) * half)
                torch.mm(x, self._weight[part].t(), out=target)
                if self._bias is not None:
                    target.add_(self._bias[part])
                if extra is not None:
                    target.add_(extra[:rows, part])
            self._gate(*halves)
            return
        out = out[:rows]
        if self._mode == ADD:
            out.addmm_(x, self._weight.t())
        else:
            torch.mm(x, self._weight.t(), out=out)
        if self._bias is not None:
            out.add_(self._bias)
        if extra is not None:
            out.add_(extra[:rows])


class FourBit(Linear):
    """Over nf4 weights: one row, a few and many by the kernel that suits each."""

    planes = True

    def __init__(self, modules: Sequence[Any], mode: int, norm: Any, launcher: Launcher) -> None:
        import torch

        super().__init__(modules, mode, norm, launcher)
        states = [module.weight.quant_state for module in modules]
        self._width = modules[0].in_features
        self._outputs = sum(module.out_features for module in modules)
        codes = _joined([m.weight.data.reshape(-1, self._width // 2) for m in modules])
        self._codes = codes.view(torch.int16)
        self._absmax = _joined([_absmax(state).reshape(-1, self._width // 64) for state in states])
        start = 0
        for module, state in zip(modules, states, strict=True):
            end = start + module.out_features
            module.weight.data = codes[start:end].view(module.weight.shape)
            state.absmax, state.nested = self._absmax[start:end].view(-1), False
            state.state2 = state.offset = None
            start = end

    def run(self, x: Any, out: Any, rows: int, extra: Any = None) -> None:
        if rows == 1:
            self._one(x, out, extra)
        elif rows <= _FEW:
            self._few(x, out, rows, extra)
        else:
            self._many(x, out, rows, extra)

    def _operands(self, extra: Any) -> tuple[Any, ...]:
        none = self._absmax
        bias = none if self._bias is None else self._bias
        extra = none if extra is None else extra
        return self._codes, self._absmax, self.launcher.levels, bias, extra

    def _flags(self, extra: Any) -> dict[str, Any]:
        return {
            "K": self._width,
            "BIAS": self._bias is not None,
            "EXTRA": extra is not None,
            "MODE": self._mode,
            "PDL": self.launcher.overlap,
            **self.launcher.options,
        }

    @property
    def _n(self) -> int:
        return int(self._outputs // 2 if self._mode == GATE else self._outputs)

    @property
    def _kind(self) -> int:
        return _LONG_ADD if self._mode == ADD and self._width > _LONG else self._mode

    def _one(self, x: Any, out: Any, extra: Any) -> None:
        rows, elements, warps = _ONE_ROW[self._kind]
        rows = _power(self._outputs, rows)
        norm = self._absmax if self.norm is None else self.norm
        self.launcher.launch(
            one_row_kernel, (self._outputs // rows,),
            x, norm, *self._operands(extra), out, self._n, self.launcher.eps,
            BN=rows, BK=min(elements, ceiling(self._width)), NORM=self.norm is not None,
            num_warps=warps, **self._flags(extra),
        )  # fmt: skip

    def _few(self, x: Any, out: Any, rows: int, extra: Any) -> None:
        launcher, height = self.launcher, max(16, ceiling(rows))
        x = self._normed(x, rows)
        wide, elements, warps, stages, busy = _FEW_ROWS[height][self._kind]
        elements = min(elements, ceiling(self._width))
        blocks, chunks = -(-self._n // wide), -(-self._width // elements)
        split = 1
        while blocks * split < busy and 2 * split <= chunks:
            split *= 2
        launcher.launch(
            few_rows_kernel, (blocks, split),
            x, *self._operands(extra), out, launcher.parts, launcher.counters, self._n,
            BN=wide, BM=height, BK=elements, SPLIT=split,
            num_warps=warps, num_stages=stages, **self._flags(extra),
        )  # fmt: skip

    def _many(self, x: Any, out: Any, rows: int, extra: Any) -> None:
        import torch

        x = self._normed(x, rows)
        if self._mode == GATE:
            halves = out[:rows], self.launcher.half[:rows]
            for number, target in enumerate(halves):
                start = number * self._n
                torch.mm(x, self._whole(start, self._n).t(), out=target)
                self._add(target, start, extra, rows)
            self._gate(*halves)
            return
        weight = self._whole(0, self._n)
        if self._mode == ADD:
            out[:rows].addmm_(x, weight.t())
        else:
            torch.mm(x, weight.t(), out=out[:rows])
        self._add(out[:rows], 0, extra, rows)

    def _add(self, target: Any, start: int, extra: Any, rows: int) -> None:
        part = slice(start, start + self._n)
        order = planes if self._mode == ADD else _as_it_is
        if self._bias is not None:
            target.add_(order(self._bias[part]))
        if extra is not None:
            target.add_(order(extra[:rows, part]))

    def _whole(self, start: int, count: int) -> Any:
        """Matrix rows made whole, in the room for it; their order is that of the output."""
        launcher, width = self.launcher, self._width
        elements = min(2048, ceiling(width))
        rows = _power(count, 4)
        launcher.launch(
            whole_kernel, (count // rows, -(-width // elements)),
            self._codes[start:], self._absmax[start:], launcher.levels, launcher.whole, count,
            K=width, BN=rows, BK=elements, PLANES=self._mode == ADD, num_warps=4,
        )  # fmt: skip
        return launcher.whole[: count * width].view(count, width)


def linear(parent: Any, names: Sequence[str], mode: int, norm: Any, launcher: Launcher) -> Linear:
    """For layers of ``parent`` with the same input; raises ``TypeError`` for unknown ones."""
    import torch

    modules = [getattr(parent, name) for name in names]
    if all(type(module) is torch.nn.Linear for module in modules):
        return Whole(modules, mode, norm, launcher)
    if all(_is_nf4(module) for module in modules):
        return FourBit(modules, mode, norm, launcher)
    raise TypeError(f"no CUDA form of {type(modules[0]).__name__}")


def _is_nf4(module: Any) -> bool:
    state = getattr(module.weight, "quant_state", None)
    return (
        type(module).__name__ == "Linear4bit"
        and state is not None
        and state.quant_type == "nf4"
        and state.blocksize == 64
        and module.weight.dtype.itemsize == 1
        and module.in_features % 64 == 0
        and not getattr(state, "packing_format_for_cpu", False)
    )


def _absmax(state: Any) -> Any:
    if not state.nested:
        return state.absmax
    from bitsandbytes.functional import dequantize_blockwise

    return (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()


def _as_it_is(vector: Any) -> Any:
    return vector


def _joined(tensors: Sequence[Any]) -> Any:
    import torch

    return tensors[0].contiguous() if len(tensors) == 1 else torch.cat(list(tensors))
