"""The command line: what it prints, what it refuses, and the demo with the bundled model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slm_adapters
from slm_adapters import CallStore, __version__
from slm_adapters.calls import Call, Usage
from slm_adapters.cli import app

BUNDLED = Path(slm_adapters.__file__).parent / "models" / "bundled"


def invoke(*arguments: str):
    """(exit code, everything printed with single spaces)."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def run_python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program in an interpreter and a folder of its own."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_help_teaches_where_to_start() -> None:
    """The first screen names the demo, the one line to add, and how to look at calls."""
    code, text = invoke("--help")
    assert code == 0
    assert "slm-adapters demo" in text
    assert "CallRecorder(store=...)" in text
    for command in ("demo", "calls", "version"):
        assert command in text
    code, text = invoke("demo", "--help")
    assert code == 0
    for option in ("--tickets", "--llm", "--slm", "--quantization", "--folder", "--output",
                   "--otlp", "--framework", "--workers", "--seed"):  # fmt: skip
        assert option in text


def test_version_and_python_dash_m(tmp_path) -> None:
    """``python -m slm_adapters version`` prints the version of the package."""
    assert invoke("version") == (0, f"slm-adapters {__version__}")
    program = (
        "import runpy, sys; sys.argv = ['x', 'version']; "
        "runpy.run_module('slm_adapters', run_name='__main__')"
    )
    done = run_python(program, tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f"slm-adapters {__version__}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tickets", "0"], "--tickets"),
        (["--workers", "0"], "--workers"),
        (["--framework", "autogen"], "--framework"),
        (["--quantization", "q4_k_m"], "--quantization"),
        (["--slm", "no-such-folder/nor-model/at-all"], "no-such-folder/nor-model/at-all"),
        (["--llm", "gpt-4.1-mini"], "needs an API key: set OPENAI_API_KEY"),
        (["--folder", "."], "holds no tickets"),
        (["--output", "a-file/inside"], "name another folder with --output"),
    ],
)
def test_wrong_input_is_one_sentence_with_the_remedy(
    arguments, words, tmp_path, monkeypatch
) -> None:
    """Exit code 2 and no traceback, before anything was computed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Path("a-file").write_text("not a folder")
    code, text = invoke("demo", "--framework", "langgraph", *arguments)
    assert code == 2, text
    assert words in text
    assert "Traceback" not in text


@pytest.mark.parametrize("package", ["crewai", "langgraph", "matplotlib", "jinja2"])
def test_a_missing_package_names_the_command_to_type(package, tmp_path) -> None:
    """Before the run, not after minutes; exit code 2."""
    framework = "crewai" if package == "crewai" else "langgraph"
    program = f"""
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {package!r} or name.startswith({package!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from slm_adapters import cli, testing
from slm_adapters.demo import running, stages
stages.load_engine = running.load_engine = lambda *_, **__: testing.ScriptedModel(["x"])
sys.argv = ["slm-adapters", "demo", "--tickets", "1", "--framework", {framework!r}]
cli.main()
"""
    done = run_python(program, tmp_path)
    assert done.returncode == 2, done.stderr
    text = " ".join(done.stderr.split())
    assert re.search(
        r"needs .*which is not installed: run `pip install 'slm-adapters\[\w+\]'`", text
    )
    assert "Traceback" not in text


@pytest.fixture
def store(tmp_path) -> Path:
    """A store with three calls of two roles."""
    path = tmp_path / "calls.db"
    with CallStore(path) as calls:
        for number, role in enumerate(("Triage", "Triage", "Reply")):
            calls.write(
                Call(f"c{number}", "crewai", role=role, model="gpt", usage=Usage(1000, 5),
                     started_ns=0, ended_ns=(number + 1) * 100_000_000)
            )  # fmt: skip
    return path


def test_calls_shows_a_store_per_role_and_model(store) -> None:
    """Counts, tokens and latencies; ``--role`` narrows it."""
    code, text = invoke("calls", str(store))
    assert code == 0
    assert "Triage gpt 2 0 2,000 10 150 ms 195 ms 0" in text
    assert "Reply gpt 1 0 1,000 5 300 ms 300 ms 0" in text
    code, text = invoke("calls", str(store), "--role", "Reply")
    assert code == 0
    assert "Triage" not in text
    assert "1,000" in text
    assert invoke("calls", str(store), "--role", "Nobody")[0] == 0


def test_calls_refuses_what_is_no_store_and_leaves_it_alone(tmp_path) -> None:
    """A missing file is not created, a foreign file or database not changed."""
    import sqlite3

    missing = tmp_path / "missing.db"
    assert invoke("calls", str(missing))[0] == 2
    assert not missing.exists()
    text = tmp_path / "text.db"
    text.write_text("hello")
    code, printed = invoke("calls", str(text))
    assert (code, text.read_text()) == (2, "hello")
    assert "is no call store: name the file" in printed
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE mine (x)")
    before = foreign.read_bytes()
    assert invoke("calls", str(foreign))[0] == 2
    assert foreign.read_bytes() == before


@pytest.mark.skipif(
    not (BUNDLED / "model.safetensors").is_file(),
    reason="NO WEIGHTS in slm_adapters/models/bundled: the demo was not run with its own model",
)
def test_the_demo_runs_with_the_bundled_model(tmp_path) -> None:
    """The command as a user types it: both frameworks, nf4 on this machine, a page at the end."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CREWAI_")
    }
    done = subprocess.run(
        [sys.executable, "-m", "slm_adapters", "demo", "--tickets", "6", "--output", "out"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    text = " ".join(done.stdout.split())
    assert "bundled now answers" in text
    assert "quantized nf4" in text
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (tmp_path / "out" / "report.html").stat().st_size > 20_000
    with CallStore(tmp_path / "out" / "demo-calls.db") as calls:
        local = [call for call in calls if call.provider == "slm_adapters"]
    assert {call.framework for call in local} == {"crewai", "langchain"}
    assert {call.attributes["slm_adapters.quantization"] for call in local} == {"nf4"}
