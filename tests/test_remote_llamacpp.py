"""The same class on llama.cpp's own server, over a GGUF file of weights that are here too."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
from crewai_cases import HostedLLM, crew, tool
from opentelemetry.trace import SpanKind
from pydantic import BaseModel
from real_servers import (
    answers,
    free_port,
    in_all_four_ways,
    llama_cpp,
    llama_cpp_command,
    why_no_llama_cpp,
    write_gguf,
)
from taught_model import ANSWER, FORCED, JSON, LOOK_UP, QUESTION, taught_model
from tiny_models import CHATML, tiny_model

from slm_adapters import errors
from slm_adapters.calls import Message, Tool
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.engine.engine import ChatRequest, Chunk, Completion
from slm_adapters.engine.loader import load_engine
from slm_adapters.langchain import ChatSLM
from slm_adapters.routing.routed import RoutedEngine
from slm_adapters.routing.router import Router

pytestmark = pytest.mark.skipif(bool(why_no_llama_cpp()), reason=why_no_llama_cpp())
WINDOW = 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return taught_model(tmp_path_factory.mktemp("llamacpp") / "tiny")


@pytest.fixture(scope="module")
def server(folder):
    """Two slots of 1,024 tokens each."""
    with llama_cpp(write_gguf(folder), "--parallel", "2", "--ctx-size", str(2 * WINDOW)) as url:
        yield url


@pytest.fixture
def engine(server):
    return load_engine("tiny", base_url=server)


def last_of(events) -> Completion:
    *_, last = events
    assert isinstance(last, Completion)
    return last


# --- text and its account --------------------------------------------------------------------


def test_the_same_text_as_in_this_process_in_all_four_ways(folder, engine) -> None:
    """Greedy, float weights: byte for byte what the local engine writes, and the same counts."""
    request = ChatRequest(QUESTION, max_tokens=40)
    here = load_engine(folder, quantization="none", dtype="float32").complete(request)

    for there in in_all_four_ways(engine, request):
        assert there.reply == here.reply
        assert there.reply.message.text == ANSWER
        assert there.usage.input_tokens == here.usage.input_tokens
        assert (there.usage.source, there.model) == ("provider", "tiny")
        assert there.timings.decode_s > 0
    assert (engine.provider, engine.context_window, engine.local) == ("llama_cpp", WINDOW, False)


def test_what_it_had_read_before_is_cached_in_the_usage(engine) -> None:
    request = ChatRequest(QUESTION, max_tokens=40)
    engine.complete(request)
    for again in (engine.complete(request), last_of(engine.stream(request))):
        assert 0 < again.usage.cached_tokens < again.usage.input_tokens


def test_random_text_is_the_same_too(tmp_path) -> None:
    """Greedy nonsense after prompts in several languages, and the same count of their tokens."""
    place = never_ending(tiny_model(tmp_path / "random", window=1024))
    prompts = [
        "Grüße, naïve café 🙂",
        "お茶を一杯ください。",
        "12345 \t\n  x",
        '{"a": [1, 2.5e-3]} we\'ll',
    ]
    here = load_engine(place, quantization="none", dtype="float32")
    compared = 0
    with llama_cpp(write_gguf(place)) as url:
        engine = load_engine("random", base_url=url)
        for words in prompts:
            messages = (Message("system", "Be brief."), Message("user", words))
            assert engine.count_tokens(messages) == here.count_tokens(messages)
            request = ChatRequest(messages, max_tokens=30)
            text = here.complete(request).reply.message.text
            # On a server such a mark is believed, whoever wrote it.
            if "think>" not in text:
                # The limit may cut a character in two; here its first half is left out.
                assert engine.complete(request).reply.message.text.rstrip("\ufffd") == text
                compared += 1
    assert compared > 1


def never_ending(folder):
    """Its end of message becomes another token, one it hardly ever writes."""
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"eos_token_id": 3}))
    return folder


def test_stop_strings_logprobs_and_sampling(engine) -> None:
    """The same fields as everywhere; none of them is refused."""
    request = ChatRequest(
        QUESTION, stop=(" been",), top_k=1, seed=3, temperature=0.7, top_p=0.9, logprobs=True,
        max_tokens=40,
    )  # fmt: skip
    for answer in (engine.complete(request), last_of(engine.stream(request))):
        assert answer.reply.message.text == ANSWER.split(" been")[0]
        assert answer.reply.finish_reason == "stop"
        assert 0.5 < answer.attributes["slm_adapters.confidence"] <= 1
    assert not engine.server.model("tiny").dialect.refused
    cut = engine.complete(ChatRequest(QUESTION, max_tokens=3))
    assert (cut.reply.finish_reason, cut.usage.output_tokens) == ("length", 3)


# --- tools and structure ---------------------------------------------------------------------


def test_a_forced_call_is_asked_for_in_the_way_it_heeds(engine) -> None:
    """It takes no named tool, and lets text come first: 'required', and the prompt says it."""
    for choice in ("required", "look_up"):
        request = ChatRequest(FORCED, (LOOK_UP,), tool_choice=choice, max_tokens=80)
        for answer in (engine.complete(request), last_of(engine.stream(request))):
            (call,) = answer.reply.message.tool_calls
            assert (call.name, call.parsed()) == ("look_up", {"word": "cat"})
            assert answer.reply.finish_reason == "tool_call"
            assert not answer.reply.message.text
    assert not engine.server.model("tiny").dialect.refused


def test_t38_a_call_that_the_limit_cut_off_is_not_run(engine) -> None:
    """llama.cpp sends what there is of it; the check turns it down."""
    request = ChatRequest(FORCED, (LOOK_UP,), tool_choice="required", max_tokens=22)
    cut = engine.complete(request).reply
    assert cut.finish_reason == "length"
    with pytest.raises(errors.InvalidReplyError):
        RoutedEngine(engine, Router()).complete(request)


def test_json_is_held_to_its_schema(engine) -> None:
    """Known words or nonsense: the grammar is the server's, the check ours."""
    for words in (*QUESTION, Message("user", "hm")):
        request = ChatRequest((words,), response_format=JSON, max_tokens=60)
        for answer in (engine.complete(request), last_of(engine.stream(request))):
            assert set(json.loads(answer.reply.message.text)) == {"a"}


class Part(BaseModel):
    name: str
    count: int


class Order(BaseModel):
    parts: list[Part]
    note: str | None = None


def test_pydantics_schemas_are_understood(engine) -> None:
    """Nested models with ``$defs``, as an answer and as arguments."""
    schema = Order.model_json_schema()
    wanted = {"type": "json_schema", "json_schema": {"name": "order", "schema": schema}}
    body = engine.complete(ChatRequest(QUESTION, response_format=wanted, max_tokens=400))
    if body.reply.finish_reason == "stop":
        Order.model_validate_json(body.reply.message.text)
    order = Tool("order", "Order.", schema)
    engine.complete(ChatRequest(QUESTION, (order,), max_tokens=5))
    assert not engine.server.model("tiny").dialect.refused


def test_a_schema_it_has_no_grammar_for_is_left_to_the_check(engine) -> None:
    """As an answer's form and as a tool's: asked again without it, and the next call as ever."""
    broken = {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": broken}}
    assert engine.complete(ChatRequest(QUESTION, response_format=wanted, max_tokens=9))
    odd = Tool("odd", "Odd.", broken)
    assert engine.complete(ChatRequest(QUESTION, (odd,), max_tokens=9))
    assert not engine.server.model("tiny").dialect.refused


def test_without_jinja_tools_are_described_in_the_prompt(folder, server) -> None:
    """The calls are then read out of the text."""
    with llama_cpp(folder.with_suffix(".gguf"), "--no-jinja") as url:
        engine = load_engine("tiny", base_url=url)
        engine.complete(ChatRequest(QUESTION, (LOOK_UP,), max_tokens=9))
        assert engine.server.model("tiny").dialect.refused == {"tools"}


def test_a_template_that_refuses_system_messages_still_gets_them(tmp_path) -> None:
    """Gemma's kind: llama.cpp moves them into the user's message itself."""
    refusal = "{{- raise_exception('System role not supported') }}"
    template = f"{{%- if messages[0].role == 'system' %}}{refusal}{{%- endif %}}" + CHATML
    place = tiny_model(tmp_path / "plain", chat_template=template)
    with llama_cpp(write_gguf(place)) as url:
        engine = load_engine("plain", base_url=url)
        user = Message("user", "hi")
        messages = (Message("system", "Be brief."), user)
        with contextlib.suppress(errors.EmptyReplyError):
            engine.complete(ChatRequest(messages, max_tokens=9))
        assert engine.server.model("plain").dialect.shape == 0
        assert engine.count_tokens(messages) > engine.count_tokens((user,)) + 5


def test_a_crew_calls_its_tool_on_the_server(server, spans) -> None:
    """llama.cpp's own parser reads the call; CLIENT spans, no fallback."""
    llm = SLM("tiny", base_url=server, fallback=HostedLLM())
    with CallRecorder(tracer_provider=spans.provider):
        result = crew(llm, tools=[tool()]).kickoff()
    assert (result.raw, llm.fallback_count) == ("cat found", 0)
    first, second = spans.named("chat tiny")
    for span in (first, second):
        assert span.kind is SpanKind.CLIENT
        assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
        assert span.attributes["gen_ai.usage.input_tokens"] > 100
    assert first.attributes["gen_ai.response.finish_reasons"] == ("tool_call",)


async def test_langchain_on_the_server(server) -> None:
    model = ChatSLM("tiny", base_url=server, max_tokens=40)
    assert model.invoke("Where is my order?").content == ANSWER
    chunks = [chunk async for chunk in model.astream("Where is my order?")]
    assert "".join(str(chunk.content) for chunk in chunks) == ANSWER


# --- errors ----------------------------------------------------------------------------------


def test_overflow_before_and_after_sending(server, engine) -> None:
    """Its window and its own count of the prompt; and its refusal where it was not asked."""
    long = ChatRequest((Message("user", "please help me " * 400),), max_tokens=20)
    counted = engine.count_tokens(long.messages)
    with pytest.raises(errors.ContextOverflowError, match="reply tokens exceed") as before:
        engine.complete(long)
    assert (before.value.prompt_tokens, before.value.window) == (counted, WINDOW)
    engine.server.model("tiny").window, engine.server._looked = None, {"tiny"}
    try:
        with pytest.raises(errors.ContextOverflowError) as after:
            engine.complete(long)
        assert (after.value.prompt_tokens, after.value.window) == (counted, WINDOW)
        with pytest.raises(errors.ContextOverflowError):
            list(engine.stream(long))
    finally:
        engine.server._looked.clear()


def test_a_reply_gets_what_is_left_of_the_window(engine) -> None:
    """No limit given: 1,024 tokens would not fit beside the prompt."""
    assert engine.complete(ChatRequest(QUESTION)).reply.message.text == ANSWER
    nearly = (Message("user", "please help me " * 100),)
    left = WINDOW - engine.count_tokens(nearly)
    assert 0 < left < 700
    assert engine.complete(ChatRequest(nearly)).usage.output_tokens <= left


def test_a_name_it_does_not_have_is_answered_and_said(server, caplog) -> None:
    """One model, any name: the answer says whose it is, and the log what to do."""
    with caplog.at_level(logging.WARNING, "slm_adapters"):
        engines = [load_engine(name, base_url=server) for name in ("tiny", "gpt-4.1", "gpt-4.1")]
        for engine in engines:
            answer = engine.complete(ChatRequest(QUESTION, max_tokens=40))
            assert (answer.reply.message.text, answer.model) == (ANSWER, "tiny")
    (said,) = [r.getMessage() for r in caplog.records if "answers with" in r.getMessage()]
    assert "no model 'gpt-4.1' and answers with 'tiny'" in said


def test_a_key_is_asked_for(folder, server) -> None:
    with llama_cpp(folder.with_suffix(".gguf"), "--api-key", "sk-right") as url:
        with pytest.raises(errors.ServerError, match="api_key="):
            load_engine("tiny", base_url=url, api_key="sk-wrong").complete(ChatRequest(QUESTION))
        engine = load_engine("tiny", base_url=url, api_key="sk-right")
        request = ChatRequest(QUESTION, max_tokens=40)
        assert engine.complete(request).reply.message.text == ANSWER
        assert engine.context_window == 4096


def test_a_server_that_loads_its_model_is_busy_and_then_known(folder, server) -> None:
    """503 until it is ready; what could not be asked meanwhile is asked again."""
    port = free_port()
    # Memory for two million tokens takes it a moment.
    options = ("--ctx-size", str(2_000_000))
    process = subprocess.Popen(
        llama_cpp_command(folder.with_suffix(".gguf"), port, *options),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        base = f"http://127.0.0.1:{port}"
        while (status := health(base)) is None:
            assert process.poll() is None
            time.sleep(0.002)
        assert status == 503
        engine = load_engine("tiny", base_url=f"{base}/v1")
        with pytest.raises(errors.EngineBusyError, match="wait until it is ready"):
            engine.complete(ChatRequest(QUESTION, max_tokens=40))
        while not answers(f"{base}/health"):
            assert process.poll() is None
            time.sleep(0.05)
        request = ChatRequest(QUESTION, max_tokens=40)
        assert engine.complete(request).reply.message.text == ANSWER
        assert (engine.provider, engine.context_window) == ("llama_cpp", 4096)
        assert engine.count_tokens(QUESTION) > 10
    finally:
        process.terminate()
        process.wait(10)


def health(base: str) -> int | None:
    """The status of /health; None while nobody listens."""
    try:
        with urllib.request.urlopen(f"{base}/health", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


# --- time ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A random model that writes for seconds, on one slot."""
    place = never_ending(
        tiny_model(
            tmp_path_factory.mktemp("slow") / "slow", window=16_384, hidden_size=256,
            intermediate_size=1024, num_hidden_layers=8,
        )
    )  # fmt: skip
    with llama_cpp(write_gguf(place), "--parallel", "1") as url:
        yield url


def long_request(**more) -> ChatRequest:
    return ChatRequest((Message("user", "hi"),), max_tokens=8000, **more)


def test_a_long_reply_is_given_up_and_its_slot_is_free(slow) -> None:
    """By deadline, by closing the stream, by cancelling: the one slot serves the next call."""
    engine = load_engine("slow", base_url=slow)
    short = ChatRequest((Message("user", "hi"),), max_tokens=4, timeout=20)
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError):
        list(engine.stream(long_request(timeout=0.5)))
    engine.complete(short)

    async def give_up() -> None:
        async with aclosing(engine.astream(long_request())) as events:
            assert isinstance(await anext(events), Chunk)
        task = asyncio.create_task(engine.acomplete(long_request()))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    engine.complete(short)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(errors.CancelledGenerationError):
        engine.complete(long_request(), cancel)
    engine.complete(short)
    assert time.monotonic() - began < 20
    whole = engine.complete(dataclasses.replace(short, max_tokens=100))
    # Without giving up, each of the four would have taken this long.
    assert whole.timings.decode_s * 80 > 2


def test_many_at_once_get_their_own_answers(engine) -> None:
    """Sixteen callers on two slots."""
    words = [f"number {n}" for n in range(16)]

    def ask(word: str) -> str:
        with contextlib.suppress(errors.EmptyReplyError):  # nonsense may end at once
            answer = engine.complete(ChatRequest((Message("user", word),), max_tokens=12))
            return answer.reply.message.text
        return ""

    alone = [ask(word) for word in words]
    assert len(set(alone)) > 4
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, words)) == alone
