"""Twenty thousand calls with errors, cancellations and closed streams leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import time

import litellm
import pytest
from crewai.events import crewai_event_bus
from crewai.events.utils.console_formatter import set_suppress_console_output
from crewai.llms.base_llm import llm_call_context
from crewai_cases import HostedLLM
from langchain_models import HostedChat
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

import slm_adapters.crewai
import slm_adapters.litellm
from slm_adapters._langchain import nesting, runs
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
    """20,000 calls sampled and as many not: no live entry, no growth."""
    recorder = CallRecorder(tracer_provider=TracerProvider(sampler=sampler))
    using, made = {"callbacks": [recorder]}, []

    def warm_up() -> None:
        sync_calls(using, 20)
        asyncio.run(async_calls(using, 20))

    def work() -> None:
        made.append(sync_calls(using, 2000))
        made.append(asyncio.run(async_calls(using, 2000)))

    blocks, objects = grown(work, warm_up)
    assert sum(made) == 20_000
    assert recorder.open_runs == 0
    assert not runs._first
    assert not nesting.contexts
    assert blocks < 1000
    assert objects < 5


MESSAGES = [{"role": "user", "content": "q"}]
LITE = {"model": "gpt-4o-mini", "messages": MESSAGES, "api_key": "x"}


EMBED = {"model": "text-embedding-3-small", "input": ["q"], "api_key": "x"}


def litellm_calls(rounds: int) -> int:
    """Twenty calls a round: 17 answered, one each failed, streamed and closed early."""
    for _ in range(rounds):
        for _ in range(7):
            litellm.completion(**LITE, mock_response="an answer")
        for _ in range(10):
            litellm.embedding(**EMBED, mock_response=[0.1])
        with contextlib.suppress(litellm.exceptions.InternalServerError):
            litellm.completion(**LITE, mock_response=ValueError("down"))
        for _ in litellm.completion(**LITE, mock_response="an answer", stream=True):
            pass
        next(iter(litellm.completion(**LITE, mock_response="an answer", stream=True)))
    return 20 * rounds


class Slow(litellm.CustomLLM):
    """A provider that does not answer in time."""

    async def acompletion(self, *args, **kwargs):
        kwargs["logging_obj"].pre_call(input=[], api_key="")
        await asyncio.sleep(5)


@pytest.fixture
def slow_provider():
    item = {"provider": "slow", "custom_handler": Slow()}
    litellm.custom_provider_map.append(item)
    litellm.suppress_debug_info = True
    yield
    litellm.custom_provider_map.remove(item)


async def litellm_async_calls(rounds: int) -> int:
    """Twenty calls a round: 19 answered, one cancelled."""
    for _ in range(rounds):
        for _ in range(9):
            await litellm.acompletion(**LITE, mock_response="an answer")
        for _ in range(10):
            await litellm.aembedding(**EMBED, mock_response=[0.1])
        task = asyncio.create_task(litellm.acompletion(model="slow/x", messages=MESSAGES))
        await asyncio.sleep(0.002)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.05)
    return 20 * rounds


@pytest.mark.usefixtures("slow_provider")
def test_soak_litellm() -> None:
    """20,000 calls, half of them asynchronous: no live entry, no growth."""
    made = []

    def work(rounds: int = 500) -> None:
        made.append(litellm_calls(rounds))
        made.append(asyncio.run(litellm_async_calls(rounds)))
        # What nobody reports on is noticed when it dies, and ended when somebody asks.
        settled(lambda: recorder.open_calls or recorder.calls.pending)

    with slm_adapters.litellm.CallRecorder(tracer_provider=TracerProvider()) as recorder:
        _, objects = grown(work, lambda: work(20))
        assert sum(made[2:]) == 20_000
        assert recorder.open_calls == 0
        assert not recorder.calls.pending
        assert not recorder.calls.made
        # LiteLLM keeps a handful of its own; ours would add up by the call or by the cancel.
        assert objects < 50


def settled(still_open) -> None:
    """LiteLLM reports on other threads: wait for it."""
    deadline = time.monotonic() + 20
    while still_open() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)


class Stopped(BaseException):
    """What CrewAI reports no end of."""


class Hosted(HostedLLM):
    """Keeps no list of what it was asked; streams when told to."""

    def call(self, messages, *rest, **more):
        self._asked.clear()
        return super().call(messages, *rest, **more)


def stopped() -> str:
    raise Stopped


def streamed_by(llm: Hosted, *, closed: bool):
    def answer() -> str:
        llm._emit_stream_chunk_event("an ")
        if closed:
            raise GeneratorExit
        llm._emit_stream_chunk_event("answer")
        return "an answer"

    return answer


def crewai_calls(rounds: int) -> int:
    """Ten calls a round: six answered, one each failed, stopped, streamed and closed early."""
    good, bad, dead = Hosted("ok"), Hosted(lambda: 1 / 0), Hosted(stopped)
    streamed, closed = Hosted(), Hosted()
    streamed._answers = [streamed_by(streamed, closed=False)]
    closed._answers = [streamed_by(closed, closed=True)]
    for _ in range(rounds):
        for _ in range(6):
            good.call("q")
        with contextlib.suppress(ZeroDivisionError):
            bad.call("q")
        streamed.call("q")
        # CrewAI leaves the started event on its own stack, as deep as a context has lost calls.
        with contextlib.suppress(Stopped):
            contextvars.copy_context().run(dead.call, "q")
        with contextlib.suppress(GeneratorExit):
            contextvars.copy_context().run(closed.call, "q")
    crewai_event_bus.flush()
    return 10 * rounds


class Waiting(Hosted):
    """Asked, and still thinking when its task is cancelled."""

    async def acall(self, messages, *rest, **more):
        with llm_call_context():
            self._emit_call_started_event(messages)
            await asyncio.sleep(5)


async def crewai_async_calls(rounds: int) -> int:
    """Ten calls a round: nine answered, one cancelled."""
    good, waiting = Hosted("ok"), Waiting()
    for _ in range(rounds):
        for _ in range(9):
            await good.acall("q")
        task = asyncio.create_task(waiting.acall("q"))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    crewai_event_bus.flush()
    return 10 * rounds


@pytest.fixture
def quiet_console():
    """CrewAI draws a panel for each failure and each piece of a stream."""
    set_suppress_console_output(True)
    yield
    set_suppress_console_output(False)


@pytest.mark.usefixtures("quiet_console")
def test_soak_crewai() -> None:
    """20,000 calls of CrewAI LLMs, half of them asynchronous: no live entry, no growth."""
    made = []

    def work(rounds: int = 1000) -> None:
        made.append(crewai_calls(rounds))
        made.append(asyncio.run(crewai_async_calls(rounds)))

    with slm_adapters.crewai.CallRecorder(tracer_provider=TracerProvider()) as recorder:
        # The places of calls that ended without an event are kept, a thousand at most.
        _, objects = grown(work, lambda: work(400))
        scopes = recorder._events.scopes
        assert sum(made[2:]) == 20_000
        assert len(scopes) == 0
        assert not scopes._calls
        assert objects < 5
