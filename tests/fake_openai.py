"""A stand-in for a paid API: answers OpenAI's API on a loopback port.

It is a fake and says so in every answer's model name; tests use it where real programs would
use a hosted model, so that the real client libraries and their real HTTP run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fake_responses

Answer = Callable[[dict[str, Any]], dict[str, Any] | str]


@dataclass
class FakeOpenAI:
    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    #: How many requests from now on fail, and with which status.
    failures: int = 0
    status: int = 500
    #: Whether the connection is lost in the middle of a stream.
    cuts: bool = False
    #: What is different in its next responses.
    response: dict[str, Any] = field(default_factory=dict)

    def fails(self) -> bool:
        """Whether this request is one of those."""
        self.failures -= 1
        return self.failures >= 0

    @property
    def options(self) -> dict[str, str]:
        """LiteLLM's, to ask it."""
        return {"api_base": self.base_url, "api_key": "none"}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        fake = self.server.fake
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.requests.append(request)
        if fake.fails():
            self._send("application/json", "", status=fake.status)
        elif self.path.endswith("/embeddings"):
            self._send("application/json", json.dumps(embeddings(request)))
        elif "/chat/" in self.path:
            self._chat(request)
        elif self.path.endswith("/responses"):
            self._respond(request)
        else:
            self._complete(request)

    def _message(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.server.answer
        given = answer(request) if callable(answer) else answer
        return {"role": "assistant", "content": given} if isinstance(given, str) else given

    def _respond(self, request: dict[str, Any]) -> None:
        fake = self.server.fake
        whole = fake_responses.response(request, self._message(request)) | fake.response
        if request.get("stream"):
            text = fake_responses.events(whole)
            self._send("text/event-stream", text, cut=fake.cuts)
        else:
            self._send("application/json", json.dumps(whole))

    def _chat(self, request: dict[str, Any]) -> None:
        message = self._message(request)
        if request.get("stream"):
            self._stream(request, message)
        else:
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self._send("application/json", json.dumps(body(request, [choice], True)))

    def _stream(self, request: dict[str, Any], message: dict[str, Any]) -> None:
        lines = []
        text = message.get("content") or ""
        for word in [] if message.get("tool_calls") and not text else text.split(" "):
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            lines.append(body(request, [choice], False))
        for number, call in enumerate(message.get("tool_calls") or ()):
            delta = {"tool_calls": [{"index": number} | call]}
            lines.append(
                body(request, [{"index": 0, "delta": delta, "finish_reason": None}], False)
            )
        lines.append(body(request, [{"index": 0, "delta": {}, "finish_reason": "stop"}], False))
        lines.append(body(request, [], True))
        text = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
        self._send("text/event-stream", text, cut=self.server.fake.cuts)

    def _complete(self, request: dict[str, Any]) -> None:
        choice = {"index": 0, "text": "It is done.", "finish_reason": "stop"}
        text = json.dumps(body(request, [choice], True) | {"object": "text_completion"})
        streamed = bool(request.get("stream"))
        kind = "text/event-stream" if streamed else "application/json"
        self._send(kind, f"data: {text}\n\ndata: [DONE]\n\n" if streamed else text)

    def _send(self, kind: str, text: str, status: int = 200, cut: bool = False) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = cut

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer | str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.fake = FakeOpenAI(f"http://127.0.0.1:{self.server_address[1]}/v1")


@contextmanager
def fake_openai(answer: Answer | str = "It is done.") -> Iterator[FakeOpenAI]:
    """Serve completions, responses, embeddings; ``answer``: a text or a function of a request."""
    server = _Server(answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.fake
    finally:
        server.shutdown()
        server.server_close()


def embeddings(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "object": "list",
        "model": f"fake-{request['model']}",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    }


def body(request: dict[str, Any], choices: list[dict[str, Any]], usage: bool) -> dict[str, Any]:
    streamed = bool(request.get("stream"))
    data: dict[str, Any] = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk" if streamed else "chat.completion",
        "created": 0,
        "model": f"fake-{request['model']}",
        "choices": choices,
    }
    if usage:
        data["usage"] = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return data
