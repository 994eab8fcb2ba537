"""Cost from a table the user gives, energy from counters; neither is guessed."""

from __future__ import annotations

import sys
import types

import pytest
from crewai_cases import HostedLLM
from langchain_core.caches import InMemoryCache
from langchain_models import HostedChat

from slm_adapters.calls import Usage
from slm_adapters.crewai import CallRecorder as CrewRecorder
from slm_adapters.langchain import CallRecorder, ChatSLM
from slm_adapters.telemetry.recorder import Recorder
from slm_adapters.telemetry.semconv import DEVICE
from slm_adapters.telemetry.spending import EnergyMeter, cost
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
    assert meter.spent(before, "cpu") is None
    (powercap / "intel-rapl:0" / "energy_uj").write_text("not a number")
    assert meter.spent(before, "cpu") is None
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    assert meter.spent(before, "cuda:0") is None
    assert Recorder().energy is None


def test_gpu_energy_comes_from_nvml(monkeypatch, tmp_path) -> None:
    """Millijoules of all GPUs, for a call that ran on one."""
    counter = [4000]
    nvml = types.SimpleNamespace(
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counter[0],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    calls = []
    recorder = Recorder(hooks=[calls.append])
    recorder.energy = EnergyMeter(tmp_path)
    call = recorder.open(framework="test", model="m", in_process=True)
    call.note(**{DEVICE: "cuda:0"})
    counter[0] = 9000
    call.finish()
    assert (calls[0].energy_j, calls[0].energy_source) == (5.0, "nvml")


def test_cost_of_a_crewai_call(spans) -> None:
    """CrewAI's recorder takes the same price table."""
    calls = []
    options = {"tracer_provider": spans.provider, "hooks": [calls.append]}
    with CrewRecorder(prices={"hosted": (1.0, 2.0)}, **options):
        HostedLLM("fine").call("how much")
    assert spans.one("chat hosted").attributes["slm_adapters.cost.source"] == "prices"
    assert calls[0].cost == pytest.approx((11 * 1.0 + 3 * 2.0) / 1e6)
