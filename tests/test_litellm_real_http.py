"""LiteLLM's entry points over real HTTP, against a fake of the paid API on a loopback port."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import litellm
import pytest
from conftest import Spans
from fake_openai import fake_openai
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import slm_adapters.litellm as slm
from slm_adapters._litellm import clients
from slm_adapters.telemetry import harmless

MODEL = "openai/gpt-4o-mini"
QUESTION = [{"role": "user", "content": "q"}]


@pytest.fixture
def server():
    with fake_openai() as fake:
        yield fake.options


@pytest.fixture
def recorder(spans, calls):
    with slm.CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]) as recorder:
        yield recorder


@pytest.fixture
def broken():
    """A provider that answers 500 to everything."""
    with fake_openai() as fake:
        fake.failures = sys.maxsize
        yield fake.options


def settled(spans: Spans, count: int) -> list[Any]:
    """LiteLLM reports from its own threads: that many spans, and no more a moment later."""
    for _ in range(500):
        if len(spans.all()) >= count:
            break
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(spans.all()) == count, [span.name for span in spans.all()]
    return spans.all()


async def every_way(options: dict[str, Any]) -> None:
    """Completion, streaming, text completion and embeddings, each sync and async."""
    text = options | {"model": "text-completion-openai/gpt-3.5-turbo-instruct", "prompt": "q"}
    embed = options | {"model": "openai/text-embedding-3-small", "input": ["q"]}
    embed |= {"dimensions": 2, "encoding_format": "float"}
    asked = options | {"model": MODEL, "messages": QUESTION}

    def synchronous() -> None:
        litellm.completion(**asked)
        list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
        litellm.text_completion(**text)
        litellm.embedding(**embed)

    await asyncio.to_thread(synchronous)
    await litellm.acompletion(**asked)
    stream = await litellm.acompletion(**asked, stream=True, stream_options={"include_usage": True})
    async for _ in stream:
        pass
    await litellm.atext_completion(**text)
    await litellm.aembedding(**embed)
    await asyncio.sleep(1)


async def test_every_entry_point_is_one_span_with_exact_tokens(spans, recorder, server) -> None:
    """Eight calls, eight spans, each with what the server counted."""
    await every_way(server)
    operations = sorted(s.attributes["gen_ai.operation.name"] for s in settled(spans, 8))
    assert operations == ["chat"] * 4 + ["embeddings"] * 2 + ["text_completion"] * 2
    assert {s.attributes["gen_ai.usage.input_tokens"] for s in spans.all()} == {11}
    outputs = {
        (s.attributes["gen_ai.operation.name"] == "embeddings",
         s.attributes.get("gen_ai.usage.output_tokens"))
        for s in spans.all()
    }  # fmt: skip
    assert outputs == {(False, 3), (True, None)}
    streamed = [s for s in spans.all() if "gen_ai.response.time_to_first_chunk" in s.attributes]
    assert len(streamed) == 2
    for embedding in spans.named("embeddings"):
        assert embedding.attributes["gen_ai.embeddings.dimension.count"] == 2
        assert embedding.attributes["gen_ai.request.encoding_formats"] == ("float",)
    assert recorder.open_calls == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_router_s_calls_are_the_caller_s(spans, recorder, server, broken, asynchronous) -> None:
    """A deployment that fails and the one that answers: a span each, both in the request."""
    router = litellm.Router(
        model_list=[
            {"model_name": "first", "litellm_params": {"model": "openai/broken", **broken}},
            {"model_name": "second", "litellm_params": {"model": MODEL, **server}},
        ],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )

    async def asked() -> Any:
        answer = await router.acompletion("first", QUESTION)
        await asyncio.sleep(0.5)
        return answer

    with spans.provider.get_tracer("app").start_as_current_span("request"):
        answer = asyncio.run(asked()) if asynchronous else router.completion("first", QUESTION)
    assert answer.choices[0].message.content == "It is done."
    found = {s.name: s for s in settled(spans, 3)}
    assert {name.replace("openai/", "") for name in found} == {
        "request", "chat broken", "chat gpt-4o-mini"
    }  # fmt: skip
    for span in spans.named("chat"):
        assert spans.parent_name(span) == "request"
        failed = "broken" in span.name
        assert (span.status.status_code is StatusCode.ERROR) is failed
        assert ("gen_ai.usage.input_tokens" in span.attributes) is not failed
    assert recorder.open_calls == 0


def test_an_unknown_version_is_said_once_and_recorded(spans, server, caplog, monkeypatch) -> None:
    """Places we wrap that are not there cost one warning, never the spans."""
    monkeypatch.setattr(harmless, "_counts", Counter())
    monkeypatch.setattr(
        clients, "_PLACES", {"openai.openai:NotThere": ("x",), "nowhere:Class": ("y",)}
    )
    for _ in range(2):
        with slm.CallRecorder(tracer_provider=spans.provider):
            litellm.completion(model=MODEL, messages=QUESTION, **server)
            time.sleep(0.5)
    said = [r for r in caplog.records if "this litellm version is unknown" in r.getMessage()]
    assert len(said) == 1
    assert len(settled(spans, 2)) == 2


def test_t32_two_recorders_with_a_provider_each_stay_apart(spans, server) -> None:
    """Each provider has its span, and the global one is left alone."""
    before, other = trace.get_tracer_provider(), Spans()
    with (
        slm.CallRecorder(tracer_provider=spans.provider),
        slm.CallRecorder(tracer_provider=other.provider),
    ):
        litellm.completion(model=MODEL, messages=QUESTION, **server)
        ours, theirs = settled(spans, 1), settled(other, 1)
    assert ours[0].context.trace_id != theirs[0].context.trace_id
    assert trace.get_tracer_provider() is before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2)])
def test_t33_a_forked_child_records_its_calls(server, before, after) -> None:
    """Instrumented in the parent, called in the child.

    LiteLLM reports from a pool of threads, which stays behind when a parent that has asked already
    forks: the child's first report then waits for its second call.
    """
    program = f"""
import os, sys, time
sys.path.insert(0, "tests")
import conftest, litellm
import slm_adapters.litellm as slm
calls = []
slm.instrument(hooks=[calls.append])
def ask(times):
    for _ in range(times):
        litellm.completion(model={MODEL!r}, messages={QUESTION!r}, **{server!r})
    for _ in range(200):
        if len(calls) == times: return
        time.sleep(0.02)
    os._exit(1)
ask({before})
calls.clear()
pid = os.fork()
if pid == 0:
    ask({after})
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
