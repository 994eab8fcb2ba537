"""Fakes that replay the wire shapes of model servers which do not run on a plain CPU machine.

They are fakes and say so: bodies are those of the servers' own documentation and issues (vLLM,
Ollama, SGLang, LM Studio) or were recorded from them (llama.cpp), the HTTP is real.
``transformers serve`` and llama.cpp's server run for real in ``real_servers.py``.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: What a handler answers: (status, body) or, for a stream, a list of lines or pauses in seconds.
Answer = tuple[int, Any] | list[Any]


@dataclass
class FakeServer:
    """``requests``: (path, body) of everything asked; ``gone``: a client closed its stream."""

    port: int
    requests: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    #: Somebody asked for a chat.
    asked: threading.Event = field(default_factory=threading.Event)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def chats(self) -> list[dict[str, Any]]:
        return [body for path, body in self.requests if path.endswith("/chat/completions")]


class _Handler(BaseHTTPRequestHandler):
    """What ``fake_server`` was given is on its subclass."""

    protocol_version, sys_version = "HTTP/1.1", ""
    fake: FakeServer
    chat: Callable[[dict[str, Any]], Answer]
    routes: dict[str, Callable[[Any], Any]]

    def do_GET(self) -> None:
        self._serve(None)

    def do_POST(self) -> None:
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, body: Any) -> None:
        self.fake.requests.append((self.path, body))
        self.fake.headers.append(dict(self.headers))
        if self.path in self.routes:
            answer = self.routes[self.path](body)
            self._send(*(answer if isinstance(answer, tuple) else (200, answer)))
        elif self.path == "/v1/chat/completions":
            self.fake.asked.set()
            answer = self.chat(body)
            if isinstance(answer, list):
                self._stream(answer)
            else:
                self._send(*answer)
        else:
            self._send(404, {"detail": "Not Found"})

    def _send(self, status: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: list[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for line in lines:
            if isinstance(line, int | float):
                self._wait(line)
                continue
            text = line if isinstance(line, str) else f"data: {json.dumps(line)}"
            try:
                self.wfile.write(f"{text}\n\n".encode())
                self.wfile.flush()
            except OSError:
                self.fake.gone.set()
                return

    def _wait(self, seconds: float) -> None:
        """Pause, as a model that thinks does, and notice a client that goes away."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.fake.gone.is_set():
            self.connection.settimeout(0.02)
            try:
                if self.connection.recv(1, socket.MSG_PEEK) == b"":
                    self.fake.gone.set()
            except TimeoutError:
                pass
            except OSError:
                self.fake.gone.set()
            finally:
                self.connection.settimeout(None)

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    #: Sixty-four connections at one moment are refused by none.
    request_queue_size = 128


@contextmanager
def fake_server(
    chat: Callable[[dict[str, Any]], Answer],
    *,
    models: Any = None,
    routes: dict[str, Callable[[Any], Any]] | None = None,
    software: str = "uvicorn",
) -> Iterator[FakeServer]:
    """Serve ``chat`` under /v1, ``models`` as its list, and ``routes`` by their whole path.

    A route gives a body, or (status, body).
    """

    paths = dict(routes or {})
    if models is not None:
        paths["/v1/models"] = lambda _: {"object": "list", "data": models}
    given = {"chat": staticmethod(chat), "routes": paths, "server_version": software}
    handler = type("Handler", (_Handler,), given)
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake = handler.fake = FakeServer(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def message(content: str | None = None, reason: str = "stop", **more: Any) -> dict[str, Any]:
    """A whole chat completion; ``usage=``, ``model=`` and ``logprobs=`` go where they belong."""
    usage = {"prompt_tokens": 900, "completion_tokens": 3, "total_tokens": 903} | more.pop(
        "usage", {}
    )
    choice = {"index": 0, "finish_reason": reason, "logprobs": more.pop("logprobs", None)}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "model": more.pop("model", "fake"),
        "choices": [{**choice, "message": {"role": "assistant", "content": content, **more}}],
        "usage": usage,
    }


def chunk(content: str | None = None, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """One piece of a stream."""
    said = {"content": content} if content is not None else {}
    choice = {"index": 0, "delta": {**said, **delta}, "finish_reason": reason}
    return {"object": "chat.completion.chunk", "model": "fake", "choices": [choice]}


def usage_chunk(prompt: int = 900, completion: int = 3, **details: Any) -> dict[str, Any]:
    """The last object of a stream that was asked for usage."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **details}
    return {"object": "chat.completion.chunk", "model": "fake", "choices": [], "usage": counts}


def call(name: str, arguments: str, identifier: str = "call_1", **more: Any) -> dict[str, Any]:
    """A tool call as a message or a delta has it."""
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function, **more}
