"""``instrument()`` and ``uninstrument()``: everything is seen, once, and everything is restored."""

from __future__ import annotations

import asyncio
import importlib
import pydoc
import threading

import litellm
import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.tracers import context as langchain_hooks
from langchain_models import HostedChat

import slm_adapters.langchain as ours
import slm_adapters.litellm as ours_litellm
from slm_adapters.langchain import CallRecorder, traced


@pytest.fixture(autouse=True)
def _off_again():
    yield
    ours.uninstrument()
    ours_litellm.uninstrument()


@pytest.mark.parametrize("framework", ["crewai", "langchain", "litellm"])
def test_help_says_what_a_recorder_takes(framework) -> None:
    """Every option with its default, though one place handles them all."""
    kind = importlib.import_module(f"slm_adapters.{framework}").CallRecorder
    taken = pydoc.plain(pydoc.render_doc(kind)).split("Method resolution order")[0]
    for option in (
        "store: 'StoreLike | None' = None", "tracer_provider: 'TracerProvider | None' = None",
        "meter_provider: 'MeterProvider | None' = None",
        "logger_provider: 'LoggerProvider | None' = None", "hooks: ",
        "redact: 'Redact | None' = None",
        "app: 'str | None' = None", "prices: 'Prices | None' = None", "energy: 'bool' = False",
    ):  # fmt: skip
        assert option in taken
    with pytest.raises(TypeError, match="stroe"):
        kind(stroe="calls.db")


async def test_everything_is_seen_without_a_callback(spans) -> None:
    """Models, chains, agents, streams, threads and tasks; calls before it are not."""
    HostedChat().invoke("q")
    ours.instrument(tracer_provider=spans.provider)
    HostedChat().invoke("q")
    (HostedChat() | StrOutputParser()).batch(["a", "b"])
    list(HostedChat().stream("q"))
    await HostedChat().ainvoke("q")
    await asyncio.gather(*((HostedChat() | StrOutputParser()).ainvoke("q") for _ in range(3)))
    thread = threading.Thread(target=HostedChat().invoke, args=["q"])
    thread.start()
    thread.join()
    assert [span.name for span in spans.all()] == ["chat hosted-1"] * 9
    create_agent(HostedChat(), [], name="desk").invoke({"messages": [("user", "q")]})
    assert spans.parent_name(spans.named("chat")[-1]) == "invoke_agent desk"


def test_t17_instrument_twice_and_beside_callbacks_is_one_span(spans) -> None:
    """Per call, per model, globally, and all of it at once."""
    first = ours.instrument(tracer_provider=spans.provider)
    assert ours.instrument() is first
    calls = []
    callback = CallRecorder(tracer_provider=spans.provider, hooks=[calls.append])
    model = traced(HostedChat(), tracer_provider=spans.provider)
    chain = model | StrOutputParser()
    chain.invoke("q", {"callbacks": [callback, first]})
    assert [span.name for span in spans.all()] == ["chat hosted-1"]
    assert calls[0].span_id == f"{spans.all()[0].context.span_id:016x}"
    agent = create_agent(HostedChat(), [], name="desk")
    agent.invoke({"messages": [("user", "q")]}, {"callbacks": [callback]})
    assert sorted(span.name for span in spans.all()) == [
        "chat hosted-1", "chat hosted-1", "invoke_agent desk",
    ]  # fmt: skip
    assert first.open_runs == callback.open_runs == 0


def test_t33_uninstrument_restores_langchain(spans) -> None:
    """The list of hooks is as before, nothing is seen any more, and twice is fine."""
    before = list(langchain_hooks._configure_hooks)
    ours.instrument(tracer_provider=spans.provider)
    assert len(langchain_hooks._configure_hooks) == len(before) + 1
    ours.uninstrument()
    ours.uninstrument()
    assert langchain_hooks._configure_hooks == before
    HostedChat().invoke("q")
    assert spans.all() == []
    ours.instrument(tracer_provider=spans.provider)
    HostedChat().invoke("q")
    assert len(spans.all()) == 1


def ask(**options):
    return litellm.completion(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "q"}],
        mock_response="an answer",
        api_key="x",
        **options,
    )


def settled(spans, wanted: int) -> list:
    import time

    for _ in range(200):
        if len(spans.all()) >= wanted:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    return spans.all()


def test_t17_litellm_instrumented_twice_beside_a_recorder_is_one_span(spans) -> None:
    """The second recorder keeps its record and makes no span."""
    calls = []
    first = ours_litellm.instrument(tracer_provider=spans.provider)
    assert ours_litellm.instrument() is first
    with ours_litellm.CallRecorder(tracer_provider=spans.provider, hooks=[calls.append]):
        ask()
        assert [span.name for span in settled(spans, 1)] == ["chat gpt-4o-mini"]
    assert len(calls) == 1


def test_t33_uninstrument_restores_litellms_lists(spans) -> None:
    """The very lists, with what others put there."""

    def mine(*args) -> None:
        """A callback of the user's."""

    litellm.success_callback.append(mine)
    names = ["input_callback", "success_callback", "failure_callback", "callbacks"]
    names += ["_async_success_callback", "_async_failure_callback"]
    before = {name: list(getattr(litellm, name)) for name in names}
    try:
        ours_litellm.instrument(tracer_provider=spans.provider)
        ask()
        settled(spans, 1)
        ours_litellm.uninstrument()
        assert {name: list(getattr(litellm, name)) for name in names} == before
        ask()
        assert len(settled(spans, 1)) == 1
    finally:
        litellm.success_callback.remove(mine)
