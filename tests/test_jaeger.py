"""The Jaeger check: skips clearly without Jaeger, and finds what is wrong with traces."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "integrations" / "jaeger" / "check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("jaeger_check", CHECK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def span(name: str, number: str, parent: str | None = None) -> dict:
    references = [{"refType": "CHILD_OF", "spanID": parent}] if parent else []
    return {"operationName": name, "spanID": number, "references": references}


WHOLE = [
    span("invoke_workflow desk", "1"),
    span("invoke_agent Triage", "2", "1"),
    span("chat bundled", "3", "2"),
    span("execute_tool lookup_order", "4", "2"),
]


def test_without_jaeger_it_skips_with_the_command_to_type() -> None:
    """No server: exit code 0 and one sentence saying how to start one."""
    done = subprocess.run(
        [sys.executable, str(CHECK), "--query", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: no Jaeger answers at http://127.0.0.1:9")
    assert "docker compose" in done.stdout


def test_it_tells_whole_traces_from_broken_ones(check) -> None:
    """A missing kind of span, a parent that is elsewhere, or nothing at all is a fault."""
    assert check.faults([{"spans": WHOLE}]) == []
    assert check.faults([]) == ["no trace of this run arrived"]
    assert check.faults([{"spans": WHOLE[:3]}]) == ["no execute_tool span arrived"]
    broken = [*WHOLE, span("chat lost", "5", "99")]
    assert check.faults([{"spans": broken}]) == ["chat lost has a parent outside its trace"]


@pytest.mark.server
def test_the_demo_arrives_in_a_real_jaeger() -> None:
    """With a Jaeger on this machine, the demo's traces come back whole."""
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, timeout=600)
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
