"""The checks for model servers and LiteLLM's proxy: they skip clearly and find what is wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_servers import call, chunk, fake_server, message, usage_chunk
from real_servers import llama_cpp, why_no_llama_cpp, write_gguf
from taught_model import teach_all
from tiny_models import tiny_model

from slm_adapters.calls import Message
from slm_adapters.engine.chat_format import ChatFormat, shaped_messages

INTEGRATIONS = Path(__file__).parent.parent / "integrations"


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_check", INTEGRATIONS / name / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["vllm", "ollama", "llamacpp"])
def test_without_a_server_it_skips_with_the_command_to_type(name, monkeypatch, capsys) -> None:
    """Exit code 0 and one line."""
    monkeypatch.setattr(sys, "argv", ["check.py", "--base-url", "http://127.0.0.1:9/v1"])
    assert loaded(name).main() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("skipped: no ")
    assert f"docker compose -f integrations/{name}/compose.yaml up -d" in printed


def test_it_tells_a_server_that_serves_from_one_that_does_not(capsys) -> None:
    """Against a fake vLLM: everything works; then tools and structure come out wrong."""

    def chat(body):
        if body["stream"]:
            return [chunk("one "), chunk("two", "stop"), usage_chunk(), "data: [DONE]"]
        if "tools" in body and good:
            return 200, message(None, "tool_calls", tool_calls=[call("get_weather", CITY)])
        return 200, message(CITY if "response_format" in body and good else "Paris.")

    models = [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]
    routes = {"/tokenize": lambda body: {"count": len(json.dumps(body)) // 4}}
    check = loaded("vllm").model_servers.check
    with fake_server(chat, models=models, routes=routes) as server:
        good = True
        assert check("vLLM", "start", server.base_url, ["m"]) == 0
        printed = capsys.readouterr().out
        assert "m: vllm, window 4096 tokens" in printed
        assert "oversized prompt: refused" in printed
        good = False
        assert check("vLLM", "start", server.base_url, ["m"]) == 1
        assert capsys.readouterr().out.count("wrong:") == 2


CITY = '{"city": "Paris"}'


@pytest.mark.skipif(bool(why_no_llama_cpp()), reason=why_no_llama_cpp())
def test_the_check_passes_on_a_real_llama_cpp(tmp_path) -> None:
    """Its whole script, on llama.cpp's own server, over a tiny model that knows the answers."""
    check = loaded("vllm").model_servers
    place = tiny_model(tmp_path / "parrot", window=1024)
    plain = [
        (asked("Name the capital of France."), "Paris."),
        (asked("Count from one to five."), "one two three four five"),
        (asked("Where is the Louvre?", CITY_FORM), CITY),
    ]
    must = "Answer with a call of get_weather and nothing else."
    call = f'<tool_call>\n{{"name": "get_weather", "arguments": {CITY}}}\n</tool_call>'
    weather = (asked("What is the weather in Paris?", must=must), call, [check.WEATHER.to_openai()])
    teach_all(place, plain, [weather])
    script = str(INTEGRATIONS / "llamacpp" / "check.py")
    with llama_cpp(write_gguf(place)) as url:
        done = subprocess.run(
            [sys.executable, script, "parrot", "--base-url", url],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parrot: llama_cpp, window 1024 tokens" in done.stdout
    for line in ("text: Paris.", f"get_weather({CITY})", f"JSON: {CITY}", "prompt: refused"):
        assert line in done.stdout


CITY_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITY_FORM = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY_SCHEMA}}


def asked(words: str, form: dict | None = None, must: str = "") -> list:
    return shaped_messages(ChatFormat(), (Message("user", words),), (), form, must)


@pytest.mark.server
def test_litellms_proxy_serves_the_bundled_model() -> None:
    """The real proxy over HTTP: answer, stream and tool call; it needs an environment of its own,
    where CrewAI does not hold back its mcp."""
    command = [sys.executable, str(INTEGRATIONS / "litellm-proxy" / "check.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.server
@pytest.mark.parametrize("name", ["vllm", "ollama", "llamacpp"])
def test_a_real_server_serves(name) -> None:
    """With one on this machine."""
    command = [sys.executable, str(INTEGRATIONS / name / "check.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
