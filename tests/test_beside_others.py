"""Beside another tracer there is one LLM span and one record, in either of the README's ways."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "integrations" / "beside-others" / "check.py"


def load():
    spec = importlib.util.spec_from_file_location("beside_check", CHECK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS = load().PEERS


@pytest.mark.parametrize("way", ["ours", "theirs"])
@pytest.mark.parametrize("peer", PEERS)
def test_one_llm_span_and_one_record(peer, way) -> None:
    """With the real tracer where it is installed; a loud skip where it is not."""
    check = load()
    module = PEERS[peer]
    if not check.installed(module, peer.split()[1]):
        pytest.skip(f"{module} is not installed: {peer} was NOT tested here")
    result = check.in_a_process(peer, way)
    wanted = 0 if (peer, way) in check.BLIND else 1
    assert (result.get("llm_spans"), result.get("records")) == (wanted, 1), result


def test_the_check_says_what_it_skipped_and_counts_spans() -> None:
    """A line per tracer; the marks of all of them are known."""
    done = subprocess.run(
        [sys.executable, str(CHECK)], env=os.environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for peer in PEERS:
        assert peer in done.stdout
    check = load()

    class Span:
        def __init__(self, **attributes: str) -> None:
            self.attributes = {key.replace("__", "."): value for key, value in attributes.items()}

    assert check.is_llm(Span(gen_ai__operation__name="chat"))
    assert check.is_llm(Span(openinference__span__kind="LLM"))
    assert not check.is_llm(Span(gen_ai__operation__name="execute_tool"))


@pytest.mark.parametrize("framework", ["langchain", "crewai"])
def test_the_recorder_without_spans_keeps_its_records(framework, spans) -> None:
    """The second way on its own: nothing exported, the call is there."""
    check = load()
    done = []
    from opentelemetry.trace import NoOpTracerProvider

    recorder = check._recorder(framework)(tracer_provider=NoOpTracerProvider(), hooks=[done.append])
    with spans.provider.get_tracer("theirs").start_as_current_span("their span") as theirs:
        (check._langchain if framework == "langchain" else check._crew)(recorder, [])
        assert theirs.is_recording()
    recorder.close()
    assert len(done) == 1
    assert [span.name for span in spans.all()] == ["their span"]
    assert done[0].trace_id == f"{theirs.get_span_context().trace_id:032x}"
