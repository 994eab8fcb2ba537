"""LiteLLM reports asynchronous calls late: their end is the true one, whatever ends meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import litellm
import pytest
from conftest import until
from fake_openai import fake_openai
from litellm.integrations.custom_logger import CustomLogger
from opentelemetry.trace import StatusCode

import slm_adapters.litellm as slm
from slm_adapters.testing import ScriptedModel

QUESTION = [{"role": "user", "content": "q"}]


@pytest.fixture(params=["hosted", "ours"])
def options(request):
    """A model behind real HTTP, and a local one of ours."""
    with fake_openai() as fake:
        slm.register({"scripted": ScriptedModel(["It is done."] * 9)})
        hosted = {"model": "openai/gpt-4.1-mini", "api_base": fake.base_url, "api_key": "none"}
        yield {"messages": QUESTION} | (
            hosted if request.param == "hosted" else {"model": "slm/scripted"}
        )
        slm.unregister()


def finished(spans) -> None:
    span = spans.one("chat")
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert "slm_adapters.outcome" not in span.attributes


def lists() -> list[list[Any]]:
    return [list(litellm.success_callback), list(litellm._async_success_callback)]


def test_a_recorder_closed_after_the_loop_ended(spans, options) -> None:
    """LiteLLM's queue is emptied for it; LiteLLM's lists are as before at once."""
    before = lists()
    with slm.CallRecorder(tracer_provider=spans.provider):
        asyncio.run(litellm.acompletion(**options))
    finished(spans)
    assert lists() == before


async def test_a_recorder_closed_right_after_the_answer(spans, options) -> None:
    """It hears of this call, of no later one, and is gone then."""
    before = lists()
    with slm.CallRecorder(tracer_provider=spans.provider):
        await litellm.acompletion(**options)
    await litellm.acompletion(**options)
    await until(lambda: lists() == before)
    finished(spans)


def test_a_recorder_closed_right_after_a_plain_call(spans, options) -> None:
    """The outcome comes from a thread of LiteLLM's."""
    before = lists()
    with slm.CallRecorder(tracer_provider=spans.provider):
        litellm.completion(**options)
    asyncio.run(until(lambda: lists() == before))
    finished(spans)


def test_a_loop_that_still_runs_is_left_to_itself(spans) -> None:
    """Closing on another thread reports nothing on a foreign loop."""
    loops = []

    class Noting(CustomLogger):
        async def async_log_success_event(self, *_: Any, **__: Any) -> None:
            loops.append(asyncio.get_running_loop())

    noting = Noting()
    litellm._async_success_callback.append(noting)

    async def asked() -> Any:
        recorder = slm.CallRecorder(tracer_provider=spans.provider)
        await litellm.acompletion("openai/gpt-4o", QUESTION, mock_response="hi")
        await asyncio.to_thread(recorder.close)
        await until(lambda: loops and spans.all())
        return asyncio.get_running_loop()

    try:
        assert asyncio.run(asked()) is loops[0]
    finally:
        litellm._async_success_callback.remove(noting)
    assert spans.one("chat").status.status_code is StatusCode.UNSET


PROGRAM = """
import asyncio, litellm
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from slm_adapters.litellm import CallRecorder

CallRecorder(store={store!r})
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
question = [{{"role": "user", "content": "q"}}]
asyncio.run(litellm.acompletion("openai/gpt-4o", question, mock_response="It is done."))
"""


def test_a_program_s_last_call_is_exported_and_kept(tmp_path: Path) -> None:
    """Though the exporter and the store are shut before LiteLLM would report it."""
    store = tmp_path / "calls.db"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(store=str(store))],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count('"name": "chat gpt-4o"') == 1, done.stderr
    from slm_adapters import CallStore

    (call,) = CallStore(store).calls()
    assert call.outcome == "finished"
    assert call.replies[0].message.text == "It is done."
