"""Ask a real Prometheus every question of the dashboard, over metrics of this package.

Starts the `prometheus` on the PATH (or at --prometheus), lets it scrape this process, and runs each
panel's query under both generations of metric names. Exit code 0: every panel shows something, or
there is no Prometheus here (it says so). 1: a panel stays empty or its query is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GENERATIONS = {"1.41": "", "latest": "gen_ai_latest_experimental"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", default=shutil.which("prometheus"), help="the program")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds until all must answer")
    options = parser.parse_args()
    try:
        import opentelemetry.exporter.prometheus  # noqa: F401
    except ImportError:
        print("skipped: `pip install opentelemetry-exporter-prometheus` and run this again.")
        return 0
    if not options.prometheus:
        print(
            "skipped: no prometheus on the PATH. Install it (Debian: `apt-get install prometheus`) "
            "and run this again."
        )
        return 0
    empty = []
    for name, word in GENERATIONS.items():
        panels = asked(options.prometheus, word, options.wait)
        print(f"{name}: {len(panels)} queries, {sum(map(bool, panels.values()))} answered")
        empty += [f"{name}: {query}: no data" for query, found in panels.items() if not found]
    for problem in empty:
        print("wrong:", problem)
    return 1 if empty else 0


def asked(program: str, generation: str, wait_s: float) -> dict[str, list[float]]:
    """Panel and query -> the finite values Prometheus finds for it."""
    with metrics(generation) as (use, port), server(program, port) as url:
        deadline = time.monotonic() + wait_s
        while True:
            use()
            time.sleep(1)
            found = {name: values(url, query) for name, query in queries().items()}
            if all(found.values()) or time.monotonic() > deadline:
                return found


def queries() -> dict[str, str]:
    """Every query of the dashboard, its variables filled in as Grafana would."""
    dashboard = json.loads((HERE / "dashboard.json").read_text(encoding="utf-8"))
    return {
        f"{panel['title']} {number}": target["expr"]
        .replace("$__rate_interval", "30s")
        .replace("$model", ".*")
        for panel in dashboard["panels"]
        for number, target in enumerate(panel["targets"])
    }


@contextlib.contextmanager
def metrics(generation: str) -> Iterator[tuple[Any, int]]:
    """A function that makes one call of every kind, and the port its metrics are offered on."""
    import prometheus_client
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider

    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = generation
    provider = MeterProvider([PrometheusMetricReader()])
    port = free_port()
    serving, thread = prometheus_client.start_http_server(port, "127.0.0.1")
    try:
        yield lambda: one_of_each(provider), port
    finally:
        serving.shutdown()
        thread.join()
        provider.shutdown()


def one_of_each(provider: Any) -> None:
    """A streamed answer of the old LLM in place of a small model, an error, an agent, a tool."""
    from slm_adapters import Recorder, Usage, role
    from slm_adapters.telemetry import semconv

    recorder = Recorder(meter_provider=provider)
    with role("triage"):
        call = recorder.open(framework="check", provider="slm_adapters", model="m", streamed=True)
        call.chunk("a")
        call.note(**{semconv.FALLBACK_REASON: "overflow", semconv.FALLBACK_MODEL: "big"})
        call.finish(usage=Usage(10, 2), response_model="m-1")
        recorder.open(framework="check", provider="slm_adapters", model="m").fail("Timeout")
    for operation, name in (
        (semconv.INVOKE_AGENT, semconv.AGENT_NAME),
        (semconv.EXECUTE_TOOL, semconv.TOOL_NAME),
        (semconv.INVOKE_WORKFLOW, semconv.WORKFLOW_NAME),
    ):
        recorder.span(operation, "a", attributes={name: "a"}).end()


@contextlib.contextmanager
def server(program: str, scraped: int) -> Iterator[str]:
    """A Prometheus of its own on a free port, reading ``scraped`` every second."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "prometheus.yml"
        job = {"job_name": "check", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
        # JSON is YAML.
        config.write_text(
            json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}),
            encoding="utf-8",
        )
        running = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            running.wait(30)


def values(url: str, query: str) -> list[float]:
    """What the query finds now: NaN, which Grafana draws as nothing, left out."""
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise SystemExit(f"wrong: Prometheus refused {query}: {error.read().decode()}") from error
    except OSError:
        return []  # it is still starting
    found = [float(series["value"][1]) for series in result]
    return [value for value in found if math.isfinite(value)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
