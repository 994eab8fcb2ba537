"""Asking LiteLLM in every way, and what its spans must be; shared by the tests of its recorder."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import litellm
import pytest
from conftest import Spans
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

ASYNC = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@contextlib.contextmanager
def instrumented_httpx(spans: Spans) -> Iterator[None]:
    """An instrumented httpx, also below LiteLLM's asynchronous calls, and no old client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litellm, "disable_aiohttp_transport", True)
        patch.setattr(litellm, "suppress_debug_info", True)
        litellm.in_memory_llm_clients_cache.flush_cache()
        HTTPXClientInstrumentor().instrument(tracer_provider=spans.provider)
        try:
            yield
        finally:
            HTTPXClientInstrumentor().uninstrument()
            litellm.in_memory_llm_clients_cache.flush_cache()


@contextlib.asynccontextmanager
async def hanging() -> AsyncIterator[dict[str, str]]:
    """A provider that never answers; LiteLLM's options to ask it."""
    asked = asyncio.Event()

    async def wait(*_: Any) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asked.wait()

    served = await asyncio.start_server(wait, "127.0.0.1", 0)
    port = served.sockets[0].getsockname()[1]
    yield {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none"}
    asked.set()
    served.close()


async def let_go(recorder: Any) -> None:
    """Collect garbage on this loop until no call of ``recorder`` is open, two seconds at most."""
    for _ in range(200):
        gc.collect()
        if recorder.open_calls == 0:
            break
        await asyncio.sleep(0.01)


def settled(spans: Spans, count: int) -> list[Any]:
    """LiteLLM reports from its own threads: that many call spans, and no more a moment later."""
    deadline = time.monotonic() + 10
    while len(llm(spans)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(llm(spans)) == count, [span.name for span in spans.all()]
    return llm(spans)


def llm(spans: Spans) -> list[Any]:
    return [span for span in spans.all() if "gen_ai.operation.name" in span.attributes]


def assert_nested(spans: Spans, requests: int = 1) -> Any:
    """One call span with that many HTTP spans inside, all in the caller's; the call's span."""
    (call,) = settled(spans, 1)
    posts = spans.named("POST")
    assert len(posts) == requests
    for post in posts:
        assert post.parent.span_id == call.context.span_id
        assert call.start_time <= post.start_time <= post.end_time <= call.end_time + 2_000_000
    return call


def asked(function: Any, asynchronous: bool, **options: Any) -> Any:
    """The answer of an entry point, or all chunks of its stream; the context stays as it was."""
    streamed = options.get("stream")

    async def run() -> Any:
        answer = await getattr(litellm, f"a{function}")(**options)
        unchanged()
        chunks = [unchanged(chunk) async for chunk in answer] if streamed else answer
        await litellm_is_done()
        return chunks

    here = otel_context.get_current()

    def unchanged(chunk: Any = None) -> Any:
        assert otel_context.get_current() == here
        return chunk

    if asynchronous:
        return asyncio.run(run())
    answer = getattr(litellm, function)(**options)
    unchanged()
    return [unchanged(chunk) for chunk in answer] if streamed else answer


async def litellm_is_done() -> None:
    """Its queue of outcomes is emptied by tasks of this loop."""
    await asyncio.sleep(0.3)
