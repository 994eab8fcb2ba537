"""Several adapters' matrices side by side, so that rows of different adapters share a step.

Every row goes through the columns of all adapters in the batch, and a mask keeps its own: three
operations a linear layer however many adapters there are, and zeros for a row without one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import AdapterError
from .adapters import Adapter, Lora

__all__ = ["Adapted", "Stack"]

#: ``(module name, outputs)`` of the layers whose outputs a joint layer puts side by side.
Parts = Sequence[tuple[str, int]]


class Adapted:
    """A joint linear layer ``[rows, in] -> [rows, out]`` with what the chosen adapters add."""

    __slots__ = ("_linear", "_parts", "_stack")

    def __init__(self, linear: Callable[[Any], Any], parts: Parts, stack: Stack) -> None:
        self._linear, self._stack = linear, stack
        self._parts, start = [], 0
        for name, width in parts:
            stack.known.add(name)
            self._parts.append((name, start, width))
            start += width

    def __call__(self, rows: Any) -> Any:
        out = self._linear(rows)
        add = self._stack.add
        if add is not None:
            for name, start, width in self._parts:
                add(name, rows, out.narrow(1, start, width))
        return out


class _Block:
    """One allocation for all matrices, which goes back whole.

    A matrix of its own for every module and every new adapter would leave holes as large as the
    adapters themselves.
    """

    #: Matrices begin where a vector instruction likes to read, in numbers of any format.
    _STEP = 32

    def __init__(self, loras: Sequence[Lora]) -> None:
        import torch

        parts = [part for lora in loras for part in (lora.down, lora.up)]
        count = sum(self._rounded_up(part.numel()) for part in parts)
        self._numbers = torch.empty(count, dtype=parts[0].dtype, device=parts[0].device)
        self._start = 0

    def joined(self, parts: Sequence[Any]) -> Any:
        """The matrices one below the other."""
        import torch

        width, count = parts[0].shape[1], sum(part.numel() for part in parts)
        place = self._numbers[self._start : self._start + count].view(-1, width)
        self._start += self._rounded_up(count)
        return torch.cat(list(parts), out=place)

    def _rounded_up(self, count: int) -> int:
        return -(-count // self._STEP) * self._STEP


class _Columns:
    """One module's matrices of all adapters: ``down [ranks, in]``, ``up [ranks, out]``."""

    __slots__ = ("down", "layout", "own", "spans", "up")

    def __init__(self, loras: Mapping[int, Lora], block: _Block) -> None:
        """``loras``: by slot. Their own tensors become views of these."""
        slots = list(loras)
        ranks = [loras[slot].down.shape[0] for slot in slots]
        self.down = block.joined([loras[slot].down for slot in slots])
        self.up = block.joined([loras[slot].up for slot in slots])
        self.spans: dict[int, tuple[int, int]] = {}
        #: One slot's ``down`` turned, ``[in, rank]``, and its ``up``.
        self.own: dict[int, tuple[Any, Any]] = {}
        #: The slot of every column.
        self.layout: tuple[int, ...] = ()
        for slot, rank in zip(slots, ranks, strict=True):
            start = len(self.layout)
            self.spans[slot] = start, start + rank
            self.layout += (slot,) * rank
            loras[slot].down = self.down[start : start + rank]
            loras[slot].up = self.up[start : start + rank]
            self.own[slot] = loras[slot].down.t(), loras[slot].up


class Stack:
    """The adapters that one network uses; for the worker's thread alone."""

    def __init__(self) -> None:
        #: Names of the modules that can have an adapter.
        self.known: set[str] = set()
        #: ``add(module, rows, out)`` for the step that runs now, or None without adapters.
        self.add: Callable[[str, Any, Any], None] | None = None
        self._adapters: list[weakref.ref[Adapter]] = []
        self._slots: dict[int, int] = {}
        self._columns: dict[str, _Columns] = {}
        self._stale = False
        #: What ``add`` was made for.
        self._chosen: tuple[int, ...] = ()

    def choose(self, adapters: Sequence[Adapter | None]) -> None:
        """The adapter of each row of the steps to come; a single one holds for any rows."""
        chosen = tuple(map(id, adapters))
        if chosen == self._chosen and not self._stale:
            return
        if self._stale:
            self._build([])
        self._chosen = chosen
        if not any(adapters):
            self.add = None
            return
        missing = {id(a): a for a in adapters if a is not None and id(a) not in self._slots}
        if missing:
            self._build(list(missing.values()))
        slots = [-1 if adapter is None else self._slots[id(adapter)] for adapter in adapters]
        self.add = self._add_one(slots[0]) if len(set(slots)) == 1 else self._add_each(slots)

    def _build(self, new: Sequence[Adapter]) -> None:
        """Lay all living adapters out again, ``new`` ones among them."""
        for added in new:
            unknown = added.layers.keys() - self.known
            if unknown:
                raise AdapterError(
                    f"adapter {added.name} changes {min(unknown)}, which cannot be adapted "
                    "here: train it on the attention and MLP layers."
                )
        kept = [adapter for ref in self._adapters if (adapter := ref()) is not None]
        adapters = [*kept, *new]
        self._stale = False
        self._slots = {id(adapter): slot for slot, adapter in enumerate(adapters)}
        self._adapters = [weakref.ref(adapter, self._forget) for adapter in adapters]
        self._columns = {}
        if not adapters:
            return
        block = _Block([lora for adapter in adapters for lora in adapter.layers.values()])
        for name in self.known:
            loras = {
                slot: adapter.layers[name]
                for slot, adapter in enumerate(adapters)
                if name in adapter.layers
            }
            if loras:
                self._columns[name] = _Columns(loras, block)

    def _forget(self, _: weakref.ref[Adapter]) -> None:
        # In whatever thread dropped it: the layout is the worker's to change.
        self._stale = True

    def _add_one(self, slot: int) -> Callable[[str, Any, Any], None]:
        found = {name: c.own[slot] for name, c in self._columns.items() if slot in c.own}

        def add(name: str, rows: Any, out: Any) -> None:
            own = found.get(name)
            if own is not None:
                out.addmm_(rows.mm(own[0]), own[1])

        return add

    def _add_each(self, slots: Sequence[int]) -> Callable[[str, Any, Any], None]:
        import torch

        used, at = sorted(set(slots) - {-1}), torch.tensor(slots)[:, None]
        masks: dict[tuple[int, ...], Any] = {}
        found = {}
        for name, columns in self._columns.items():
            spans = [columns.spans[slot] for slot in used if slot in columns.spans]
            if not spans:
                continue
            start, end = spans[0][0], spans[-1][1]
            layout = columns.layout[start:end]
            if layout not in masks:
                masks[layout] = (at == torch.tensor(layout)[None]).to(columns.down.dtype)
            found[name] = columns.down[start:end].t(), masks[layout], columns.up[start:end]

        def add(name: str, rows: Any, out: Any) -> None:
            own = found.get(name)
            if own is not None:
                down, mask, up = own
                out.addmm_(rows.mm(down).mul_(mask), up)

        return add
