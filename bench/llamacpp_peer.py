"""llama.cpp beside our engine: its real server, in a process of its own, over the same weights.

It is given token ids over ``/completion``, so both sides read the same prompts, and its wall time
is what it reports itself, which leaves HTTP out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "integrations" / "llamacpp"
INSTALL = "pip install xllamacpp gguf"


def is_here() -> bool:
    return all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf"))


def write_gguf(folder: Path, target: Path, kind: str) -> Path:
    """Every matrix in ``kind``, the embeddings too, as ``llama-quantize --pure`` does."""
    spec = importlib.util.spec_from_file_location("to_gguf", SCRIPTS / "to_gguf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Prompts are ids here, so how the tokenizer would split text does not matter.
    return module.to_gguf(folder, target, kind, splits="gpt-2")


class LlamaCpp:
    """A running server. Times are (wall, CPU of its process) in seconds."""

    def __init__(self, port: int, process: subprocess.Popen, rows: int) -> None:
        self._url, self._process = f"http://127.0.0.1:{port}", process
        self._pool = ThreadPoolExecutor(rows)

    def read(self, prompts: list[list[int]]) -> tuple[float, float]:
        """For a prompt, of prompts it has not seen, each in a slot of its own."""
        before = self._cpu()
        told = [self._ask(prompt, 1, slot, fresh=True) for slot, prompt in enumerate(prompts)]
        cpu = self._cpu() - before
        return sum(t["prompt_ms"] for t in told) / 1e3 / len(told), cpu / len(told)

    def write(self, prompts: list[list[int]], count: int) -> tuple[float, float]:
        """For a token of ``count``, of all prompts at once, which it has read."""
        before = self._cpu()
        told = list(
            self._pool.map(lambda row: self._ask(row[1], count + 1, row[0]), enumerate(prompts))
        )
        cpu = self._cpu() - before
        # The first token is of the prompt's last; the slowest slot saw every step after it.
        wall = max(t["predicted_ms"] for t in told) / 1e3
        return wall / count / len(prompts), cpu / (count + 1) / len(prompts)

    def _ask(self, prompt: list[int], count: int, slot: int, *, fresh: bool = False) -> dict:
        body = {
            "prompt": prompt, "n_predict": count, "id_slot": slot, "cache_prompt": not fresh,
            "temperature": 0, "ignore_eos": True,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self._url}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            told = json.load(answer)["timings"]
        read = len(prompt) if fresh else 1
        assert (told["prompt_n"], told["predicted_n"]) == (read, count), told
        return told

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, seconds: float = 120) -> None:
        """Until it has loaded its model."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self._process.poll() is None, "llama.cpp's server ended: see its log"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/health"):
                return
            time.sleep(0.1)
        raise TimeoutError("llama.cpp's server did not come up")


@contextlib.contextmanager
def served(model: Path, threads: int, rows: int, window: int) -> Iterator[LlamaCpp]:
    """llama.cpp's server over ``model`` with ``rows`` slots of ``window`` tokens each."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, str(SCRIPTS / "serve.py"), str(model), "--port", str(port)]
    command += [
        "--threads",
        str(threads),
        "--parallel",
        str(rows),
        "--ctx-size",
        str(window * rows),
    ]
    with open(model.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        server = LlamaCpp(port, process, rows)
        server.wait()
        yield server
    finally:
        process.terminate()
        process.wait(30)
