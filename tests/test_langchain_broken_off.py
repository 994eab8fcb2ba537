"""However a call or a stream ends early: its span ends at once, and only errors are errors."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_models import HostedChat

from slm_adapters.langchain import CallRecorder

CANCELLED = "asyncio.exceptions.CancelledError"
QUICK = HostedChat(replies=["one two three four five six"])
SLOW = HostedChat(delay_s=5)


async def first_of(stream) -> None:
    async for _ in stream:
        break


async def broken_off(using) -> None:
    await first_of(QUICK.astream("q", using))


async def many_broken_off(using) -> None:
    for _ in range(10):
        async for _ in QUICK.astream("q", using):
            break


async def broken_off_in_a_chain(using) -> None:
    chain = ChatPromptTemplate.from_template("{x}") | QUICK
    async for _ in chain.astream({"x": "q"}, using):
        break


async def closed(using) -> None:
    stream = QUICK.astream("q", using)
    await anext(stream)
    await stream.aclose()


async def closed_by_a_block(using) -> None:
    async with contextlib.aclosing(QUICK.astream("q", using)) as stream:
        await anext(stream)


async def consumer_cancelled(using) -> None:
    async def use() -> None:
        async for _ in QUICK.astream("q", using):
            await asyncio.sleep(9)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(use(), 0.02)


async def consumer_raises(using) -> None:
    with contextlib.suppress(KeyError):
        async for _ in QUICK.astream("q", using):
            raise KeyError("the consumer's own")


async def collected(using) -> None:
    stream = QUICK.astream("q", using)
    await anext(stream)
    ring: list = [stream]
    ring.append(ring)
    del stream, ring
    gc.collect()


GIVEN_UP = [
    broken_off, many_broken_off, broken_off_in_a_chain, closed, closed_by_a_block,
    consumer_cancelled, consumer_raises, collected,
]  # fmt: skip


@pytest.mark.parametrize("goes_on", [False, True], ids=["loop ends", "loop goes on"])
@pytest.mark.parametrize("give_up", GIVEN_UP)
def test_t18_a_stream_given_up_ends_at_once_and_is_no_error(spans, caplog, give_up, goes_on):
    """At the end of a loop LangChain's own report is cut off: peers lose the span or call it
    cancelled. Nothing is asked of the recorder here that would make it look."""
    recorder = CallRecorder(tracer_provider=spans.provider)

    async def main() -> None:
        await give_up({"callbacks": [recorder]})
        if goes_on:
            for _ in range(8):
                await asyncio.sleep(0)
            assert not recorder._runs.live

    asyncio.run(main())
    assert not recorder._runs.live
    assert len(spans.all()) == (10 if give_up is many_broken_off else 1)
    for span in spans.all():
        assert span.status.is_unset
        assert "error.type" not in span.attributes
        assert span.attributes["slm_adapters.outcome"] == "abandoned"
    # Two generators closed by the loop at the same time would make it complain.
    assert [r.message for r in caplog.records if r.name == "asyncio"] == []


def test_t18_the_kept_half_of_a_stream_ends_with_its_loop(spans, caplog) -> None:
    """A stream somebody still holds is closed by the loop's end, once and without a complaint."""
    recorder, kept = CallRecorder(tracer_provider=spans.provider), []

    async def main() -> None:
        kept.append(QUICK.astream("q", {"callbacks": [recorder]}))
        await anext(kept[0])

    asyncio.run(main())
    assert spans.one("chat").status.is_unset
    assert not recorder._runs.live
    assert [r.message for r in caplog.records if r.name == "asyncio"] == []


@pytest.mark.parametrize("order", ["closed first", "dropped first"])
def test_t18_a_stream_whose_loop_is_closed_ends_when_it_was_dropped(spans, order) -> None:
    """Nobody can run its ``finally`` any more: noticed by the next look, with the true time."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    loop = asyncio.new_event_loop()
    stream = QUICK.astream("q", {"callbacks": [recorder]})
    loop.run_until_complete(anext(stream))
    if order == "closed first":
        loop.close()
    del stream
    loop.close()
    gc.collect()
    assert recorder.open_runs == 0
    assert spans.one("chat").status.is_unset
    assert spans.one("chat").attributes["slm_adapters.outcome"] == "abandoned"


async def test_t18_a_stream_is_what_it_was(spans) -> None:
    """Closing twice, reading on after the end, throwing into it: as without a recorder."""
    using = {"callbacks": [CallRecorder(tracer_provider=spans.provider)]}
    for options in ({}, using):
        stream = QUICK.astream("q", options)
        text = [chunk.text async for chunk in stream]
        assert "".join(text) == "one two three four five six"
        assert [chunk async for chunk in stream] == []
        await stream.aclose()
        thrown = QUICK.astream("q", options)
        await anext(thrown)
        with pytest.raises(ZeroDivisionError):
            await thrown.athrow(ZeroDivisionError())
        with pytest.raises(StopAsyncIteration):
            await anext(thrown)
    thrown = spans.named("chat")[1]
    assert thrown.attributes["error.type"] == "ZeroDivisionError"


# The eight kinds of failure and cancellation of bench/telemetry


def tool_that_raises(word: str) -> str:
    """Look a word up."""
    raise LookupError(word)


def invoke_raises(using) -> None:
    HostedChat(replies=[ConnectionError("down")]).invoke("q", using)


class Cut(HostedChat):
    """Breaks in the middle of a stream."""

    def _stream(self, *args, **kwargs):
        yield from self._chunks()[:3]
        raise ConnectionError("cut")


def stream_raises(using) -> None:
    list(Cut(replies=["one two three four"]).stream("q", using))


def stream_closed(using) -> None:
    stream = QUICK.stream("q", using)
    next(stream)
    stream.close()


def stream_dropped(using) -> None:
    next(QUICK.stream("q", using))


def ainvoke_cancelled(using) -> None:
    asyncio.run(asyncio.wait_for(SLOW.ainvoke("q", using), 0.01))


def astream_cancelled(using) -> None:
    asyncio.run(asyncio.wait_for(first_of(SLOW.astream("q", using)), 0.01))


def astream_broken_off(using) -> None:
    asyncio.run(broken_off(using))


def agent_tool_raises(using) -> None:
    asking = AIMessage(
        "", tool_calls=[{"name": "tool_that_raises", "args": {"word": "x"}, "id": "1"}]
    )
    agent = create_agent(HostedChat(replies=[asking, "done"]), [tool_that_raises], name="desk")
    agent.invoke({"messages": [("user", "q")]}, using)


KINDS = {
    invoke_raises: {"chat": "ConnectionError"},
    stream_raises: {"chat": "ConnectionError"},
    stream_closed: {"chat": None},
    stream_dropped: {"chat": None},
    ainvoke_cancelled: {"chat": CANCELLED},
    astream_cancelled: {"chat": CANCELLED},
    astream_broken_off: {"chat": None},
    agent_tool_raises: {
        "chat": None, "execute_tool": "LookupError", "invoke_agent": "LookupError",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_t20_eight_kinds_of_failure_and_cancellation(spans, kind) -> None:
    """Twenty times each: every span ended, no live entry, ``error.type`` on errors alone."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    for _ in range(20):
        with contextlib.suppress(ConnectionError, TimeoutError, LookupError):
            kind({"callbacks": [recorder]})
    assert not recorder._runs.live
    expected = KINDS[kind]
    assert len(spans.all()) == 20 * len(expected)
    for span in spans.all():
        error = expected[span.attributes["gen_ai.operation.name"]]
        assert span.attributes.get("error.type") == error
        assert span.status.is_ok is (error is None)
