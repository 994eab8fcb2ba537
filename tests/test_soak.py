"""Twenty thousand calls with errors, cancellations and closed streams leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time

import litellm
import pytest
from langchain_models import HostedChat
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import slm_adapters.litellm
from slm_adapters._langchain import nesting, runs
from slm_adapters._litellm import recording
from slm_adapters.langchain import CallRecorder


class Quick(HostedChat):
    """Keeps no list of its turns: the growth measured here is the recorder's."""

    def _next(self):
        self.turns.clear()
        return super()._next()


class Broken(Quick):
    """Raises a new error every time: one raised again and again keeps all its frames."""

    def _next(self):
        raise ConnectionError("down")


GOOD, BAD, SLOW = Quick(), Broken(), Quick(delay_s=5)


def sync_calls(using: dict, rounds: int) -> int:
    """Five calls a round: answered, failed, streamed, closed early, dropped."""
    for _ in range(rounds):
        GOOD.invoke("q", using)
        with contextlib.suppress(ConnectionError):
            BAD.invoke("q", using)
        for _ in GOOD.stream("q", using):
            pass
        closed = GOOD.stream("q", using)
        next(closed)
        closed.close()
        next(GOOD.stream("q", using))
    return 5 * rounds


async def async_calls(using: dict, rounds: int) -> int:
    """Five calls a round: answered, failed, cancelled, streamed, broken off."""
    for _ in range(rounds):
        await GOOD.ainvoke("q", using)
        with contextlib.suppress(ConnectionError):
            await BAD.ainvoke("q", using)
        task = asyncio.create_task(SLOW.ainvoke("q", using))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async for _ in GOOD.astream("q", using):
            pass
        async for _ in GOOD.astream("q", using):
            break
    await asyncio.sleep(0.01)
    return 5 * rounds


def ours_alive() -> int:
    """Objects of this package's classes."""
    return sum(str(type(item).__module__).startswith("slm_adapters") for item in gc.get_objects())


def grown(work, warm_up) -> tuple[int, int]:
    """Memory blocks of the interpreter, and objects of ours, left by ``work``."""
    warm_up()
    gc.collect()
    blocks, objects = sys.getallocatedblocks(), ours_alive()
    work()
    gc.collect()
    return sys.getallocatedblocks() - blocks, ours_alive() - objects


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "unsampled"])
def test_soak_langchain(sampler) -> None:
    """10,000 calls sampled and as many not: no live entry, no growth."""
    recorder = CallRecorder(tracer_provider=TracerProvider(sampler=sampler))
    using, made = {"callbacks": [recorder]}, []

    def warm_up() -> None:
        sync_calls(using, 20)
        asyncio.run(async_calls(using, 20))

    def work() -> None:
        made.append(sync_calls(using, 1000))
        made.append(asyncio.run(async_calls(using, 1000)))

    blocks, objects = grown(work, warm_up)
    assert sum(made) == 10_000
    assert recorder.open_runs == 0
    assert not runs._first
    assert not nesting.contexts
    assert blocks < 1000
    assert objects < 5


def test_soak_litellm() -> None:
    """2,000 calls: answered, failed, streamed and closed streams."""
    messages = [{"role": "user", "content": "q"}]
    options = {"model": "gpt-4o-mini", "messages": messages, "api_key": "x"}

    def work(rounds: int = 500) -> None:
        for _ in range(rounds):
            litellm.completion(**options, mock_response="an answer")
            with contextlib.suppress(litellm.exceptions.InternalServerError):
                litellm.completion(**options, mock_response=ValueError("down"))
            for _ in litellm.completion(**options, mock_response="an answer", stream=True):
                pass
            next(iter(litellm.completion(**options, mock_response="an answer", stream=True)))
        deadline = time.monotonic() + 20
        while recorder.open_calls and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)

    with slm_adapters.litellm.CallRecorder(tracer_provider=TracerProvider()) as recorder:
        _, objects = grown(work, lambda: work(20))
        assert recorder.open_calls == 0
        assert len(recording._made) <= 64
        # LiteLLM keeps things of its own; what counts is that ours do not add up by the call.
        assert objects <= 64 + 5
