"""Check the collector's configuration, and send a run's spans if a collector answers.

Exit code 0: all is well, or no collector answered (it says which). 1: something is wrong.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).parent
KINDS = ("receivers", "processors", "exporters")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--otlp", default="http://localhost:4318", help="where it takes spans")
    options = parser.parse_args()
    try:
        import yaml
    except ImportError:
        print("skipped: PyYAML is not installed; `pip install pyyaml` and run this again.")
        return 0
    problems = faults(yaml.safe_load(options.config.read_text(encoding="utf-8")))
    print(f"{options.config.name}: {len(problems)} faults")
    if not answers(options.otlp):
        print(
            f"skipped: no collector answers at {options.otlp}. Start one as the README says and "
            "run this again."
        )
    elif not sent(options.otlp):
        problems.append(f"{options.otlp} did not take the spans")
    else:
        print(f"a run's spans were taken at {options.otlp}")
    for problem in problems:
        print("wrong:", problem)
    return 1 if problems else 0


def faults(config: dict[str, Any]) -> list[str]:
    """What a collector, or a reader of the result, would stumble over."""
    return [*_wiring(config), *_order(config), *_content(config), *_patterns(config)]


def _wiring(config: dict[str, Any]) -> list[str]:
    problems, used = [], set()
    for name, pipeline in config["service"]["pipelines"].items():
        for kind in KINDS:
            for part in pipeline.get(kind, ()):
                used.add((kind, part))
                if part not in config.get(kind, {}):
                    problems.append(f"pipeline {name} uses {kind} {part}, which is not defined")
    for kind in KINDS:
        unused = [part for part in config.get(kind, {}) if (kind, part) not in used]
        problems += [f"{kind} {part} is in no pipeline" for part in unused]
    if not {"grpc", "http"} <= set(config["receivers"].get("otlp", {}).get("protocols", ())):
        problems.append("the otlp receiver lacks gRPC or HTTP")
    return problems


def _order(config: dict[str, Any]) -> list[str]:
    problems = []
    for name, pipeline in config["service"]["pipelines"].items():
        processors = pipeline.get("processors") or [""]
        if processors[0] != "memory_limiter":
            problems.append(f"pipeline {name} does not limit memory first")
        if processors[-1] != "batch":
            problems.append(f"pipeline {name} does not batch last")
    return problems


def _content(config: dict[str, Any]) -> list[str]:
    """Every attribute of ours that holds content is deleted, and nothing unknown is."""
    from slm_adapters.telemetry import semconv

    ours = {
        semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.TOOL_DEFINITIONS,
        semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT, semconv.MEMORY_QUERY,
        semconv.RETRIEVAL_QUERY,
    }  # fmt: skip
    actions = config["processors"].get("attributes/no-content", {}).get("actions", ())
    deleted = {action["key"] for action in actions if action["action"] == "delete"}
    problems = [f"{key} holds content and is not deleted" for key in sorted(ours - deleted)]
    return problems + [f"{key} is no attribute we write" for key in sorted(deleted - ours)]


def _patterns(config: dict[str, Any]) -> list[str]:
    problems = []
    for pattern in config["processors"].get("redaction/personal", {}).get("blocked_values", ()):
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(f"the pattern {pattern!r} does not compile: {error}")
    return problems


def answers(otlp: str) -> bool:
    """Whether anything listens there."""
    address = urlsplit(otlp)
    try:
        with socket.create_connection((address.hostname or "", address.port or 4318), timeout=3):
            return True
    except OSError:
        return False


def sent(otlp: str) -> bool:
    """Whether the spans of a small run were taken."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from slm_adapters import Recorder, Usage, export_traces
    from slm_adapters.telemetry import semconv

    provider = TracerProvider(resource=Resource.create({"service.name": "slm-adapters-check"}))
    with export_traces(otlp, provider=provider) as export:
        recorder = Recorder(tracer_provider=provider)
        run = recorder.span(semconv.INVOKE_WORKFLOW, "check")
        call = recorder.open(framework="check", provider="none", model="none", parent=run.context)
        call.finish(usage=Usage(1, 1))
        run.end()
        return export.flush()


if __name__ == "__main__":
    sys.exit(main())
