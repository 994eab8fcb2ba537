"""Start LiteLLM's proxy with config.yaml and ask the bundled model through it over HTTP.

Exit code 0: answer, stream and tool call arrived, or no proxy is installed (it says so). 1: not.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SERVE = "from litellm import run_server; run_server()"
WAIT_S = 240
#: For this run of the proxy alone.
KEY = f"sk-check-{uuid.uuid4().hex}"
ORDER = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
LOOK_UP = {"name": "lookup_order", "description": "Look up an order.", "parameters": ORDER}


def main() -> int:
    environment = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": KEY,
        "OPENAI_API_KEY": "none",
    }
    found = subprocess.run(
        [sys.executable, "-c", "import litellm, litellm.proxy.proxy_server"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        why = found.stderr.strip().splitlines()[-1]
        print(
            f"skipped: LiteLLM's proxy cannot be imported ({why}). Install it with "
            "`pip install 'litellm[proxy]'`, in an environment without CrewAI, and run this again."
        )
        return 0
    port = free_port()
    command = [sys.executable, "-c", SERVE, "--config", str(FOLDER / "config.yaml")]
    with tempfile.TemporaryFile("w+") as log:
        proxy = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            problems = ask(f"http://127.0.0.1:{port}", proxy)
        finally:
            proxy.terminate()
            proxy.wait(30)
        if problems:
            log.seek(0)
            print(log.read()[-3000:])
    for problem in problems:
        print("wrong:", problem)
    return 1 if problems else 0


def ask(base: str, proxy: subprocess.Popen[bytes]) -> list[str]:
    """What did not come back as it should."""
    deadline = time.monotonic() + WAIT_S
    while not alive(base):
        if proxy.poll() is not None or time.monotonic() > deadline:
            return ["the proxy did not start"]
        time.sleep(0.5)
    problems: list[str] = []
    asked = {"model": "triage", "messages": [{"role": "user", "content": TICKET}], "max_tokens": 64}
    answer = json.loads(post(base, asked))
    text = answer["choices"][0]["message"]["content"]
    print(f"answer: {text!r}, {answer['usage']['completion_tokens']} tokens")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = post(base, asked | options).splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    streamed = "".join(delta.get("content") or "" for delta in deltas)
    usage = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), None)
    print(f"stream: {len(deltas)} chunks, usage {usage and usage['completion_tokens']}")
    if streamed != text or not usage:
        problems.append(f"the stream said {streamed!r} with usage {usage}")
    tools = {"tools": [{"type": "function", "function": LOOK_UP}], "tool_choice": "required"}
    choice = json.loads(post(base, asked | tools))["choices"][0]
    calls = choice["message"].get("tool_calls") or []
    print(f"tool call: {[call['function'] for call in calls]}, {choice['finish_reason']}")
    if [call["function"]["name"] for call in calls] != ["lookup_order"]:
        problems.append("no call of lookup_order came back")
    return problems


TICKET = "Where is my parcel? Order B-2002."


def post(base: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(
        f"{base}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        raise SystemExit(f"wrong: HTTP {error.code}: {error.read().decode()[:500]}") from error


def alive(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/health/liveliness", timeout=2):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
