"""LoRA adapters in the CUDA forward: where each one's matrices are, for kernels to look up."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from ..errors import AdapterError
from .adapters import Adapter

__all__ = ["MODULES", "AdapterTable"]

#: The linear layers of one layer that can be adapted, in the order of the table.
MODULES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
#: Adapters whose replies can be alive at one moment.
_SLOTS = 256
_RANK = 128
#: Of the rank, what one program of the shrinking kernel takes.
_RANKS = 4


class AdapterTable:
    """Slots for the adapters that replies use; for the worker's thread alone."""

    def __init__(self, weight: Any, layers: int, rows: int, widest: int) -> None:
        """``widest``: outputs of the widest joint layer."""
        import torch

        def room(*size: int, dtype: Any) -> Any:
            return torch.zeros(size, dtype=dtype, device=weight.device)

        self._weight, self._layers = weight, layers
        self._table = room(_SLOTS, layers * len(MODULES), 3, dtype=torch.int64)
        #: The slot of each row of a step; 0: no adapter.
        self.slots = room(rows, dtype=torch.int64)
        self._inner = room(rows, 3, _RANK, dtype=torch.float32)
        self._extra = room(rows * widest, dtype=torch.float32)
        self._taken: dict[int, tuple[weakref.ref[Adapter], Any]] = {}
        self._serials: dict[int, int] = {0: 0}
        self._stale = False

    def serial(self, adapter: Adapter) -> int:
        """A number that no other adapter has or had: of what is captured with its addresses."""
        return self._serials[self.slot(adapter)]

    def _forget(self, _: weakref.ref[Adapter]) -> None:
        # In whatever thread dropped it: the table is the worker's to change.
        self._stale = True

    def slot(self, adapter: Adapter | None) -> int:
        """Its slot, filled now if it has none; raises ``AdapterError`` where it does not fit."""
        if self._stale:
            self._stale = False
            self._taken = {slot: kept for slot, kept in self._taken.items() if kept[0]()}
        if adapter is None:
            return 0
        free = 0
        for slot in range(1, _SLOTS):
            holder = self._taken[slot][0]() if slot in self._taken else None
            if holder is adapter:
                return slot
            free = free or (slot if holder is None else 0)
        if not free:
            raise AdapterError(
                f"{_SLOTS - 1} adapters are in use: remove some before adding {adapter.name}."
            )
        self._fill(free, adapter)
        return free

    def _fill(self, slot: int, adapter: Adapter) -> None:
        import torch

        names = [f"model.layers.{n}.{module}" for n in range(self._layers) for module in MODULES]
        unknown = adapter.layers.keys() - set(names)
        if unknown or adapter.rank > _RANK:
            problem = f"changes {min(unknown)}" if unknown else f"has rank {adapter.rank}"
            raise AdapterError(
                f"adapter {adapter.name} {problem}, which cannot be adapted here: train it on the "
                f"attention and MLP layers with a rank of at most {_RANK}."
            )
        kept, rows = [], []
        for name in names:
            lora = adapter.layers.get(name)
            if lora is None:
                rows.append([0, 0, 0])
                continue
            down, up = lora.down.contiguous(), lora.up.contiguous()
            kept += [down, up]
            rows.append([down.data_ptr(), up.data_ptr(), down.shape[0]])
        self._table[slot].copy_(torch.tensor(rows))
        self._taken[slot] = weakref.ref(adapter, self._forget), kept
        self._serials[slot] = max(self._serials.values()) + 1

    def choose(self, adapters: Sequence[Adapter | None], rows: int) -> bool:
        """The adapters of the rows of the next step; whether there are any."""
        import torch

        if not any(adapter is not None for adapter in adapters):
            self.slot(None)
            return False
        slots = [self.slot(adapter) for adapter in adapters]
        self.slots[:rows].copy_(torch.tensor(slots + [0] * (rows - len(slots))))
        return True

    def added(self, x: Any, linear: Any, layer: int, modules: Sequence[int], rows: int) -> Any:
        """What the rows' adapters add to the product of a joint layer, ``[rows, outputs]``."""
        from .cuda_launch import ceiling
        from .kernels.lora import expand_kernel, shrink_kernel

        launcher, parts = linear.launcher, len(modules)
        widths, first = linear.widths, layer * len(MODULES) + modules[0]
        extra = self._extra[: rows * sum(widths)].view(rows, -1)
        own = {"MODULES": self._table.shape[1], "PARTS": parts, "RANK": _RANK}
        launcher.launch(
            shrink_kernel, (rows, parts, _RANK // _RANKS), x,
            x if linear.norm is None else linear.norm, self.slots, self._table, self._inner,
            launcher.eps, first, RANKS=_RANKS, K=x.shape[1], BK=min(1024, ceiling(x.shape[1])),
            NORM=linear.norm is not None, PLANES=linear.planes, **own,
        )  # fmt: skip
        w0, w1, w2 = (*widths, 0, 0)[:3]
        launcher.launch(
            expand_kernel, (rows, parts, -(-max(widths) // 512)), self._inner, self.slots,
            self._table, extra, first, x, W0=w0, W1=w1, W2=w2, BN=512, **own,
        )  # fmt: skip
        return extra

    @staticmethod
    def added_to_prompt(
        normed: Any, linear: Any, adapter: Adapter, layer: int, modules: Sequence[int]
    ) -> Any:
        """The same for rows of a prompt, which have one adapter; ``normed`` in natural order."""
        import torch

        total = torch.zeros(normed.shape[0], sum(linear.widths), device=normed.device)
        start = 0
        for module, width in zip(modules, linear.widths, strict=True):
            lora = adapter.layers.get(f"model.layers.{layer}.{MODULES[module]}")
            if lora is not None:
                total[:, start : start + width] = normed @ lora.down.t() @ lora.up
            start += width
        return total
