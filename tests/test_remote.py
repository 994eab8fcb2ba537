"""A model on a server: the same engine, whatever the server takes, ignores, cuts or breaks."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
import socket
import threading
import time
from contextlib import aclosing
from itertools import pairwise

import pytest
from fake_servers import call, chunk, fake_server, message, usage_chunk
from hypothesis import given as any_of
from hypothesis import strategies as st
from streams import calls_of
from tiny_models import CHATML, tiny_model

from slm_adapters import errors
from slm_adapters.calls import Message, Tool, ToolCall
from slm_adapters.engine.engine import ChatRequest, Chunk, Completion
from slm_adapters.engine.loader import load_engine
from slm_adapters.engine.remote.errors import as_error, refused_fields, too_long_for_window
from slm_adapters.routing.routed import RoutedEngine
from slm_adapters.routing.router import Router

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ADD = Tool("add", "Add.", SCHEMA)
JSON = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
VLLM = [
    {"id": "qwen3-4b", "object": "model", "owned_by": "vllm", "max_model_len": 2048,
     "root": "Qwen/Qwen3-4B", "parent": None},
    {"id": "triage", "object": "model", "owned_by": "vllm", "max_model_len": None,
     "root": "/loras/triage", "parent": "qwen3-4b"},
]  # fmt: skip


def ask(text: str = "hi", **options) -> ChatRequest:
    return ChatRequest((Message("user", text),), **options)


def remote(server, model: str = "fake", **options):
    return load_engine(model, base_url=server.base_url, **options)


def whole(events) -> tuple[str, list[ToolCall], Completion]:
    *chunks, last = list(events)
    assert isinstance(last, Completion)
    text = "".join(piece.text for piece in chunks)
    assert calls_of(chunks) == last.reply.message.tool_calls
    return text, [*calls_of(chunks)], last


# --- the four ways ---------------------------------------------------------------------------


async def test_the_four_ways_give_the_same_answer() -> None:
    """Text, model, finish reason and usage; the parameters are on the wire, streamed or not."""

    cached = {"prompt_tokens_details": {"cached_tokens": 4}}

    def chat(body):
        if not body["stream"]:
            return 200, message("Hello you", usage=cached)
        pieces = [chunk("", role="assistant"), chunk("Hello "), chunk("you"), chunk(reason="stop")]
        return [*pieces, usage_chunk(**cached), "data: [DONE]"]

    with fake_server(chat, models=VLLM) as server:
        engine = remote(server, "qwen3-4b", context_window=1000)
        request = ask(
            temperature=0.5, top_p=0.9, top_k=7, seed=3, stop=("END",), max_tokens=9, timeout=20
        )
        answers = [
            engine.complete(request),
            await engine.acomplete(request),
            whole(engine.stream(request))[2],
            whole([event async for event in engine.astream(request)])[2],
        ]
        for answer in answers:
            assert answer.reply.message.text == "Hello you"
            assert answer.reply.finish_reason == "stop"
            assert (answer.model, answer.usage.input_tokens) == ("fake", 900)
            assert (answer.usage.cached_tokens, answer.usage.source) == (4, "provider")
            assert answer.attributes["server.port"] == server.port
            assert answer.attributes["gen_ai.provider.name"] == "vllm"
        for body in server.chats():
            assert (body["model"], body["temperature"], body["top_p"]) == ("qwen3-4b", 0.5, 0.9)
            assert (body["top_k"], body["seed"], body["stop"]) == (7, 3, ["END"])
            assert body["max_tokens"] == 9
        assert [path for path, _ in server.requests].count("/v1/models") == 1
        assert engine.context_window == 1000


def test_nothing_is_asked_at_construction() -> None:
    """No connection, no name look-up; what cannot be is said at once."""
    with fake_server(lambda body: (200, message("x"))) as server:
        engine = remote(server)
        assert (engine.local, engine.provider, engine.context_window) == (
            False, "openai_compatible", 4096,
        )  # fmt: skip
        assert server.requests == []
    with pytest.raises(ValueError, match="localhost:8000/v1"):
        load_engine("m", base_url="localhost:8000")
    with pytest.raises(ValueError, match="api_key="):
        load_engine("m", base_url="http://me:secret@host/v1")
    with pytest.raises(ValueError, match="device, quantization cannot"):
        load_engine("m", base_url="http://host/v1", quantization="nf4", device="cpu")


def test_an_adapter_of_vllm_is_a_model_name() -> None:
    """Named as the model, or as ``adapter=`` on its base."""
    with fake_server(lambda body: (200, message("x", model=body["model"])), models=VLLM) as server:
        answer = remote(server, "triage").complete(ask())
        assert answer.model == "triage"
        engine = remote(server, "qwen3-4b", adapter="triage")
        engine.complete(ask())
        assert engine.context_window == 2048
        assert [body["model"] for body in server.chats()] == ["triage", "triage"]


# --- time and connections --------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_the_deadline_is_ours(streamed) -> None:
    """A server that thinks too long, in one piece or between two, is left in time."""

    def chat(body):
        if body["stream"]:
            return [chunk("slow "), 30, chunk("end", "stop")]
        time.sleep(6)
        return 200, message("late")

    with fake_server(chat) as server:
        engine = remote(server)
        engine.warm_up()
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceededError, match=r"127\.0\.0\.1:\d+ did not finish"):
            if streamed:
                list(engine.stream(ask(timeout=1)))
            else:
                engine.complete(ask(timeout=1))
        assert time.monotonic() - began < 5
        if streamed:
            assert server.gone.wait(5)


def test_the_deadline_holds_while_connecting() -> None:
    """A host that never answers a connection does not take longer than the call may."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held = [socket.create_connection(listener.getsockname()) for _ in range(1)]
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        began = time.monotonic()
        with pytest.raises(errors.DeadlineExceededError):
            load_engine("m", base_url=url).complete(ask(timeout=0.3))
        assert time.monotonic() - began < 5
    finally:
        for item in (*held, listener):
            item.close()


def test_a_cancel_event_closes_the_socket() -> None:
    """From another thread, in the middle of a read."""
    with fake_server(lambda body: [chunk("a "), 30, chunk("b", "stop")]) as server:
        cancel = threading.Event()
        events = remote(server).stream(ask(), cancel)
        assert next(events) == Chunk("a ")
        cancel.set()
        began = time.monotonic()
        with pytest.raises(errors.CancelledGenerationError):
            next(events)
        assert server.gone.wait(5)
        assert time.monotonic() - began < 5


async def test_a_cancelled_task_and_a_closed_stream_close_the_socket() -> None:
    """At once, on the caller's own loop, and no thread of ours is in it."""
    with fake_server(lambda body: [chunk("a "), 30, chunk("b", "stop")]) as server:
        engine = remote(server)
        async with aclosing(engine.astream(ask())) as events:
            assert await anext(events) == Chunk("a ")
        assert await asyncio.to_thread(server.gone.wait, 5)
    with fake_server(lambda body: [30]) as server:
        before = threading.active_count()
        task = asyncio.create_task(_last(remote(server).astream(ask())))
        await asyncio.to_thread(server.asked.wait, 5)
        assert threading.active_count() <= before + 2  # the fake server's own
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.gone.wait, 5)


async def _last(events):
    return [event async for event in events][-1]


def test_an_abandoned_stream_closes_the_socket() -> None:
    """Dropped without a word."""
    with fake_server(lambda body: [chunk("a "), 30, chunk("b", "stop")]) as server:
        events = remote(server).stream(ask())
        next(events)
        del events
        assert server.gone.wait(5)


def test_nobody_there_is_one_sentence_with_the_host() -> None:
    """Refused connections are tried again, briefly; the error names the host and what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(errors.UnreachableServerError, match=rf"at 127\.0\.0\.1:{port} .*fallback="):
        load_engine("m", base_url=f"http://127.0.0.1:{port}/v1").complete(ask())
    assert time.monotonic() - began < 8
    with pytest.raises(ConnectionError, match=r"no-such-host\.invalid"):
        load_engine("m", base_url="http://no-such-host.invalid/v1").complete(ask(timeout=30))


def test_a_server_that_comes_up_meanwhile_is_reached() -> None:
    """Nothing was sent, so connecting again is safe."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answered: list = []
    thread = threading.Thread(
        target=lambda: answered.append(
            load_engine("m", base_url=f"http://127.0.0.1:{port}/v1").complete(ask())
        )
    )
    body = json.dumps(message("up")).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    thread.start()
    time.sleep(0.05)
    with socket.create_server(("127.0.0.1", port)) as late:
        for _ in range(2):
            connection, _ = late.accept()
            connection.recv(65536)
            connection.sendall(head + body)
            connection.close()
        thread.join(5)
    assert answered[0].reply.message.text == "up"


@pytest.mark.parametrize("lines", [
    [chunk("half ")],
    [chunk("half "), {"error": {"message": "CUDA out of memory", "code": 500}}],
    [chunk("half "), 'data: {"error": "worker said "no""}'],
    [chunk("half "), 'error: {"code": 500, "message": "slot lost"}'],
])  # fmt: skip
def test_a_stream_that_breaks_off_is_never_an_answer(lines) -> None:
    """And never asked again: a piece was shown."""
    with fake_server(lambda body: lines) as server:
        events = remote(server).stream(ask())
        assert next(events) == Chunk("half ")
        with pytest.raises((errors.UnreachableServerError, errors.ServerError)):
            list(events)
        assert len(server.chats()) == 1


def test_lines_are_split_where_servers_end_them() -> None:
    """U+2028 and U+0085 are text in JSON; CRLF and comments are legal in a stream."""
    odd = "one\u2028two\u0085three"
    line = "data: " + json.dumps(chunk(odd), ensure_ascii=False) + "\r"
    stop = "data:" + json.dumps(chunk(reason="stop"))
    with fake_server(lambda body: [": ping", line, stop, "data: [DONE]"]) as server:
        assert whole(remote(server).stream(ask()))[0] == odd


async def test_many_at_once_in_threads_and_tasks() -> None:
    """32 threads and 32 tasks on one engine, each with its own answer."""

    def chat(body):
        word = body["messages"][-1]["content"]
        return [chunk(word), 0.05, chunk("!", "stop")] if body["stream"] else (200, message(word))

    with fake_server(chat) as server:
        engine, seen = remote(server), {}

        def work(number: int) -> None:
            seen[number] = whole(engine.stream(ask(str(number))))[0]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(32)]
        for thread in threads:
            thread.start()
        answers = await asyncio.gather(*(engine.acomplete(ask(str(n))) for n in range(32)))
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        assert [answer.reply.message.text for answer in answers] == [str(n) for n in range(32)]
        assert seen == {n: f"{n}!" for n in range(32)}


def test_one_engine_serves_one_loop_after_the_other() -> None:
    """A pool belongs to a loop; a new loop gets its own."""
    with fake_server(lambda body: (200, message("x"))) as server:
        engine = remote(server)
        for _ in range(3):
            assert asyncio.run(engine.acomplete(ask())).reply.message.text == "x"


# --- keys ------------------------------------------------------------------------------------


def test_a_key_is_sent_and_written_nowhere(monkeypatch) -> None:
    """Not in repr, pickle, copies on disk or errors; another process reads it from there."""

    def chat(body):
        return 401, {"error": {"message": "invalid key"}}

    monkeypatch.delenv("SLM_ADAPTERS_API_KEY", raising=False)
    with fake_server(chat) as server:
        engine = remote(server, api_key="sk-very-secret")
        with pytest.raises(errors.ServerError, match="SLM_ADAPTERS_API_KEY") as failed:
            engine.complete(ask())
        assert server.headers[-1]["Authorization"] == "Bearer sk-very-secret"
        dumped = pickle.dumps(engine)
        assert b"secret" not in dumped
        assert "secret" not in repr(engine) + str(failed.value) + repr(engine.facts)
        again = pickle.loads(dumped)
        with pytest.raises(errors.ServerError):
            again.complete(ask())
        assert "Authorization" not in server.headers[-1]
        monkeypatch.setenv("SLM_ADAPTERS_API_KEY", "sk-from-there")
        with pytest.raises(errors.ServerError):
            again.complete(ask())
        assert server.headers[-1]["Authorization"] == "Bearer sk-from-there"
        assert copy.deepcopy(engine) is engine


# --- tools and formats -----------------------------------------------------------------------


def test_calls_the_server_read_and_calls_in_text_are_the_same() -> None:
    """Its parser or ours: one tool call, with its finish reason."""
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    for given in (
        message(None, "tool_calls", tool_calls=[call("add", '{"a": 1}')]),
        message("", "stop", tool_calls=[call("add", "{'a': 1,}")]),
        message(text, "stop"),
        message('{"name": "add", "parameters": {"a": 1}}', "stop"),
    ):
        with fake_server(lambda body, given=given: (200, given)) as server:
            answer = remote(server).complete(ask(tools=(ADD,)))
            (found,) = answer.reply.message.tool_calls
            assert (found.name, found.parsed()) == ("add", {"a": 1})
            assert answer.reply.finish_reason == "tool_call"
            assert not answer.reply.message.text


def test_streamed_calls_are_put_together() -> None:
    """By index; where Ollama gives every call index 0, by id; text before them is shown."""
    pieces = [
        chunk("Let me look. "),
        chunk(tool_calls=[{"index": 0, "id": "c1", "type": "function",
                           "function": {"name": "add", "arguments": '{"a"'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        chunk(tool_calls=[call("add", '{"a": 2}', "c2", index=0)]),
        chunk(reason="tool_calls"),
        usage_chunk(),
        "data: [DONE]",
    ]  # fmt: skip
    with fake_server(lambda body: pieces) as server:
        text, calls, last = whole(remote(server).stream(ask(tools=(ADD,))))
        assert text == "Let me look. "
        assert [found.parsed() for found in calls] == [{"a": 1}, {"a": 2}]
        assert [found.id for found in calls] == ["c1", "c2"]
        assert last.reply.message.tool_calls == tuple(calls)


def test_t4_a_call_in_streamed_text_is_not_shown_as_text() -> None:
    """Held back and parsed, as for a local model."""
    parts = ["Sure. <tool", '_call>{"name": "add", "argu', 'ments": {"a": 3}}</tool_call>']
    with fake_server(lambda body: [*map(chunk, parts), chunk(reason="stop")]) as server:
        text, calls, _ = whole(remote(server).stream(ask(tools=(ADD,))))
        assert (text, calls[0].parsed()) == ("Sure. ", {"a": 3})


def test_a_server_s_call_deltas_are_passed_on_as_they_come() -> None:
    """The name at once, text as it is written, a number when it is whole."""
    schema = {"properties": {"t": {"type": "string"}, "n": {"type": "integer"}}}
    parts = ['{"t": "ab', "cd", ' e", "n": 1', "2", "}"]
    pieces = [
        chunk(tool_calls=[call("note", "", "c1", index=0)]),
        *(chunk(tool_calls=[{"index": 0, "function": {"arguments": part}}]) for part in parts),
        chunk(reason="tool_calls"),
        usage_chunk(),
    ]
    with fake_server(lambda body: [*pieces, "data: [DONE]"]) as server:
        events = list(remote(server).stream(ask(tools=(Tool("note", "", schema),))))
    told = [event.tool_call for event in events[:-1]]
    assert (told[0].id, told[0].name) == ("c1", "note")
    assert [delta.arguments for delta in told[1:]] == ['{"t": "ab', "cd", ' e"', ', "n": 12}']
    assert calls_of(events[:-1]) == events[-1].reply.message.tool_calls


def test_a_server_s_broken_call_is_repaired_or_refused() -> None:
    """What was passed on is the beginning of what it is repaired to; one cut off is an error."""

    def told(arguments: str, reason: str) -> str:
        pieces = [chunk(tool_calls=[call("add", arguments, index=0)]), chunk(reason=reason)]
        with fake_server(lambda body: [*pieces, "data: [DONE]"]) as server:
            return whole(remote(server).stream(ask(tools=(ADD,))))[1][0].arguments

    assert told('{"a": 1, }', "tool_calls") == '{"a": 1}'
    assert told("{'a': 1}", "tool_calls") == '{"a": 1}'
    assert told("", "tool_calls") == "{}"
    with pytest.raises(errors.InvalidReplyError, match="max_tokens"):
        told('{"a":1, "b', "length")


def test_a_server_that_says_a_call_twice_is_heard_once() -> None:
    """In its text and as a call of its own."""
    text = '<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>'
    own = chunk(tool_calls=[call("add", '{"a":3}', index=0)])
    with fake_server(lambda body: [chunk(text), own, chunk(reason="stop")]) as server:
        last = list(remote(server).stream(ask(tools=(ADD,))))[-1]
    assert [found.parsed() for found in last.reply.message.tool_calls] == [{"a": 3}]


def test_t38_a_call_that_the_limit_cut_off_is_not_run() -> None:
    """Not completed by repair; the check turns it down."""
    cut = message(None, "length", tool_calls=[call("add", '{"a": 1')])
    with fake_server(lambda body: (200, cut)) as server:
        routed = RoutedEngine(remote(server), Router())
        with pytest.raises(errors.InvalidReplyError, match="not a JSON object"):
            routed.complete(ask(tools=(ADD,)))


def test_a_schema_is_on_the_wire_and_in_the_prompt() -> None:
    """As a local model reads it, and under a name, which OpenAI's format demands."""
    with fake_server(lambda body: (200, message('```json\n{"a": 1}\n```'))) as server:
        answer = remote(server).complete(ask(response_format=JSON))
        assert answer.reply.message.text == '{"a": 1}'
        (body,) = server.chats()
        assert body["response_format"]["json_schema"] == {"name": "answer", "schema": SCHEMA}
        assert body["messages"][0]["role"] == "system"
        assert json.dumps(SCHEMA) in body["messages"][0]["content"]
        remote(server).complete(ask(response_format=JSON, tools=(ADD,)))
        assert "response_format" not in server.chats()[-1]


REFUSALS = [
    ("response_format", 400, {"error": {"message": "'response_format' is not supported"}}),
    ("response_format", 422, {"detail": "Unexpected fields in the request: {'response_format'}"}),
    ("response_format", 400, {"object": "error", "code": 400, "message":
        "The provided JSON schema contains features not supported by xgrammar."}),
    ("stream_options", 400, {"error": {"message": "Unrecognized argument: stream_options"}}),
    ("top_k", 422, {"detail": "Unexpected fields in the request: {'top_k'}"}),
    ("seed", 400, {"error": {"message": "Unsupported parameter: 'seed'", "param": "seed"}}),
    ("logprobs", 501, {"error": {"message": "logprobs are not implemented"}}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "status", "body"), REFUSALS)
def test_what_a_server_refuses_is_left_out_from_then_on(field, status, body) -> None:
    """Found from its error; the rest of the request stays as it was."""

    def chat(asked):
        if field in asked:
            return status, body
        return [chunk('{"a": 1}'), chunk(reason="stop")]

    with fake_server(chat) as server:
        engine = remote(server)
        request = ask(response_format=JSON, top_k=3, seed=1, logprobs=True)
        for _ in range(2):
            assert whole(engine.stream(request))[0] == '{"a": 1}'
        first, second = server.chats()[:2]
        assert {k: v for k, v in first.items() if k != field} == second
        again = len(server.chats())
        # A schema that a grammar cannot hold says nothing of the next schema.
        assert again == (4 if field == "response_format" and "grammar" in str(body) else 3)


TOOL_REFUSALS = [
    (400, {"error": {"message": "registry.ollama.ai/library/gemma3:1b does not support tools",
                     "type": "api_error"}}),
    (400, {"object": "error", "message": '"auto" tool choice requires --enable-auto-tool-choice '
           "and --tool-call-parser to be set", "type": "BadRequestError", "code": 400}),
    (500, {"error": {"code": 500, "message": "tools param requires --jinja flag",
                     "type": "server_error"}}),
    (400, {"error": {"code": 400, "message": "Unable to generate parser for this template. "
           "Automatic parser generation failed: JSON schema error at #/properties/a: cannot "
           "resolve $ref #/$defs/gone", "type": "invalid_request_error"}}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), TOOL_REFUSALS)
def test_a_server_without_tools_gets_them_in_the_prompt(status, body) -> None:
    """Described in words, earlier calls and results too; the answer's call is read by us."""

    def chat(asked):
        if "tools" in asked:
            return status, body
        return 200, message('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')

    history = (
        Message("user", "add"),
        Message("assistant", None, (ToolCall("x", "add", '{"a": 0}'),)),
        Message("tool", "0", tool_call_id="x"),
        Message("user", "again"),
    )
    with fake_server(chat) as server:
        request = ChatRequest(history, (ADD,))
        (found,) = remote(server).complete(request).reply.message.tool_calls
        assert found.parsed() == {"a": 1}
        asked = server.chats()[-1]
        assert "tool_choice" not in asked
        assert '"name": "add"' in asked["messages"][0]["content"]
        assert {m["role"] for m in asked["messages"]} == {"system", "user", "assistant"}
        assert "<tool_response>" in asked["messages"][-1]["content"] or any(
            "<tool_response>" in m["content"] for m in asked["messages"]
        )


@pytest.mark.parametrize("choice", ["required", "add"])
def test_a_forced_call_that_the_server_ignores_is_asked_for_in_words(choice) -> None:
    """Ollama and transformers serve drop tool_choice: the second try says it in the prompt."""

    def chat(asked):
        if "tool_choice" in asked:
            return 200, message("I would rather talk.")
        assert "Answer with a call of" in asked["messages"][0]["content"]
        return 200, message(None, "tool_calls", tool_calls=[call("add", '{"a": 1}')])

    other = Tool("other", "", SCHEMA)
    with fake_server(chat) as server:
        engine = remote(server)
        request = ask(tools=(ADD, other), tool_choice=choice)
        for _ in range(2):
            assert engine.complete(request).reply.message.tool_calls[0].name == "add"
        first, second, third = server.chats()
        assert ("tool_choice" in first, "tool_choice" in second) == (True, False)
        assert "tool_choice" not in third
        offered = [tool["function"]["name"] for tool in first["tools"]]
        assert offered == (["add", "other"] if choice == "required" else ["add"])


def test_a_forced_call_that_the_limit_cut_off_says_nothing_of_the_server() -> None:
    """It is asked for in words that once; the next call is forced as before."""
    with fake_server(lambda body: (200, message("<tool_call>{", "length"))) as server:
        engine = remote(server)
        for _ in range(2):
            engine.complete(ask(tools=(ADD,), tool_choice="required"))
        assert ["tool_choice" in body for body in server.chats()] == [True, False] * 2


def test_a_model_that_never_calls_is_turned_down_by_the_check() -> None:
    """The same typed error as a local model's."""
    with fake_server(lambda body: (200, message("no"))) as server:
        with pytest.raises(errors.InvalidReplyError, match="without a tool call"):
            RoutedEngine(remote(server), Router()).complete(
                ask(tools=(ADD,), tool_choice="required")
            )
        assert len(server.chats()) == 2


def test_no_tools_are_offered_with_the_choice_none() -> None:
    """As locally."""
    with fake_server(lambda body: (200, message("text"))) as server:
        remote(server).complete(ask(tools=(ADD,), tool_choice="none"))
        assert "tools" not in server.chats()[0]


def test_t35_a_template_that_refuses_roles_gets_plainer_messages() -> None:
    """Two users in a row and a late system message, then no system message at all."""

    def chat(asked):
        roles = [m["role"] for m in asked["messages"]]
        if "system" in roles:
            return 400, {"object": "error", "message": "System role not supported"}
        if any(a == b for a, b in pairwise(roles)):
            return 400, {"message": "Conversation roles must alternate user/assistant/..."}
        return 200, message("ok")

    with fake_server(chat) as server:
        words = ["be brief", "one", "two"]
        messages = (
            Message("system", words[0]),
            Message("user", words[1]),
            Message("user", words[2]),
        )
        assert remote(server).complete(ChatRequest(messages)).reply.message.text == "ok"
        (only,) = server.chats()[-1]["messages"]
        assert all(word in only["content"] for word in words)


def test_images_are_refused_before_anything_is_sent() -> None:
    """Never dropped in silence."""
    image = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "x"}]
    with fake_server(lambda body: (200, message("x"))) as server:
        with pytest.raises(errors.UnsupportedContentError, match="image_url"):
            remote(server).complete(ChatRequest((Message("user", image),)))
        assert server.chats() == []
        remote(server).complete(
            ChatRequest((Message("user", ["a ", {"type": "text", "text": "b"}]),))
        )
        assert server.chats()[0]["messages"][0]["content"] == "a b"


# --- thinking, stops, emptiness, logprobs ----------------------------------------------------


def test_t6_thinking_is_no_content() -> None:
    """In a field of its own, in tags, or in a block that the prompt opened."""
    details = {"completion_tokens_details": {"reasoning_tokens": 7}}
    for field in ("reasoning_content", "reasoning"):
        given = message("Four.", usage=details, **{field: "two and two"})
        with fake_server(lambda body, given=given: (200, given)) as server:
            answer = remote(server).complete(ask())
            assert (answer.reply.message.text, answer.usage.reasoning_tokens) == ("Four.", 7)
            assert answer.reply.message.reasoning == "two and two"
    pieces = [chunk("<thi"), chunk("nk>hm</think>\n\nFour."), chunk(reason="stop")]
    with fake_server(lambda body: pieces) as server:
        text, _, last = whole(remote(server).stream(ask()))
        assert (text, last.reply.message.reasoning) == ("Four.", "hm")
    with fake_server(opened()) as server:
        engine = remote(server)
        assert engine.complete(ask()).reply.message.text == "Four."
        assert whole(engine.stream(ask()))[0] == "Four."


def opened(thought: str = "hm", *, said: str = "Four.", reason: str = "stop"):
    """A server whose template opens the thinking block, and that does not tell it apart."""

    def chat(body):
        if body["stream"]:
            closing = [chunk("</think>\n\n" + said)] if said else []
            return [chunk(thought), *closing, chunk(reason=reason), "data: [DONE]"]
        return 200, message(f"{thought}</think>\n\n{said}")

    return chat


def thought_and_text(engine) -> tuple[str, str]:
    *chunks, last = engine.stream(ask())
    text = "".join(piece.text for piece in chunks)
    thought = "".join(piece.reasoning for piece in chunks)
    said = last.reply.message
    assert (text, thought) == (said.text, said.reasoning or "")
    return thought, text


LLAMA_CPP = {"software": "llama.cpp", "models": [{"id": "fake", "owned_by": "llamacpp"}]}


@pytest.mark.parametrize(
    ("name", "serving"),
    [
        (
            "fake",
            LLAMA_CPP
            | {"routes": {"/apply-template": lambda body: {"prompt": "<|assistant|><think>\n"}}},
        ),
        (
            "qwen3-4b",
            {
                "models": VLLM,
                "routes": {
                    "/tokenize": lambda body: {"count": 900, "tokens": [*range(900)]},
                    "/detokenize": lambda body: {
                        "prompt": "assistant <think>\n" if body["tokens"][-1] == 899 else "?"
                    },
                },
            },
        ),
        ("DeepSeek-R1-Distill-Qwen-1.5B", {}),
    ],
)
def test_t6_the_first_stream_shows_no_thought_that_the_prompt_opened(name, serving) -> None:
    """The server's own template, or the model's name, says that it may think; then it shows."""
    with fake_server(opened("hm, two and two"), **serving) as server:
        engine = remote(server, name)
        assert thought_and_text(engine) == ("hm, two and two", "Four.")
        asked = len(server.requests)
        first = next(engine.stream(ask()))
        assert first == Chunk(reasoning="hm, two and two")  # known now: told as it comes
        assert len(server.requests) == asked + 1


def test_t6_a_tokenizer_that_is_here_tells_it_too(tmp_path) -> None:
    """Its chat template makes the prompt that the server's makes."""
    ending = "assistant\\n' }}{%- endif"
    folder = tiny_model(
        tmp_path, chat_template=CHATML.replace(ending, ending[:11] + "<think>'}}{%- endif")
    )
    with fake_server(opened()) as server:
        assert thought_and_text(remote(server, tokenizer=str(folder))) == ("hm", "Four.")


def test_t6_a_server_that_tells_thoughts_apart_is_believed() -> None:
    """Also where the prompt opens the block: its content is the answer, from the first on."""
    template = {"/apply-template": lambda body: {"prompt": "<think>"}}
    pieces = [chunk(reasoning_content="two "), chunk(reasoning_content="and two"), chunk("Four.")]
    end = [chunk(reason="stop"), "data: [DONE]"]
    with fake_server(lambda body: [*pieces, *end], routes=template, **LLAMA_CPP) as server:
        engine = remote(server)
        for _ in range(2):
            assert thought_and_text(engine) == ("two and two", "Four.")
    plain = [chunk("Fo"), chunk("ur."), *end]
    with fake_server(lambda body: plain, routes=template, **LLAMA_CPP) as server:
        assert thought_and_text(remote(server)) == ("", "Four.")
    with fake_server(lambda body: plain) as server:
        engine = remote(server, "no-reasoning")
        assert thought_and_text(engine) == ("", "Four.")
        assert next(engine.stream(ask())) == Chunk("Fo")  # known now: nothing is held back


def test_t6_a_thought_that_the_limit_cut_off_is_no_answer() -> None:
    """Where the prompt opened it; with no text at all the error says where the tokens went."""
    template = {"/apply-template": lambda body: {"prompt": "<think>"}}
    chat = opened(said="", reason="length")
    with (
        fake_server(chat, routes=template, **LLAMA_CPP) as server,
        pytest.raises(errors.EmptyReplyError, match="thinking"),
    ):
        list(remote(server).stream(ask()))


def test_t1_text_after_a_stop_string_never_passes() -> None:
    """Also from a server that ignores it; the connection is closed, not read to the end."""
    pieces = [chunk("Action: look\nObser"), chunk("vation: invented"), 30, chunk(reason="stop")]
    with fake_server(lambda body: pieces) as server:
        began = time.monotonic()
        text, _, last = whole(remote(server).stream(ask(stop=("\nObservation:",))))
        assert (text, last.reply.finish_reason) == ("Action: look", "stop")
        assert last.usage.source == "estimated"
        assert time.monotonic() - began < 10
        assert server.gone.wait(5)


@pytest.mark.parametrize(("given", "cause"), [
    (message("", "stop"), "ended its reply at once"),
    (message(None, "length", reasoning_content="hm"), "went into thinking"),
])  # fmt: skip
def test_t5_an_empty_answer_is_a_typed_error_with_what_it_cost(given, cause) -> None:
    """Never an empty text."""
    with fake_server(lambda body: (200, given)) as server:
        with pytest.raises(errors.EmptyReplyError, match=cause) as failed:
            remote(server).complete(ask())
        assert failed.value.completion.usage.input_tokens == 900


def test_logprobs_become_confidence() -> None:
    """Geometric mean and the least likely token, when asked for."""
    tokens = {"content": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -0.5}]}
    with fake_server(lambda body: (200, message("ab", logprobs=tokens))) as server:
        facts = remote(server).complete(ask(logprobs=True)).attributes
        assert facts["slm_adapters.confidence"] == pytest.approx(math.exp(-0.3))
        assert facts["slm_adapters.confidence.lowest"] == pytest.approx(math.exp(-0.5))
        assert server.chats()[0]["logprobs"] is True


# --- the window ------------------------------------------------------------------------------


def test_overflow_is_raised_before_anything_is_sent() -> None:
    """vLLM tells its window and counts by its own template; short prompts need no count."""
    counted: list[dict] = []

    def tokenize(body):
        counted.append(body)
        words = len(body["messages"][-1]["content"].split()) + 100 * ("tools" in body)
        return {"count": words, "max_model_len": 2048, "tokens": []}

    with fake_server(
        lambda body: (200, message("x")), models=VLLM, routes={"/tokenize": tokenize}
    ) as server:
        engine = remote(server, "qwen3-4b")
        engine.complete(ask(max_tokens=5))
        assert counted == []
        with pytest.raises(errors.ContextOverflowError, match="2000 prompt tokens and 100 reply"):
            engine.complete(ask("word " * 1900, max_tokens=100, tools=(ADD,)))
        assert counted[0]["tools"] == [ADD.to_openai()]
        before = len(counted)
        with pytest.raises(errors.ContextOverflowError, match="at least 2250 prompt tokens"):
            engine.complete(ask("word " * 3600, max_tokens=100, tools=(ADD,)))
        assert len(counted) == before
        assert len(server.chats()) == 1
        assert engine.context_window == 2048


def test_t34_tools_that_a_template_drops_go_into_the_prompt() -> None:
    """Where the server counts, it shows: the same tokens with tools and without."""
    asked: list[dict] = []

    def tokenize(body):
        asked.append(body)
        return {"count": 30}

    answer = message('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>')
    with fake_server(
        lambda body: (200, answer), models=VLLM, routes={"/tokenize": tokenize}
    ) as server:
        engine = remote(server, "qwen3-4b")
        for _ in range(2):
            assert engine.complete(ask(tools=(ADD,))).reply.message.tool_calls
        assert len(asked) == 2
        assert "tools" not in server.chats()[0]
        assert '"name": "add"' in server.chats()[0]["messages"][0]["content"]


def test_without_a_limit_a_reply_gets_what_is_left() -> None:
    """At most 1024 tokens, as locally."""
    with fake_server(
        lambda body: (200, message("x", usage={"prompt_tokens": 2000})),
        models=VLLM,
        routes={"/tokenize": lambda _: {"count": 2000}},
    ) as server:
        engine = remote(server, "qwen3-4b")
        engine.complete(ask("word " * 900))
        assert server.chats()[-1]["max_tokens"] == 48
        assert engine.count_tokens((Message("user", "x"),)) == 2000


#: As llama.cpp's own server lists and answers; that one runs in ``test_remote_llamacpp.py``.
LISTED = [
    {"id": "m", "aliases": ["m", "m.gguf"], "tags": [], "object": "model", "owned_by": "llamacpp",
     "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
     "meta": {"vocab_type": 2, "n_vocab": 400, "n_ctx": 512, "n_ctx_train": 4096, "n_embd": 64,
              "n_params": 99648, "size": 398592, "ftype": "(guessed) all F32"}},
]  # fmt: skip
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


def llama_cpp(chat):
    """A fake of its server with a window of 512 tokens, a token for each word."""
    routes = {
        "/props": lambda _: {"default_generation_settings": {"n_ctx": 512}, "total_slots": 1},
        "/apply-template": lambda body: {
            "prompt": " ".join(
                [m["content"] for m in body["messages"]]
                + [json.dumps(t) for t in body.get("tools", ())]
            )
        },
        "/tokenize": lambda body: {"tokens": body["content"].split()},
    }
    return fake_server(chat, models=LISTED, routes=routes, software="llama.cpp")


def test_llama_cpp_tells_its_window_and_counts() -> None:
    """/props, /apply-template and /tokenize; cached tokens, and rates from its timings."""
    told = {"cache_n": 6, "prompt_n": 3, "prompt_ms": 20.0, "predicted_n": 3, "predicted_ms": 60.0}
    usage = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 6}}
    for details in (usage, {"prompt_tokens": 9}):  # versions before it was in the usage
        with llama_cpp(
            lambda body, d=details: (200, {**message("x", usage=d), "timings": told})
        ) as server:
            engine = remote(server, "m")
            answer = engine.complete(ask())
            assert (engine.context_window, engine.provider) == (512, "llama_cpp")
            assert answer.usage.cached_tokens == 6
            assert (answer.timings.prefill_s, answer.timings.decode_s) == (0.02, 0.06)
            with pytest.raises(errors.ContextOverflowError, match="510 prompt tokens"):
                engine.complete(ask("w " * 510, max_tokens=9))


@pytest.mark.parametrize("choice", ["required", "add"])
def test_llama_cpp_is_asked_for_a_call_in_its_own_way(choice) -> None:
    """It takes 'required' only and lets text come first, so the prompt says it as well."""
    with llama_cpp(lambda body: (200, message("Well, let me think", "length"))) as server:
        for _ in range(2):
            answer = remote(server, "m").complete(ask(tools=(ADD,), tool_choice=choice))
            assert answer.reply.finish_reason == "length"
        for body in server.chats():
            assert body["tool_choice"] == "required"
            assert "Answer with a call of add" in body["messages"][0]["content"]
        assert len(server.chats()) == 2


def test_llama_cpp_answers_to_any_name_and_that_is_said(caplog) -> None:
    """Its names and aliases are known; another name is answered by the model it has."""
    with llama_cpp(lambda body: (200, message("x", model="m"))) as server:
        engines = [remote(server, name) for name in ("m", "m.gguf", "gpt-4.1", "gpt-4.1")]
        assert {engine.complete(ask()).model for engine in engines} == {"m"}
        (said,) = [r.getMessage() for r in caplog.records if "answers with" in r.getMessage()]
        assert "no model 'gpt-4.1' and answers with 'm'" in said


def test_a_server_that_is_loading_is_looked_at_again() -> None:
    """Nothing of what it could not tell yet is taken for its last word."""
    ready = False

    def when_ready(answer):
        return lambda body: answer if ready else (503, LOADING)

    routes = {
        "/v1/models": when_ready({"object": "list", "data": LISTED}),
        "/props": when_ready({"default_generation_settings": {"n_ctx": 512}}),
        "/apply-template": when_ready({"prompt": "a b c"}),
        "/tokenize": when_ready({"tokens": [1, 2, 3]}),
    }
    chat = when_ready((200, message("x")))
    with fake_server(chat, routes=routes, software="llama.cpp") as server:
        engine = remote(server, "m")
        with pytest.raises(errors.EngineBusyError, match="wait until it is ready"):
            engine.complete(ask(tools=(ADD,)))
        ready = True
        engine.complete(ask())
        assert (engine.context_window, engine.provider) == (512, "llama_cpp")
        assert engine.count_tokens((Message("user", "x"),)) == 3


def test_one_prompt_that_cannot_be_counted_says_nothing_of_the_next() -> None:
    """llama.cpp's template refuses a tool's schema: others are counted as before."""
    routes = {
        "/apply-template": lambda body: (
            (400, {"error": {"message": "JSON schema error"}})
            if "tools" in body
            else {"prompt": "a b c"}
        ),
        "/tokenize": lambda body: {"tokens": [1, 2, 3]},
    }
    with fake_server(
        lambda body: (200, message("x")), models=LISTED, routes=routes, software="llama.cpp"
    ) as server:
        engine = remote(server, "m")
        assert engine.count_tokens((Message("user", "x"),), (ADD,)) > 3
        assert engine.count_tokens((Message("user", "x"),)) == 3


OVERFLOWS = [
    (400, {"object": "error", "message": "This model's maximum context length is 2048 tokens. "
           "However, you requested 3000 tokens (2900 in the messages, 100 in the completion). "
           "Please reduce the length of the messages or completion.", "code": 400}, 2900, 2048),
    (400, {"error": {"message": "This model's maximum context length is 2048 tokens. However, "
           "your request has 2900 input tokens. Please reduce the length of the input messages. "
           "(parameter=input_tokens, value=2900)", "param": "input_tokens"}}, 2900, 2048),
    (400, {"error": {"message": "This model's maximum context length is 1024 tokens. However, "
           "your prompt contains at least 1025 input tokens, which exceeds this limit even without "
           "any output tokens. Please reduce the length of the input prompt. "
           "(parameter=input_tokens, value=1025)", "type": "BadRequestError", "param":
           "input_tokens", "code": 400}}, 1025, 1024),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size. try "
           "increasing the context size or enable context shift", "type":
           "exceed_context_size_error", "n_prompt_tokens": 1407, "n_ctx": 256}}, 1407, 256),
    (400, {"error": {"code": 400, "message": "request (1407 tokens) exceeds the available context "
           "size (256 tokens), try increasing it", "type": "exceed_context_size_error",
           "n_prompt_tokens": 1407, "n_ctx": 256}}, 1407, 256),
    (400, {"message": "Requested token count exceeds the model's maximum context length of 4096 "
           "tokens. You requested a total of 5000 tokens: 4900 tokens from the input messages and "
           "100 tokens for the completion."}, 4900, 4096),
    (400, {"message": "The input (150000 tokens) is longer than the model's context length "
           "(128000 tokens)."}, 150000, 128000),
    (400, {"error": {"message": "This model's maximum context length is 2048 tokens. However, you "
           "requested 2285 tokens (2185 in the messages, 100 in the completion).", "code":
           "context_length_exceeded"}}, 2185, 2048),
    (500, {"detail": "Requested tokens (2285) exceed context window of 2048"}, 2285, 2048),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "prompt", "window"), OVERFLOWS)
def test_every_servers_overflow_is_one_error(status, body, prompt, window) -> None:
    """With the numbers it told, and the phrase that agents look for."""
    assert too_long_for_window(status, json.dumps(body)) == (prompt, window)
    with fake_server(lambda _: (status, body)) as server:
        with pytest.raises(errors.ContextOverflowError, match="maximum context length") as failed:
            remote(server).complete(ask(max_tokens=window))
        assert (failed.value.prompt_tokens, failed.value.window) == (prompt, window)
        assert len(server.chats()) == 1


def test_only_our_own_default_limit_was_too_much() -> None:
    """Then less is asked for, since the prompt itself fits."""

    def chat(body):
        if body["max_tokens"] > 148:
            return 400, {"message": "This model's maximum context length is 2048 tokens. However, "
                         "you requested 2924 tokens (1900 in the messages, 1024 in the "
                         "completion)."}  # fmt: skip
        return 200, message("fits")

    with fake_server(chat) as server:
        assert remote(server).complete(ask()).reply.message.text == "fits"
        assert [body["max_tokens"] for body in server.chats()] == [1024, 148]


def test_ollamas_silent_cut_is_made_visible() -> None:
    """It answers 200 and half the prompt is gone: usage tells, and no answer comes of it."""
    models = [{"id": "qwen3:4b", "object": "model", "owned_by": "library"}]
    loaded: dict = {"models": []}

    def chat(body):
        loaded["models"] = [{"name": "qwen3:4b", "model": "qwen3:4b", "context_length": 4096}]
        return 200, message("Confident nonsense.", usage={"prompt_tokens": 2050})

    with fake_server(chat, models=models, routes={"/api/ps": lambda _: loaded}) as server:
        engine = remote(server, "qwen3:4b")
        prompt = " ".join(f"Order {n} came in on day {n % 31}." for n in range(900))
        with pytest.raises(errors.ContextOverflowError, match="OLLAMA_CONTEXT_LENGTH") as failed:
            engine.complete(ask(prompt))
        assert "2050" in str(failed.value)
        assert failed.value.completion.usage.input_tokens == 2050
        engine.complete(ask(max_tokens=5))
        assert (engine.provider, engine.context_window) == ("ollama", 4096)


def test_with_a_tokenizer_a_cut_of_any_size_is_seen(tmp_path) -> None:
    """``tokenizer=`` counts exactly, before the call and after it."""
    from tiny_models import tiny_tokenizer

    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with fake_server(lambda body: (200, message("x", usage={"prompt_tokens": 10}))) as server:
        engine = remote(server, tokenizer=str(tmp_path), context_window=64)
        assert engine.count_tokens((Message("user", "Where is my order?"),)) > 12
        with pytest.raises(errors.ContextOverflowError, match="read only 10 of"):
            engine.complete(ask("Where is my order?", max_tokens=9))
        before = len(server.chats())
        with pytest.raises(errors.ContextOverflowError, match="reply tokens exceed"):
            engine.complete(ask("Where is my order? " * 9, max_tokens=9))
        assert len(server.chats()) == before


# --- errors ----------------------------------------------------------------------------------


ERRORS = [
    (401, {"error": {"message": "Unauthorized"}}, errors.ServerError),
    (404, {"error": {"message": "The model `x` does not exist."}}, errors.ModelNotFoundError),
    (400, {"detail": "Server is pinned to 'a'; requested 'x'."}, errors.ModelNotFoundError),
    (429, {"error": {"message": "Rate limit reached, 429 too many requests"}},
     errors.EngineBusyError),
    (401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}},
     errors.ServerError),
    (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
     errors.EngineBusyError),
    (500, "Internal Server Error", errors.ServerError),
    (502, "<html>Bad Gateway</html>", errors.ServerError),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_servers_errors_are_typed_and_say_what_to_do(status, body, kind, streamed) -> None:
    """T12: without the words that make CrewAI repeat the call."""
    with fake_server(lambda _: (status, body)) as server:
        with pytest.raises(kind, match=rf"127\.0\.0\.1:{server.port}") as failed:
            if streamed:
                list(remote(server, "x").stream(ask()))
            else:
                remote(server, "x").complete(ask())
        assert len(server.chats()) == 1
        # The server's port is any number, 40429 too.
        text = str(failed.value).lower().replace(f"127.0.0.1:{server.port}", "the server")
        assert not any(word in text for word in ("rate limit", "too many", "429 ", "throttl"))
        assert ":" in text


def test_something_that_is_no_model_server_is_said() -> None:
    """HTML, or JSON of another kind."""
    for body in ("<html></html>", ["list"], {}):
        with (
            fake_server(lambda _, body=body: (200, body)) as server,
            pytest.raises(errors.ModelError, match=r"base_url"),
        ):
            remote(server).complete(ask(timeout=5))


@any_of(st.integers(100, 599), st.text(max_size=300))
def test_any_error_body_becomes_a_typed_error(status, body) -> None:
    """Whatever a gateway in between says."""
    fields = ("tools", "tool_choice", "messages", "model", "response_format", "stream_options")
    assert refused_fields(status, body, fields) <= set(fields)
    made = as_error(status, body, model="m", server="s:1", sent_tokens=3, max_tokens=None)
    assert isinstance(made, errors.SLMAdaptersError)
