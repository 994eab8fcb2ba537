"""The energy of a call on a GPU, by the counter of the real one."""

from __future__ import annotations

import time

import pytest

from slm_adapters.calls import Call
from slm_adapters.telemetry.energy import EnergyMeter
from slm_adapters.telemetry.recorder import Recorder
from slm_adapters.telemetry.semconv import DEVICE

torch = pytest.importorskip("torch", reason="torch is not installed here")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU here", allow_module_level=True)
pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed here")


def spent(device: str, busy: bool) -> float:
    """Joules of a call of one second."""
    calls: list[Call] = []
    recorder = Recorder(hooks=[calls.append], energy=True)
    matrix = torch.ones((8192, 8192), dtype=torch.bfloat16, device="cuda:0")
    torch.cuda.synchronize()
    call = recorder.open(framework="test", model="m", in_process=True)
    call.note(**{DEVICE: device})
    end = time.monotonic() + 1
    while time.monotonic() < end:
        if busy:
            matrix @ matrix
            torch.cuda.synchronize()
        else:
            time.sleep(0.05)
    call.finish()
    (record,) = calls
    assert record.energy_source == "nvml"
    assert record.energy_j is not None
    return record.energy_j


def test_work_costs_more_than_waiting_and_both_cost_what_the_gpu_says() -> None:
    """Within what the GPU may draw."""
    idle, busy = spent("cuda:0", busy=False), spent("cuda:0", busy=True)
    limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1e3
    assert 10 < idle < busy < 1.3 * limit


def test_the_gpu_is_the_one_torch_means() -> None:
    """By its unique name: ``CUDA_VISIBLE_DEVICES`` may hide or turn round the others, and those
    without a model of this process are not asked."""
    meter = EnergyMeter()
    last = torch.cuda.device_count() - 1
    kept = torch.ones(1, device=f"cuda:{last}")
    used = {f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in {0, last}}
    assert meter.read().keys() <= used
    before = meter.read()
    assert meter.spent(before, meter.read(), kept.device) is not None
