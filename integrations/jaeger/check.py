"""Send the demo's traces to Jaeger and read them back through its query API.

Exit code 0: the traces are there and whole, or no Jaeger answered (it says which). 1: they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

EXPECTED = {"invoke_workflow", "invoke_agent", "chat", "execute_tool"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--otlp", default="http://localhost:4318", help="where Jaeger takes spans")
    parser.add_argument("--query", default="http://localhost:16686", help="Jaeger's page and API")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds until traces must show")
    options = parser.parse_args()
    try:
        get(options.query, "/api/services")
    except (OSError, ValueError) as error:
        print(
            f"skipped: no Jaeger answers at {options.query} ({error}). Start one with "
            "`docker compose -f integrations/jaeger/compose.yaml up -d` and run this again."
        )
        return 0
    service = f"slm-adapters-check-{uuid.uuid4().hex[:8]}"
    send_demo(options.otlp, service)
    traces = read_back(options.query, service, options.wait)
    problems = faults(traces)
    count = sum(len(trace["spans"]) for trace in traces)
    print(f"{service}: {len(traces)} traces, {count} spans read back")
    for problem in problems:
        print("wrong:", problem)
    return 1 if problems else 0


def send_demo(otlp: str, service: str) -> None:
    """Two tickets of the demo, both frameworks, as any user would run it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "slm_adapters", "demo", "--tickets", "2"]
        subprocess.run(
            [*command, "--otlp", otlp, "--output", folder],
            env=os.environ | {"OTEL_SERVICE_NAME": service},
            stdout=subprocess.DEVNULL,
            check=True,
        )


def read_back(query: str, service: str, wait_s: float) -> list[dict[str, Any]]:
    """The service's traces, as soon as their number stays the same for two seconds."""
    arguments = urllib.parse.urlencode({"service": service, "limit": 200, "lookback": "1h"})
    deadline, before = time.monotonic() + wait_s, -1
    while True:
        traces: list[dict[str, Any]] = get(query, f"/api/traces?{arguments}")["data"]
        spans = sum(len(trace["spans"]) for trace in traces)
        if (spans and spans == before) or time.monotonic() > deadline:
            return traces
        before = spans
        time.sleep(2)


def faults(traces: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the traces: none, a kind of span missing, a parent that is not there."""
    if not traces:
        return ["no trace of this run arrived"]
    found = {span["operationName"].split()[0] for trace in traces for span in trace["spans"]}
    problems = [f"no {name} span arrived" for name in sorted(EXPECTED - found)]
    for trace in traces:
        ids = {span["spanID"] for span in trace["spans"]}
        for span in trace["spans"]:
            parents = {ref["spanID"] for ref in span.get("references", ())}
            if parents - ids:
                problems.append(f"{span['operationName']} has a parent outside its trace")
    return problems


def get(base: str, path: str) -> Any:
    """A JSON answer of the query API."""
    with urllib.request.urlopen(base.rstrip("/") + path, timeout=5) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
