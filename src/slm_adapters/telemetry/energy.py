"""Joules of local calls, from the machine's own counters; never estimated."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .harmless import warn_once

__all__ = ["EnergyMeter"]

_POWERCAP = Path("/sys/class/powercap")
_RAPL, _NVML = "rapl", "nvml"
_HELP = {
    _RAPL: "no RAPL counter below /sys/class/powercap can be read; on most systems root has to "
    "allow it: chmod a+r /sys/class/powercap/*rapl*/energy_uj",
    _NVML: "the GPU's counter cannot be read; pip install nvidia-ml-py, and see that the GPU is "
    "a Volta or newer and not a slice of one (MIG)",
}


class EnergyMeter:
    """Reads the processor's counters (RAPL) and those of NVIDIA's GPUs (NVML).

    They are the machine's: what else ran during a call is in its figure.
    """

    def __init__(self, powercap: Path = _POWERCAP) -> None:
        self._packages = [path for path in powercap.glob("*-rapl:?") if _joules(path) is not None]
        self._handles: dict[str, Any] = {}
        self._process = 0

    def read(self) -> dict[str, float]:
        """Joules so far, of the processor and of each GPU that has a model of this process.

        What cannot be read is absent. NVML takes some milliseconds for each GPU.
        """
        found: dict[str, float] = {}
        packages = [_joules(path) for path in self._packages]
        if packages and None not in packages:
            found[_RAPL] = sum(value for value in packages if value is not None)
        if self._process != os.getpid():  # NVML is opened anew after a fork
            self._process, self._handles = os.getpid(), _handles()
        for name in _gpus_in_use() if self._handles else ():
            joules = _gpu_joules(self._handles.get(name))
            if joules is not None:
                found[name] = joules
        return found

    def spent(
        self, before: Mapping[str, float], after: Mapping[str, float], device: Any
    ) -> tuple[float, str] | None:
        """Joules between two readings, and the source that fits the device the model ran on."""
        source = _NVML if str(device or "").startswith("cuda") else _RAPL
        counter = _RAPL if source == _RAPL else _gpu_of(str(device))
        if counter is None or counter not in after:
            warn_once(f"energy: {source}", f"slm-adapters: energy=True, but {_HELP[source]}.")
            return None
        if counter not in before or after[counter] < before[counter]:
            return None  # the counter began again
        return after[counter] - before[counter], source


def _joules(package: Path) -> float | None:
    try:
        return int((package / "energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _gpu_of(device: str) -> str | None:
    """NVML's name of ``cuda:1``, as PyTorch counts them: others may be hidden from it."""
    with contextlib.suppress(Exception):
        number = int(device.partition(":")[2] or 0)
        return f"GPU-{sys.modules['torch'].cuda.get_device_properties(number).uuid}"
    return None


def _gpus_in_use() -> list[str]:
    """Those where PyTorch has memory."""
    with contextlib.suppress(Exception):
        cuda = sys.modules["torch"].cuda
        numbers = range(cuda.device_count() if cuda.is_initialized() else 0)
        used = (_gpu_of(f"cuda:{number}") for number in numbers if cuda.memory_reserved(number))
        return [name for name in used if name is not None]
    return []


def _handles() -> dict[str, Any]:
    """NVML's, by unique name."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return {str(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
    except Exception:
        return {}  # no library, no driver, no GPU


def _gpu_joules(handle: Any) -> float | None:
    try:
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except Exception:
        return None  # an old card, or a slice of one
