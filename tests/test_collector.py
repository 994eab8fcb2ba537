"""The collector's configuration is sound, and its check finds what is not."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from otlp_receiver import http_receiver

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: no configuration to read")

FOLDER = Path(__file__).parent.parent / "integrations" / "otel-collector"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("collector_check", FOLDER / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config():
    return yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))


def test_the_configuration_is_sound(check, config) -> None:
    """Wired, in order, and deleting exactly the content we may write."""
    assert check.faults(config) == []


def test_its_check_finds_what_is_wrong(check, config) -> None:
    """A part that is missing, unused, out of order, or a content key forgotten."""
    broken = copy.deepcopy(config)
    traces = broken["service"]["pipelines"]["traces"]
    traces["processors"] = ["batch", "redact"]
    broken["processors"]["attributes/no-content"]["actions"].pop(0)
    broken["processors"]["redaction/personal"]["blocked_values"] = ["("]
    broken["exporters"]["debug"] = {}
    found = "\n".join(check.faults(broken))
    for part in (
        "uses processors redact",
        "exporters debug is in no pipeline",
        "does not limit memory first",
        "does not batch last",
        "gen_ai.input.messages holds content and is not deleted",
        "does not compile",
    ):
        assert part in found


def test_no_other_content_attribute_exists(check) -> None:
    """Whatever semconv calls messages, arguments, results, definitions or queries is covered."""
    import re

    from slm_adapters.telemetry import semconv

    names = [value for name, value in vars(semconv).items() if isinstance(value, str)]
    looks = re.compile(r"^gen_ai\..*(messages|arguments|result|definitions|query\.text)$")
    text = (FOLDER / "config.yaml").read_text(encoding="utf-8")
    content = [name for name in names if looks.match(name)]
    assert len(content) >= 7
    assert [name for name in content if name not in text] == []


def test_without_a_collector_it_skips_with_a_sentence() -> None:
    """The offline part runs, the other says what is missing."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / "check.py"), "--otlp", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "config.yaml: 0 faults" in done.stdout
    assert "skipped: no collector answers at http://127.0.0.1:9" in done.stdout


def test_spans_are_sent_to_what_answers(check) -> None:
    """A real OTLP receiver takes the run."""
    with http_receiver() as receiver:
        assert check.answers(receiver.endpoint)
        assert check.sent(receiver.endpoint)
        names = {span.name for span in receiver.spans()}
    assert names == {"invoke_workflow check", "chat none"}
