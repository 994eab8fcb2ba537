"""Cost from a table the user gives, energy from counters; neither is guessed."""

from __future__ import annotations

import asyncio
import sys
import types
from collections import Counter
from typing import ClassVar

import litellm
import pytest
from crewai_cases import HostedLLM
from langchain_core.caches import InMemoryCache
from langchain_models import HostedChat

import slm_adapters.litellm
from slm_adapters.calls import Usage
from slm_adapters.crewai import CallRecorder as CrewRecorder
from slm_adapters.langchain import CallRecorder, ChatSLM
from slm_adapters.telemetry.energy import EnergyMeter
from slm_adapters.telemetry.recorder import Recorder
from slm_adapters.telemetry.semconv import DEVICE
from slm_adapters.telemetry.spending import cost
from slm_adapters.testing import ScriptedModel

PRICES = {"gpt-4.1": (2.0, 8.0, 0.5), "gpt-4.1-mini": (0.4, 1.6), "hosted": (1.0, 10.0)}


@pytest.mark.parametrize(
    ("models", "usage", "dollars"),
    [
        (("gpt-4.1-2025-04-14", "gpt-4.1"), Usage(1_000_000, 0), 2.0),
        (("gpt-4.1-mini-2025", None), Usage(1_000_000, 1_000_000), 2.0),
        (("gpt-4.1", None), Usage(1_000_000, 100_000, cached_tokens=600_000), 1.9),
        (("gpt-4.1-mini", None), Usage(1_000_000, 0, cached_tokens=600_000), 0.4),
        ((None, "hosted-1"), Usage(11, 3), 41e-6),
        ((None, "openai/gpt-4.1-mini"), Usage(1_000_000, 0), 0.4),
        ((None, "openrouter/openai/gpt-4.1"), Usage(1_000_000, 0), 2.0),
        (("unknown", "other"), Usage(1, 1), None),
        (("far/unknown", "other/"), Usage(1, 1), None),
        (("gpt-4.1", None), Usage(1, 1, source="estimated"), None),
        (("gpt-4.1", None), None, None),
    ],
)
def test_the_longest_beginning_of_a_name_decides(models, usage, dollars) -> None:
    """Cached tokens at their own price if there is one; no price for estimates."""
    found = cost(PRICES, models, usage)
    assert found == (None if dollars is None else pytest.approx(dollars))


def test_cost_is_on_the_span_and_in_the_record(spans) -> None:
    """With its source; a call without a price has neither."""
    calls = []
    recorder = CallRecorder(tracer_provider=spans.provider, hooks=[calls.append], prices=PRICES)
    HostedChat().invoke("q", {"callbacks": [recorder]})
    HostedChat(model_name="free").invoke("q", {"callbacks": [recorder]})
    span = spans.one("chat hosted-1")
    assert span.attributes["slm_adapters.cost.usd"] == pytest.approx(41e-6)
    assert span.attributes["slm_adapters.cost.source"] == "prices"
    assert (calls[0].cost_source, calls[1].cost) == ("prices", None)
    assert "slm_adapters.cost.usd" not in spans.one("chat free").attributes


def test_an_answer_from_langchain_s_cache_costs_nothing(spans) -> None:
    """Its counts are those of the call that made it, and were paid there."""

    class Kept(HostedChat):
        def _get_llm_string(self, *_: object, **__: object) -> str:
            return "hosted"  # without the turns that the stand-in counts

    options = {"tracer_provider": spans.provider, "prices": PRICES}
    model = Kept(cache=InMemoryCache())
    for _ in range(2):
        model.invoke("q", {"callbacks": [CallRecorder(**options)]})
    asked, kept = (span.attributes for span in spans.named("chat"))
    assert len(model.turns) == 1
    assert (asked["gen_ai.usage.input_tokens"], kept["gen_ai.usage.input_tokens"]) == (11, 0)
    assert (asked["gen_ai.usage.output_tokens"], kept["gen_ai.usage.output_tokens"]) == (3, 0)
    assert asked["slm_adapters.cost.usd"] == pytest.approx(41e-6)
    assert kept["slm_adapters.cost.usd"] == 0


@pytest.fixture
def powercap(tmp_path):
    """Counters of two processor packages, as the kernel shows them."""
    for number in (0, 1):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "energy_uj").write_text("1000000")
        (tmp_path / f"intel-rapl:{number}:0").mkdir()
        (tmp_path / f"intel-rapl:{number}:0" / "energy_uj").write_text("5")
    return tmp_path


def test_energy_of_a_local_call_is_read_from_the_counters(spans, powercap) -> None:
    """Packages are added up, their parts are not; hosted calls have no energy of ours."""
    calls = []
    recorder = CallRecorder(tracer_provider=spans.provider, hooks=[calls.append])
    recorder.recorder.energy = EnergyMeter(powercap)

    def answer(request):
        (powercap / "intel-rapl:1" / "energy_uj").write_text("3500000")
        return "local"

    ChatSLM(ScriptedModel(answer)).invoke("q", {"callbacks": [recorder]})
    HostedChat().invoke("q", {"callbacks": [recorder]})
    assert (calls[0].energy_j, calls[0].energy_source) == (2.5, "rapl")
    assert spans.all()[0].attributes["slm_adapters.energy.joules"] == 2.5
    assert calls[1].energy_j is None


def test_energy_is_never_guessed(powercap, monkeypatch, tmp_path) -> None:
    """No counter, an unreadable one, one that began again, a GPU without NVML: no figure."""
    assert EnergyMeter(tmp_path / "none").read() == {}
    meter = EnergyMeter(powercap)
    before = meter.read()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("5")
    assert meter.spent(before, meter.read(), "cpu") is None
    (powercap / "intel-rapl:0" / "energy_uj").write_text("not a number")
    assert meter.spent(before, meter.read(), "cpu") is None
    assert meter.spent(before, meter.read(), "cuda:0") is None
    assert Recorder().energy is None


class Nvml:
    """Stands in for NVIDIA's library: two GPUs, in another order than PyTorch counts them."""

    joules: ClassVar[dict[str, float]] = {"b": 100.0, "a": 4.0}

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.joules)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> float:
        return self.joules[handle] * 1e3


def test_gpu_energy_is_that_of_the_model_s_own_gpu(monkeypatch, tmp_path) -> None:
    """Not of all GPUs of the machine; a real counter is read in the tests that need a GPU."""
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    properties = [types.SimpleNamespace(uuid="a"), types.SimpleNamespace(uuid="b")]
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        memory_reserved=lambda index: 1,
        get_device_properties=lambda index: properties[index],
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    calls = []
    recorder = Recorder(hooks=[calls.append])
    recorder.energy = EnergyMeter(tmp_path)
    call = recorder.open(framework="test", model="m", in_process=True)
    call.note(**{DEVICE: "cuda:0"})
    monkeypatch.setattr(nvml, "joules", {"b": 150.0, "a": 9.0})
    call.finish()
    assert (calls[0].energy_j, calls[0].energy_source) == (5.0, "nvml")


def test_asking_for_energy_that_cannot_be_read_says_so_once(tmp_path, caplog, monkeypatch) -> None:
    """With what to do; the calls have no figure."""
    monkeypatch.setattr("slm_adapters.telemetry.harmless._counts", Counter())
    monkeypatch.setitem(sys.modules, "pynvml", None)
    recorder = Recorder()
    recorder.energy = EnergyMeter(tmp_path)
    for device in ["cpu", "cuda:0"] * 2:
        call = recorder.open(framework="test", model="m", in_process=True)
        call.note(**{DEVICE: device})
        call.finish()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "chmod" in said[0]
    assert "pip install nvidia-ml-py" in said[1]


def test_litellm_s_energy_is_read_around_the_call(powercap) -> None:
    """It reports a call later, when more was spent; that is not the call's."""
    package = powercap / "intel-rapl:1" / "energy_uj"

    def answer(request):
        package.write_text("3500000")
        return "local"

    calls = []
    slm_adapters.litellm.register({"local": ScriptedModel(answer)})
    try:
        with slm_adapters.litellm.CallRecorder(hooks=[calls.append]) as recorder:
            recorder.recorder.energy = EnergyMeter(powercap)

            async def ask() -> None:
                await litellm.acompletion(
                    model="slm/local", messages=[{"role": "user", "content": "q"}]
                )
                package.write_text("90000000")

            asyncio.run(ask())
    finally:
        slm_adapters.litellm.unregister()
    assert (calls[0].energy_j, calls[0].energy_source) == (2.5, "rapl")


def test_cost_of_a_crewai_call(spans) -> None:
    """CrewAI's recorder takes the same price table."""
    calls = []
    options = {"tracer_provider": spans.provider, "hooks": [calls.append]}
    with CrewRecorder(prices={"hosted": (1.0, 2.0)}, **options):
        HostedLLM("fine").call("how much")
    assert spans.one("chat hosted").attributes["slm_adapters.cost.source"] == "prices"
    assert calls[0].cost == pytest.approx((11 * 1.0 + 3 * 2.0) / 1e6)
