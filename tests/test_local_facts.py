"""What only a local engine knows, on the span and in the record of every framework's call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import litellm
import pytest

import slm_adapters.crewai
import slm_adapters.langchain
import slm_adapters.litellm
from slm_adapters.calls import Usage
from slm_adapters.engine.engine import Completion, Timings
from slm_adapters.telemetry.energy import EnergyMeter
from slm_adapters.testing import ScriptedModel

QUESTION = [{"role": "user", "content": "q"}]


class Measured(ScriptedModel):
    """Reports as a local engine does: device, queue, decode rate, what its cache saved."""

    def stream(self, request: Any, cancel: Any = None) -> Any:
        *chunks, last = super().stream(request, cancel)
        yield from chunks
        facts = {"slm_adapters.device": "cpu", "slm_adapters.quantization": "nf4"}
        usage = Usage(40, 2, cached_tokens=32)
        yield Completion(last.reply, usage, "m", Timings(0.5, 0.1, 2.0), facts)


class Counter(EnergyMeter):
    """Stands in for RAPL: two and a half joules between two readings."""

    readings = 0

    def read(self) -> dict[str, float]:
        self.readings += 1
        return {"rapl": 2.5 * self.readings}


def by_langchain(engine: Any, **options: Any) -> None:
    recorder = slm_adapters.langchain.CallRecorder(**options)
    recorder.recorder.energy = Counter()
    slm_adapters.langchain.ChatSLM(engine).invoke("q", {"callbacks": [recorder]})


def by_crewai(engine: Any, **options: Any) -> None:
    with slm_adapters.crewai.CallRecorder(**options) as recorder:
        recorder.recorder.energy = Counter()
        slm_adapters.crewai.SLM(engine).call("q")


def by_litellm(engine: Any, **options: Any) -> None:
    slm_adapters.litellm.register({"local": engine})
    with slm_adapters.litellm.CallRecorder(**options) as recorder:
        recorder.recorder.energy = Counter()
        litellm.completion(model="slm/local", messages=QUESTION)
        told = options["hooks"][0].__self__
        for _ in range(500):
            if told:
                break
            time.sleep(0.01)
    slm_adapters.litellm.unregister()


@pytest.mark.parametrize("ask", [by_langchain, by_crewai, by_litellm])
def test_a_local_call_carries_rate_queue_cache_device_energy_and_price(
    spans, ask: Callable[..., None]
) -> None:
    """Same names and values whichever framework asked."""
    calls: list[Any] = []
    prices = {"m": (1.0, 10.0, 0.5), "local": (1.0, 10.0, 0.5)}
    ask(Measured(["one two"], name="m"), tracer_provider=spans.provider,
        hooks=[calls.append], prices=prices)  # fmt: skip
    attributes = spans.one("chat").attributes
    assert attributes["slm_adapters.device"] == "cpu"
    assert attributes["slm_adapters.quantization"] == "nf4"
    assert attributes["slm_adapters.decode.tokens_per_second"] == 1.0
    assert attributes["slm_adapters.queue.seconds"] == 0.5
    assert attributes["gen_ai.usage.input_tokens"] == 40
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 32
    assert attributes["slm_adapters.energy.joules"] == 2.5
    assert attributes["slm_adapters.energy.source"] == "rapl"
    assert attributes["slm_adapters.cost.usd"] == pytest.approx((8 + 20 + 16) / 1e6)
    (call,) = calls
    assert call.usage.cached_tokens == 32
    assert (call.energy_j, call.cost_source) == (2.5, "prices")


def test_the_user_s_prices_win_over_litellm_s(spans) -> None:
    """LiteLLM has prices of its own; a table that was given is meant."""
    calls: list[Any] = []
    options = {"tracer_provider": spans.provider, "hooks": [calls.append]}
    with slm_adapters.litellm.CallRecorder(prices={"gpt-4o": (1e6, 0.0)}, **options):
        answer = litellm.completion(
            model="openai/gpt-4o", messages=QUESTION, mock_response="fine", api_key="none"
        )
        for _ in range(500):
            if calls:
                break
            time.sleep(0.01)
    assert calls[0].cost == answer.usage.prompt_tokens
    assert spans.one("chat").attributes["slm_adapters.cost.source"] == "prices"


@pytest.mark.parametrize("price", [None, 0.0])
def test_without_a_price_there_is_no_cost_and_a_price_of_nothing_is_one(
    spans, monkeypatch, price: float | None
) -> None:
    """LiteLLM says 0 of a model that nobody priced; a user may well price a local one at 0."""
    calls: list[Any] = []
    monkeypatch.setattr(litellm, "model_cost", dict(litellm.model_cost))
    if price is not None:
        prices = {"input_cost_per_token": price, "output_cost_per_token": price}
        litellm.register_model({"slm/local": prices | {"litellm_provider": "slm", "mode": "chat"}})
    by_litellm(ScriptedModel(["one"]), tracer_provider=spans.provider, hooks=[calls.append])
    assert spans.one("chat").attributes.get("slm_adapters.cost.usd") == price
    assert (calls[0].cost, calls[0].cost_source) == (price, price if price is None else "litellm")
