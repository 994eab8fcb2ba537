"""What runs inside a model call, a tool or a retriever nests under it, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import until
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel
from langchain_core.tools import tool
from langchain_models import HostedChat, PlainLLM
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slm_adapters.langchain import CallRecorder


class Client:
    """Stands for an instrumented HTTP client: one span per request."""

    def __init__(self, provider) -> None:
        self.tracer = provider.get_tracer("http")

    def request(self, name: str = "POST") -> None:
        with self.tracer.start_as_current_span(name):
            pass


CLIENTS: list[Client] = []


class Networked(HostedChat):
    """Opens a client's span before it answers and before every chunk."""

    def _generate(self, *args, **kwargs):
        CLIENTS[0].request()
        return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args, **kwargs):
        CLIENTS[0].request()
        await asyncio.sleep(0.001)
        CLIENTS[0].request()
        return await super()._agenerate(*args, **kwargs)

    def _stream(self, *args, **kwargs):
        for chunk in super()._stream(*args, **kwargs):
            CLIENTS[0].request()
            yield chunk

    async def _astream(self, *args, **kwargs):
        async for chunk in super()._astream(*args, **kwargs):
            await asyncio.sleep(0)
            CLIENTS[0].request()
            yield chunk


class NetworkedLLM(PlainLLM):
    def _generate(self, *args, **kwargs):
        CLIENTS[0].request()
        return super()._generate(*args, **kwargs)


@pytest.fixture(autouse=True)
def client(spans, caplog):
    """The instrumented client; any complaint of OpenTelemetry's about contexts fails the test."""
    caplog.set_level(logging.ERROR, logger="opentelemetry")
    CLIENTS[:] = [Client(spans.provider)]
    yield CLIENTS[0]
    assert "context" not in caplog.text


@pytest.fixture
def recorder(spans) -> CallRecorder:
    return CallRecorder(tracer_provider=spans.provider)


def using(recorder) -> dict:
    return {"callbacks": [recorder]}


def parents(spans, name: str = "POST") -> set[str | None]:
    return {spans.parent_name(span) for span in spans.named(name)}


def test_t7_client_spans_nest_under_a_sync_call(spans, recorder) -> None:
    """Callbacks alone leave them beside the call."""
    (Networked() | StrOutputParser()).invoke("q", using(recorder))
    NetworkedLLM().invoke("q", using(recorder))
    assert [spans.parent_name(s) for s in spans.named("POST")] == [
        "chat hosted-1", "text_completion plain-1",
    ]  # fmt: skip


async def test_t7_client_spans_nest_under_an_async_call(spans, recorder) -> None:
    """Also after an await, and for a plain LLM whose work is on another thread."""
    await (Networked() | StrOutputParser()).ainvoke("q", using(recorder))
    assert parents(spans) == {"chat hosted-1"}
    await NetworkedLLM().ainvoke("q", using(recorder))
    assert parents(spans) == {"chat hosted-1", "text_completion plain-1"}


def test_t7_client_spans_nest_under_a_stream_and_the_consumers_do_not(spans, recorder) -> None:
    """Between two chunks the consumer has its own current span, unchanged."""
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        for _ in Networked().stream("q", using(recorder)):
            assert trace.get_current_span() is request
            CLIENTS[0].request("consumer")
    assert parents(spans) == {"chat hosted-1"}
    assert parents(spans, "consumer") == {"request"}


async def test_t7_the_same_for_an_async_stream(spans, recorder) -> None:
    """``astream`` and ``astream`` of a chain."""
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        async for _ in Networked().astream("q", using(recorder)):
            assert trace.get_current_span() is request
            CLIENTS[0].request("consumer")
        async for _ in (Networked() | StrOutputParser()).astream("q", using(recorder)):
            assert trace.get_current_span() is request
    assert parents(spans) == {"chat hosted-1"}
    assert parents(spans, "consumer") == {"request"}


async def test_t7_client_spans_nest_under_v3_event_streams(spans, recorder) -> None:
    """The official package misses these."""
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        stream = Networked().stream_events("q", using(recorder), version="v3")
        for _ in stream.text:
            assert trace.get_current_span() is request
        astream = await Networked().astream_events("q", using(recorder), version="v3")
        async for _ in astream.text:
            assert trace.get_current_span() is request
        await astream.output
    await asyncio.sleep(0)
    assert len(spans.named("chat")) == 2
    assert parents(spans) == {"chat hosted-1"}


def test_t7_a_batch_on_threads(spans, recorder) -> None:
    """Each item's client span is under that item's call."""
    Networked().batch(["a", "b", "c"], using(recorder))
    under = [span.parent.span_id for span in spans.named("POST")]
    assert sorted(under) == sorted(span.context.span_id for span in spans.named("chat"))


def test_t7_tools_and_retrievers(spans, recorder) -> None:
    """A client's span, and a model call under a span the tool opens itself."""

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            CLIENTS[0].request("search")
            return [Document("found")]

    @tool
    def look_up(number: str) -> str:
        """Look up an order."""
        CLIENTS[0].request("GET")
        with CLIENTS[0].tracer.start_as_current_span("step"):
            return Networked().invoke(number).text

    Shelf().invoke("q", using(recorder))
    look_up.invoke({"number": "7"}, using(recorder))
    assert parents(spans, "search") == {"retrieval Shelf"}
    assert parents(spans, "GET") == {"execute_tool look_up"}
    assert parents(spans, "step") == {"execute_tool look_up"}
    assert parents(spans, "chat") == {"step"}
    assert parents(spans) == {"chat hosted-1"}


def test_t8_a_recorded_model_inside_a_tool_nobody_records(spans, recorder) -> None:
    """The tool has no span; after the call inside it, the caller's span is current again."""

    @tool
    def look_up(number: str) -> str:
        """Look up an order."""
        Networked(callbacks=[recorder]).invoke(number)
        CLIENTS[0].request("GET")
        list(Networked(callbacks=[recorder]).stream(number))
        CLIENTS[0].request("GET")
        return "found"

    look_up.invoke({"number": "7"})
    assert parents(spans, "GET") == {None}
    assert parents(spans) == {"chat hosted-1"}


async def test_t7_async_tools_and_retrievers(spans, recorder) -> None:
    """The same on an event loop; a tool that fails leaves nothing current."""

    class Shelf(BaseRetriever):
        async def _aget_relevant_documents(self, query, *, run_manager):
            CLIENTS[0].request("search")
            return []

        def _get_relevant_documents(self, query, *, run_manager):
            raise NotImplementedError

    @tool
    async def look_up(number: str) -> str:
        """Look up an order."""
        CLIENTS[0].request("GET")
        raise ConnectionError("down")

    await Shelf().ainvoke("q", using(recorder))
    with pytest.raises(ConnectionError):
        await look_up.ainvoke({"number": "7"}, using(recorder))
    assert parents(spans, "search") == {"retrieval Shelf"}
    assert parents(spans, "GET") == {"execute_tool look_up"}
    assert not trace.get_current_span().get_span_context().is_valid


async def test_t8_no_context_leaks_out_of_any_way_a_call_can_end(spans, recorder) -> None:
    """Errors, cancellation, closed, broken-off and dropped streams leave the caller's span."""
    failing = Networked(replies=[ConnectionError("down")])
    slow = Networked(delay_s=5)
    with spans.provider.get_tracer("app").start_as_current_span("request") as request:
        with pytest.raises(ConnectionError):
            failing.invoke("q", using(recorder))
        with pytest.raises(ConnectionError):
            list(failing.stream("q", using(recorder)))
        with pytest.raises(ConnectionError):
            await failing.ainvoke("q", using(recorder))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await slow.ainvoke("q", using(recorder))
        closed = Networked().stream("q", using(recorder))
        next(closed)
        closed.close()
        dropped = Networked().stream("q", using(recorder))
        next(dropped)
        del dropped
        broken_off = Networked().astream("q", using(recorder))
        async for _ in broken_off:
            break
        await broken_off.aclose()
        assert trace.get_current_span() is request
    await until(lambda: recorder.open_runs == 0)
    assert len(spans.named("chat")) == 7


async def test_t8_a_stream_consumed_from_several_tasks(spans, recorder) -> None:
    """Every chunk is fetched in a task of its own, as web servers with timeouts do."""
    stream = Networked(replies=["one two three"]).astream("q", using(recorder))
    text = ""
    while (chunk := await asyncio.create_task(anext(stream, None))) is not None:
        text += chunk.text
        assert not trace.get_current_span().get_span_context().is_valid
    assert text == "one two three"
    assert parents(spans) == {"chat hosted-1"}


async def test_t8_a_dropped_async_stream_is_closed_elsewhere_without_a_complaint(
    spans, recorder
) -> None:
    """The loop closes it in another task; a token could not be reset there."""
    stream = Networked().astream("q", using(recorder))
    await anext(stream)
    del stream
    gc.collect()
    await until(lambda: spans.named("chat"))
    assert spans.one("chat").attributes["slm_adapters.outcome"] == "abandoned"
    assert not trace.get_current_span().get_span_context().is_valid


def test_t8_errors_thrown_into_a_stream_reach_the_model(spans, recorder) -> None:
    """``throw`` and its exception arrive unchanged."""
    stream = Networked().stream("q", using(recorder))
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError())
    assert spans.one("chat").attributes["error.type"] == "ZeroDivisionError"


async def test_t8_eight_threads_and_one_hundred_tasks(spans, recorder) -> None:
    """Parallel branches, on threads and on one loop: no span under a stranger's."""
    tracer = spans.provider.get_tracer("app")
    chain = RunnableParallel(a=Networked(), b=Networked() | StrOutputParser())

    def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            chain.invoke("q", using(recorder))
            CLIENTS[0].request(f"after {number}")

    async def arequest(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            await chain.ainvoke("q", using(recorder))
            CLIENTS[0].request(f"after {number}")

    await asyncio.gather(*(asyncio.to_thread(request, n) for n in range(40)))
    await asyncio.gather(*(arequest(n) for n in range(40, 140)))
    ids = {span.context.span_id: span for span in spans.all()}
    for span in spans.all():
        if span.name.startswith("request"):
            assert span.parent is None
            continue
        parent = ids[span.parent.span_id]
        wanted = {"POST": "chat", "chat": "request", "after": "request"}[span.name.split()[0]]
        assert parent.name.startswith(wanted)
        if wanted == "request" and span.name.startswith("after"):
            assert parent.name.split()[1] == span.name.split()[1]
    assert len(spans.named("chat")) == 280
    assert recorder.open_runs == 0


def test_t20_a_cancelled_call_ends_at_once(spans, recorder) -> None:
    """Not when its id is collected: the span's end is the cancellation's time."""

    async def main() -> int:
        model = Networked(delay_s=60)
        task = asyncio.create_task(model.ainvoke("q", using(recorder)))
        await until(lambda: model.asked)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(spans.named("chat"))  # the task and its frames are still alive here

    assert asyncio.run(main()) == 1
    assert spans.one("chat").attributes["error.type"].endswith("CancelledError")


#: In an interpreter of its own: here, recorders of other tests may still live.
FRESH = """
import functools, gc, logging, sys
sys.path.insert(0, "tests")
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from langchain_models import HostedChat
from slm_adapters._langchain import nesting
from slm_adapters.langchain import CallRecorder

def methods():
    names = [
        (BaseChatModel, "stream"), (BaseChatModel, "astream"),
        (BaseChatModel, "_generate_with_cache"), (BaseChatModel, "_agenerate_with_cache"),
        (BaseChatModel, "_iter_v2_events"), (BaseChatModel, "_aiter_v2_events"),
        (BaseLLM, "stream"), (BaseLLM, "astream"),
        (BaseLLM, "_generate_helper"), (BaseLLM, "_agenerate_helper"),
        (BaseTool, "run"), (BaseTool, "arun"),
        (BaseRetriever, "invoke"), (BaseRetriever, "ainvoke"),
    ]
    return [vars(owner)[name] for owner, name in names]
"""


def fresh(program: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", FRESH + program], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_t33_langchain_is_untouched_when_no_recorder_lives() -> None:
    """The methods are wrapped while a recorder lives and are themselves afterwards."""
    fresh("""
before = methods()
first, second = CallRecorder(), CallRecorder()
during = methods()
assert all(a is not b for a, b in zip(before, during))
del first
gc.collect()
assert methods() == during
del second
gc.collect()
assert methods() == before
""")


def test_what_a_program_imports_later_is_wrapped_then_and_not_imported_by_us() -> None:
    """Tools, retrievers and plain models cost nobody who does not use them."""
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


LATER = """
import gc, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from slm_adapters.langchain import CallRecorder

before, late = list(sys.meta_path), ("langchain_core.tools.base", "langchain_core.retrievers")
provider = TracerProvider()
recorder = CallRecorder(tracer_provider=provider)
assert not any(name in sys.modules for name in late)

from langchain_core.tools import tool

seen = []

@tool
def look() -> str:
    "Looks."
    seen.append(trace.get_current_span().name)
    return "done"

assert look.invoke({}, {"callbacks": [recorder]}) == "done"
assert seen == ["execute_tool look"]
spec = sys.modules[late[0]].__spec__
assert type(spec.loader).__module__ != "slm_adapters._langchain.imports"
assert spec.loader.get_source(late[0])

wrapped = sys.modules[late[0]].BaseTool.run
del recorder
gc.collect()
assert sys.modules[late[0]].BaseTool.run is not wrapped
assert len(sys.meta_path) < len(before) + 1
from langchain_core.retrievers import BaseRetriever
assert not hasattr(BaseRetriever.invoke, "_slm_adapters")
"""


def test_t33_a_wrapper_put_over_ours_survives() -> None:
    """Somebody who wrapped later keeps working, and we do not wrap twice."""
    fresh("""
recorder = CallRecorder()
ours, seen = BaseChatModel.stream, []

@functools.wraps(ours)
def theirs(self, *args, **kwargs):
    seen.append(1)
    return ours(self, *args, **kwargs)

BaseChatModel.stream = theirs
del recorder
gc.collect()
assert BaseChatModel.stream is theirs
again = CallRecorder()
assert BaseChatModel.stream is theirs
assert "".join(c.text for c in HostedChat().stream("q", {"callbacks": [again]}))
assert seen == [1]
""")


def test_a_langchain_without_a_method_costs_one_warning() -> None:
    """An unknown version: the documented callbacks still record; nobody is left in silence."""
    said = fresh("""
logging.basicConfig()
nesting._PLACES[BaseChatModel.__module__]["BaseChatModel"]["_gone"] = None
calls = []
recorder = CallRecorder(hooks=[calls.append])
HostedChat().invoke("q", {"callbacks": [recorder]})
assert len(calls) == 1
""")
    assert said.count("does not know this version of LangChain") == 1


def test_t32_two_providers_stay_apart(spans) -> None:
    """Two recorders on two providers each have the whole call; nothing crosses over."""
    other = TracerProvider()
    exporter = InMemorySpanExporter()
    other.add_span_processor(SimpleSpanProcessor(exporter))
    both = [CallRecorder(tracer_provider=p) for p in (spans.provider, other)]
    Networked().invoke("q", {"callbacks": both})
    assert len(spans.named("chat")) == 1
    assert [span.name for span in exporter.get_finished_spans()] == ["chat hosted-1"]


def test_t17_two_recorders_on_one_provider_make_one_span(spans) -> None:
    """Each keeps its own record; the span is one, also for a model traced inside a chain."""
    first, second = [], []
    outer = CallRecorder(tracer_provider=spans.provider, hooks=[first.append])
    inner = CallRecorder(tracer_provider=spans.provider, hooks=[second.append])
    model = Networked(callbacks=[inner])
    model.invoke("q", using(outer))
    assert len(spans.named("chat")) == 1
    assert parents(spans) == {"chat hosted-1"}
    assert len(first) == len(second) == 1
    assert first[0].span_id == second[0].span_id
    assert outer.open_runs == inner.open_runs == 0
