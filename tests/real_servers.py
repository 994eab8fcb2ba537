"""Model servers that run on a plain CPU machine, started for tests.

``transformers serve``, llama.cpp's own server out of a wheel, and vLLM where ``VLLM`` names the
Python of an environment that has it: beside CrewAI's ``mcp<2`` it cannot be installed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slm_adapters.engine.engine import ChatEngine, ChatRequest, Completion

VLLM = "SLM_ADAPTERS_TEST_VLLM"
#: Where the scripts are that write GGUF files and run llama.cpp.
LLAMACPP = Path(__file__).parent.parent / "integrations" / "llamacpp"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path, path: str = "/health") -> Iterator[str]:
    """The address of a server that ``command`` starts on ``port``, once it answers ``path``."""
    base = f"http://127.0.0.1:{port}"
    with log.open("w") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while not answers(base + path):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield base
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def in_all_four_ways(engine: ChatEngine, request: ChatRequest) -> list[Completion]:
    """What comes plain and streamed, with and without asyncio; streams come in pieces."""

    async def in_tasks() -> list[Completion]:
        streamed = [event async for event in engine.astream(request)]
        return [await engine.acomplete(request), streamed[-1]]

    *pieces, last = list(engine.stream(request))
    assert len(pieces) > 1
    answers = [engine.complete(request), last, *asyncio.run(in_tasks())]
    assert all(isinstance(answer, Completion) for answer in answers)
    return answers


@contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """The base URL of the transformers CLI's own server over the model in ``folder``."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    # It lists the hub's cache, and fails where there is none.
    (folder.parent / "hub").mkdir(exist_ok=True)
    os.environ.setdefault("HF_HUB_CACHE", str(folder.parent / "hub"))
    with running(command, port, folder.parent / "serve.log") as base:
        yield f"{base}/v1"


def why_no_llama_cpp() -> str:
    """What to install where llama.cpp's server is not; empty where it is."""
    here = all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf"))
    return "" if here else "llama.cpp's server is not here: pip install xllamacpp gguf"


def write_gguf(folder: Path, kind: str = "f32") -> Path:
    """The model in ``folder`` as a GGUF file beside it."""
    spec = importlib.util.spec_from_file_location("to_gguf", LLAMACPP / "to_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: Path = module.to_gguf(folder, folder.with_suffix(".gguf"), kind)
    return written


def llama_cpp_command(model: Path, port: int, *options: str) -> list[str]:
    command = [sys.executable, str(LLAMACPP / "serve.py"), str(model), "--port", str(port)]
    return [*command, "--threads", "1", *options]


@contextmanager
def llama_cpp(model: Path, *options: str) -> Iterator[str]:
    """The base URL of llama.cpp's own server over a GGUF file."""
    port = free_port()
    command = llama_cpp_command(model, port, *options)
    with running(command, port, model.with_suffix(".log")) as base:
        yield f"{base}/v1"


def why_no_vllm() -> str:
    """What to do where no vLLM is named; empty where one is."""
    if os.environ.get(VLLM):
        return ""
    install = "as integrations/vllm/README.md says"
    return f"no vLLM here: install it {install}, then {VLLM}=/tmp/vllm/bin/python"


@contextmanager
def vllm(folder: Path, adapter: Path, *options: str) -> Iterator[str]:
    """The base URL of vLLM's server over a model and a LoRA, under their folders' names."""
    port = free_port()
    command = [os.environ[VLLM], "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder), "--served-model-name", folder.name, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    command += ["--enable-lora", "--lora-modules", f"{adapter.name}={adapter}", *options]
    # Its own defaults take most of the machine's memory and name cores to run on.
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    os.environ.update(small | {"VLLM_NO_USAGE_STATS": "1"})
    with running(command, port, folder.parent / "vllm.log") as base:
        yield f"{base}/v1"
