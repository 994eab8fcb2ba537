"""``slm_adapters.langchain.CallRecorder`` on real LangChain runnables and models."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from conftest import until
from langchain_core.callbacks import CallbackManager, StdOutCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_models import HostedChat, NamelessChat, PlainLLM
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from slm_adapters.calls import Call, role, run
from slm_adapters.langchain import CallRecorder, traced
from slm_adapters.store.database import CallStore
from slm_adapters.telemetry.harmless import failure_counts

PROMPT = ChatPromptTemplate.from_messages([("system", "be brief"), ("user", "{question}")])


@pytest.fixture
def recorder(spans, calls) -> CallRecorder:
    return CallRecorder(tracer_provider=spans.provider, hooks=[calls.append])


def using(recorder) -> dict:
    return {"callbacks": [recorder]}


def test_a_call_is_one_client_span_with_exact_facts(spans, recorder, calls) -> None:
    """Name, kind, model, provider, tokens, id and finish reason are the provider's."""
    chain = PROMPT | HostedChat() | StrOutputParser()
    assert chain.invoke({"question": "q"}, using(recorder)) == "a hosted answer"
    span = spans.one("chat hosted-1")
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "hosted-1",
        "gen_ai.response.model": "hosted-1-2026",
        "gen_ai.response.id": "resp-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 3,
    }
    assert {key: span.attributes[key] for key in wanted} == wanted
    assert "gen_ai.request.stream" not in span.attributes
    assert "gen_ai.response.time_to_first_chunk" not in span.attributes
    assert len(spans.all()) == 1
    (call,) = calls
    assert [m.role for m in call.messages] == ["system", "user"]
    assert call.replies[0].message.text == "a hosted answer"
    assert call.usage.total_tokens == 14
    assert recorder.open_runs == 0


def test_t17_per_call_and_at_construction_is_one_span(spans, recorder, monkeypatch) -> None:
    """The same recorder passed twice, and inherited by a chain, counts a run once."""
    opened = []
    real = recorder.recorder.begin
    monkeypatch.setattr(
        recorder.recorder, "begin", lambda *by, **given: opened.append(1) or real(*by, **given)
    )
    llm = traced(HostedChat(), recorder=recorder)
    (PROMPT | llm).invoke({"question": "q"}, using(recorder))
    assert len(spans.named("chat")) == 1
    HostedChat().invoke("q", {"callbacks": [recorder, recorder]})
    assert len(spans.named("chat")) == len(opened) == 2


def test_traced_keeps_type_and_leaves_the_original_alone(spans) -> None:
    """A traced copy records; the model it was made from, and others, do not."""
    original = HostedChat()
    copy = traced(original, tracer_provider=spans.provider)
    assert type(copy) is HostedChat
    assert not original.callbacks
    original.invoke("q")
    assert spans.all() == []
    copy.invoke("q")
    traced(copy, tracer_provider=spans.provider).invoke("q")
    assert len(spans.named("chat")) == 2


def test_traced_keeps_what_is_bound(spans) -> None:
    """A bound model stays bound, and a model with a callback manager keeps its handlers."""
    bound = traced(HostedChat().bind(stop=["END"]), tracer_provider=spans.provider)
    bound.invoke("q")
    assert spans.one("chat").attributes["gen_ai.request.stop_sequences"] == ("END",)
    managed = HostedChat(callbacks=CallbackManager([StdOutCallbackHandler()]))
    copy = traced(managed, tracer_provider=spans.provider)
    assert len(copy.callbacks.handlers) == 2
    assert len(managed.callbacks.handlers) == 1


def test_t23_no_model_is_dropped_for_lack_of_a_name(spans, recorder) -> None:
    """A chat model without a name goes by its class; a plain LLM is a text completion."""
    NamelessChat().invoke("q", using(recorder))
    assert spans.one("chat").attributes["gen_ai.request.model"] == "NamelessChat"
    PlainLLM().invoke("q", using(recorder))
    plain = spans.one("text_completion plain-1")
    assert plain.attributes["gen_ai.usage.input_tokens"] == 4
    assert plain.kind is SpanKind.CLIENT


def test_t23_done_reason_of_ollama_style_models(spans, recorder) -> None:
    """``done_reason`` and ``ls_model_name`` are understood."""

    class Ollamaish(HostedChat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            message = AIMessage("x", response_metadata={"done_reason": "length"})
            return ChatResult(generations=[ChatGeneration(message=message)])

        def _get_ls_params(self, stop=None, **kwargs):
            return {"ls_provider": "ollama", "ls_model_name": "qwen3", "ls_model_type": "chat"}

    Ollamaish().invoke("q", using(recorder))
    span = spans.one("chat qwen3")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert span.attributes["gen_ai.provider.name"] == "ollama"


def test_t21_no_usage_means_no_token_attributes(spans, recorder, calls) -> None:
    """Zeros are never invented."""

    class Silent(HostedChat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    Silent().invoke("q", using(recorder))
    assert "gen_ai.usage.input_tokens" not in spans.one("chat").attributes
    assert calls[0].usage is None


def test_t24_batch_and_choices(spans, recorder) -> None:
    """A batch makes one span per item; two choices make two finish reasons."""
    HostedChat().batch(["a", "b", "c"], using(recorder))
    assert len(spans.named("chat")) == 3

    class TwoChoices(HostedChat):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            info = {"finish_reason": "stop"}
            made = [ChatGeneration(message=AIMessage(t), generation_info=info) for t in "ab"]
            return ChatResult(generations=made)

    TwoChoices(model_name="two").invoke("q", using(recorder), n=2)
    span = spans.one("chat two")
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")
    assert span.attributes["gen_ai.request.choice.count"] == 2


def test_t22_streams_say_so_and_time_the_first_chunk_once(spans, recorder, calls) -> None:
    """A stream has request.stream, time to first chunk, and the usage of its last chunk."""
    text = "".join(c.text for c in HostedChat(delay_s=0.005).stream("q", using(recorder)))
    assert text == "a hosted answer"
    span = spans.one("chat")
    assert span.attributes["gen_ai.request.stream"] is True
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 1
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert span.attributes["gen_ai.response.id"] == "resp-1"
    assert calls[0].streamed
    assert calls[0].replies[0].message.text == "a hosted answer"


async def test_t22_v3_events_count_as_chunks(spans, recorder) -> None:
    """The v3 event stream is a stream too, sync and async."""
    stream = HostedChat().stream_events("q", using(recorder), version="v3")
    assert stream.output.text == "a hosted answer"
    astream = await HostedChat().astream_events("q", using(recorder), version="v3")
    assert (await astream.output).text == "a hosted answer"
    await asyncio.sleep(0)
    for span in spans.named("chat"):
        assert span.attributes["gen_ai.request.stream"] is True
        assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert len(spans.all()) == 2


def test_t22_a_chunk_reported_twice_counts_once(spans, recorder, calls) -> None:
    """Models that report tokens themselves do so beside the v3 events."""

    class Chatty(HostedChat):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            for chunk in self._chunks():
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    stream = Chatty(replies=["one two three"]).stream_events("q", using(recorder), version="v3")
    pieces = iter(stream.text)
    assert [next(pieces), next(pieces)] == ["one", " two"]
    del pieces, stream
    gc.collect()
    assert recorder.open_runs == 0
    assert calls[0].replies[0].message.text.startswith("one two")
    assert calls[0].replies[0].message.text.count("one") == 1


def test_t18_a_stream_closed_early_is_no_error(spans, recorder, calls) -> None:
    """Closing keeps the partial text and leaves the status unset."""
    stream = HostedChat(replies=["one two three four"]).stream("q", using(recorder))
    next(stream)
    stream.close()
    span = spans.one("chat")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in span.attributes
    assert span.attributes["slm_adapters.outcome"] == "abandoned"
    assert calls[0].outcome == "abandoned"
    assert calls[0].replies[0].message.text == "one"
    assert recorder.open_runs == 0


async def test_t18_breaking_out_of_astream_is_no_error(spans, recorder) -> None:
    """Leaving an async stream ends its span as abandoned."""
    stream = HostedChat(delay_s=0.001).astream("q", using(recorder))
    async for _ in stream:
        break
    await stream.aclose()
    assert spans.one("chat").attributes["slm_adapters.outcome"] == "abandoned"


def test_t18_a_dropped_v3_stream_is_closed(spans, recorder, calls) -> None:
    """LangChain calls nobody when a v3 stream is dropped; the span ends all the same."""
    stream = HostedChat().stream_events("q", using(recorder), version="v3")
    next(iter(stream.text))
    del stream
    gc.collect()
    assert recorder.open_runs == 0
    assert spans.one("chat").status.status_code is StatusCode.UNSET
    assert calls[0].outcome == "abandoned"


async def test_t20_cancelled_at_root(spans, recorder, calls) -> None:
    """Cancelling a root ``ainvoke`` fires no callback; the call is closed as cancelled."""
    model = HostedChat(delay_s=60)
    task = asyncio.create_task(model.ainvoke("q", using(recorder)))
    await until(lambda: model.asked)
    assert recorder.open_runs == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await until(lambda: recorder.open_runs == 0)
    span = spans.one("chat")
    assert span.attributes["error.type"].endswith("CancelledError")
    assert span.status.status_code is StatusCode.ERROR
    assert calls[0].outcome == "failed"


async def test_t20_timeouts_inside_a_long_lived_task(spans, recorder) -> None:
    """The task goes on living after the timeout; its lost calls do not."""
    model = HostedChat(delay_s=5)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002):
                await model.ainvoke("q", using(recorder))
    await until(lambda: recorder.open_runs == 0)
    assert len(spans.named("chat")) == 20


async def test_t20_cancelled_inside_a_chain(spans, recorder) -> None:
    """The enclosing chain's end closes the model call within it."""
    model = HostedChat(delay_s=60)
    chain = PROMPT | model | StrOutputParser()
    task = asyncio.create_task(chain.ainvoke({"question": "q"}, using(recorder)))
    await until(lambda: model.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: recorder.open_runs == 0)
    assert spans.one("chat").attributes["error.type"].endswith("CancelledError")


def test_errors_carry_their_class_and_nothing_else(spans, recorder, calls) -> None:
    """The exception reaches the caller unchanged; its text stays off the span."""
    boom = ConnectionError("the secret prompt")
    with pytest.raises(ConnectionError) as caught:
        HostedChat(replies=[boom]).invoke("q", using(recorder))
    assert caught.value is boom
    span = spans.one("chat")
    assert span.attributes["error.type"] == "ConnectionError"
    assert span.status.status_code is StatusCode.ERROR
    assert "secret" not in span.to_json()
    assert calls[0].error_type == "ConnectionError"


def test_the_callers_trace_is_joined(spans, recorder) -> None:
    """An open span of the program is the parent, also on a batch's threads."""
    tracer = spans.provider.get_tracer("app")
    with tracer.start_as_current_span("request"):
        (PROMPT | HostedChat()).batch([{"question": "a"}, {"question": "b"}], using(recorder))
    assert spans.tree()[:2] == [("chat hosted-1", "request")] * 2


def test_parallel_branches_share_the_callers_trace(spans, recorder) -> None:
    """Parallel branches run on threads; none of their calls starts a trace of its own."""
    both = RunnableParallel(a=HostedChat(), b=HostedChat() | StrOutputParser())
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        both.invoke("q", using(recorder))
    assert {span.context.trace_id for span in spans.all()} == {
        spans.one("request").context.trace_id
    }


async def test_one_hundred_concurrent_calls(spans, recorder) -> None:
    """Concurrent requests keep their own traces; nothing stays open."""
    tracer = spans.provider.get_tracer("app")

    async def request(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}"):
            chain = PROMPT | HostedChat(delay_s=0.001)
            await chain.ainvoke({"question": str(number)}, using(recorder))

    await asyncio.gather(*(request(number) for number in range(100)))
    parents = [spans.parent_name(span) for span in spans.named("chat")]
    assert len(set(parents)) == 100
    assert recorder.open_runs == 0


def test_retrievers_make_a_retrieval_span(spans, recorder) -> None:
    """A retriever is one ``retrieval`` span without the query."""

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document("found")]

    Shelf().invoke("secret query", using(recorder))
    span = spans.one("retrieval Shelf")
    assert span.attributes["gen_ai.operation.name"] == "retrieval"
    assert "secret" not in span.to_json()


def test_ambient_labels_win(spans, recorder, calls) -> None:
    """``role`` and ``run`` label the calls inside them."""
    with run("ticket-17", tier="gold"), role("triage"):
        HostedChat().invoke("q", using(recorder))
    HostedChat().invoke("q", using(recorder))
    assert (calls[0].role, calls[0].run_id) == ("triage", "ticket-17")
    assert calls[0].attributes["tier"] == "gold"
    assert calls[1].role is None


def test_t37_the_conversation_is_never_made_up(spans, recorder) -> None:
    """Only a thread the program named becomes the conversation."""
    HostedChat(model_name="a").invoke("q", using(recorder))
    HostedChat(model_name="b").invoke("q", using(recorder) | {"metadata": {"thread_id": "T9"}})
    assert "gen_ai.conversation.id" not in spans.one("chat a").attributes
    assert spans.one("chat b").attributes["gen_ai.conversation.id"] == "T9"


def test_t25_content_is_off_by_default(spans, caplog) -> None:
    """A planted secret is nowhere in the export or the log, in success and failure."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    secret = "SECRET-4711"
    caplog.set_level(logging.DEBUG, logger="slm_adapters")
    HostedChat(replies=[secret]).invoke(secret, using(recorder), stop=None)
    with pytest.raises(ValueError):
        HostedChat(replies=[ValueError(secret)]).invoke(secret, using(recorder))
    list(HostedChat(replies=[secret]).stream(secret, using(recorder)))
    assert len(spans.all()) == 3
    assert all(secret not in span.to_json() for span in spans.all())
    assert secret not in caplog.text


def test_content_on_spans_when_switched_on(spans, monkeypatch) -> None:
    """The OpenTelemetry switch puts structured messages on the span."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    recorder = CallRecorder(tracer_provider=spans.provider)
    HostedChat(replies=["pong"]).invoke("ping", using(recorder))
    span = spans.one("chat")
    assert '"ping"' in span.attributes["gen_ai.input.messages"]
    assert '"pong"' in span.attributes["gen_ai.output.messages"]


def test_t26_a_failing_redactor_drops_content_only(spans) -> None:
    """The call is unharmed and what could not be redacted is not kept."""

    def redact(messages):
        raise RuntimeError("no")

    calls: list[Call] = []
    recorder = CallRecorder(tracer_provider=spans.provider, hooks=[calls.append], redact=redact)
    assert HostedChat(replies=["pong"]).invoke("ping", using(recorder)).content == "pong"
    assert "ping" not in calls[0].to_json()
    assert "pong" not in calls[0].to_json()


def test_unsampled_calls_are_still_recorded(calls) -> None:
    """The record does not depend on the sampling decision."""
    provider = TracerProvider(sampler=ALWAYS_OFF)
    recorder = CallRecorder(tracer_provider=provider, hooks=[calls.append])
    HostedChat().invoke("q", using(recorder))
    assert calls[0].replies


def test_the_store_gets_one_call_per_model_call(tmp_path, spans) -> None:
    """A path is enough; two recorders on one path share the store."""
    path = tmp_path / "calls.db"
    first = CallRecorder(store=path, tracer_provider=spans.provider)
    second = CallRecorder(store=str(path), tracer_provider=spans.provider)
    assert first.recorder.store is second.recorder.store
    HostedChat().invoke("q", using(first))
    HostedChat().invoke("q", using(second))
    with CallStore(path) as store:
        first.recorder.store.flush()
        assert [call.model for call in store] == ["hosted-1", "hosted-1"]


def test_t34_a_store_that_cannot_be_opened_costs_one_warning(tmp_path, spans, caplog) -> None:
    """The agent runs without it."""
    recorder = CallRecorder(store=tmp_path / "no" / "such" / "x.db", tracer_provider=spans.provider)
    assert HostedChat().invoke("q", using(recorder)).content == "a hosted answer"
    assert "not being stored" in caplog.text
    assert len(spans.named("chat")) == 1


def test_t34_failing_hooks_and_handlers_never_reach_the_user(spans, monkeypatch) -> None:
    """A hook that raises, and a recorder that raises, are counted; answers are the same."""

    def hook(call):
        raise RuntimeError("hook")

    recorder = CallRecorder(tracer_provider=spans.provider, hooks=[hook])
    assert HostedChat().invoke("q", using(recorder)).content == "a hosted answer"
    before = failure_counts().get("LangChain's on_chat_model_start", 0)
    monkeypatch.setattr(recorder.recorder, "begin", lambda *_, **__: 1 / 0)
    assert HostedChat().invoke("q", using(recorder)).content == "a hosted answer"
    assert "".join(c.text for c in HostedChat().stream("q", using(recorder))) == "a hosted answer"
    assert failure_counts()["LangChain's on_chat_model_start"] == before + 2


def test_t29_unfinished_runs_are_bounded(spans) -> None:
    """Ten thousand runs whose owners keep their ids do not pile up beyond the limit."""
    from uuid import uuid4

    recorder = CallRecorder(tracer_provider=spans.provider)
    owners = [uuid4() for _ in range(10_050)]
    for owner in owners:
        recorder.on_chat_model_start({}, [[HumanMessage("q")]], run_id=owner)
    assert recorder.open_runs == 10_000
    recorder.close()
    assert recorder.open_runs == 0
    assert len(spans.all()) == 10_050


def test_t30_without_a_provider_nothing_happens() -> None:
    """No provider, no output, no thread."""
    import threading

    before = threading.active_count()
    recorder = CallRecorder()
    HostedChat().invoke("q", using(recorder))
    assert threading.active_count() == before
    assert not trace.get_current_span().get_span_context().is_valid


def test_lambdas_and_prompts_make_no_spans(spans, recorder) -> None:
    """Only what the conventions name makes a span."""
    chain = RunnableLambda(lambda x: {"question": x}) | PROMPT | HostedChat() | StrOutputParser()
    chain.invoke("q", using(recorder))
    assert [span.name for span in spans.all()] == ["chat hosted-1"]
