"""The house: layers, public names, a light import, and every extra absent."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import slm_adapters

SOURCE = Path(slm_adapters.__file__).parent

#: Lowest first. A module may import its own layer's folder and anything below, nothing beside.
LAYERS = [
    {"errors"},
    {"messages", "scope"},
    {"calls"},
    {"telemetry", "store", "engine", "models"},
    {"routing", "testing", "recording"},
    {"langchain", "crewai", "litellm", "pipeline"},
    {"demo", "fit_table"},
    {"cli", "main"},
]
#: The one neighbour allowed: the store reports failures the way telemetry does, and engines
#: name what they put on spans.
NEIGHBOURS = {
    ("store", "telemetry"),
    ("engine", "telemetry"),
    ("engine", "models"),
    ("main", "cli"),
}


def part_of(path: Path) -> str:
    """``engine`` for engine/loader.py; a private package belongs to the module it serves."""
    top = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return top.strip("_")


def imports_of(path: Path) -> set[str]:
    """The parts of slm_adapters a file imports when it runs, at any depth of the code."""
    package = ["slm_adapters", *path.relative_to(SOURCE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += (node.module or "").split(".") if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "slm_adapters" and len(parts) > 1:
                found.add(parts[1].strip("_"))
    return found - {"version"}


def test_imports_point_down_only() -> None:
    """No file imports a layer above its own, or a neighbour it has no business with."""
    level = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = part_of(path)
        if here == "init":
            continue
        assert here in level, f"{path} is in no layer: add it to LAYERS"
        for part in imports_of(path):
            if part == here:
                continue
            if level[part] > level[here] or (
                level[part] == level[here] and (here, part) not in NEIGHBOURS
            ):
                wrong.append(f"{path.relative_to(SOURCE)} imports {part}")
    assert not wrong, wrong


def test_the_layer_check_can_fail(tmp_path, monkeypatch) -> None:
    """The reader of imports sees relative, absolute and nested ones."""
    file = SOURCE / "engine" / "engine.py"
    assert imports_of(file) >= {"calls", "errors"}
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "engine").mkdir()
    bad = tmp_path / "engine" / "bad.py"
    bad.write_text("def f():\n    from ..crewai import SLM\n    import slm_adapters.cli\n")
    assert imports_of(bad) == {"crewai", "cli"}


PUBLIC = {
    "slm_adapters": [
        "Call", "CallStore", "Label", "Message", "Recorder", "Reply", "SLMAdaptersError", "Tool",
        "ToolCall", "TraceExport", "Usage", "export_traces", "role", "run", "swap",
    ],
    "slm_adapters.crewai": ["CallRecorder", "SLM", "instrument", "swap", "traced", "uninstrument"],
    "slm_adapters.langchain": ["CallRecorder", "ChatSLM", "instrument", "traced", "uninstrument"],
    "slm_adapters.litellm": [
        "CallRecorder", "instrument", "register", "uninstrument", "unregister",
    ],
    "slm_adapters.routing": [
        "Answer", "Breaker", "Check", "Confident", "Consistent", "Copied", "RoutedEngine", "Router",
        "Within",
    ],
    "slm_adapters.testing": ["ScriptedModel", "captured_calls"],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_these_and_all_exist(module) -> None:
    """The list users may rely on; changing it is a decision, not an accident."""
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module])
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def run_python(program: str) -> str:
    """Run a program in a new interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    """No framework, no torch, under 0.3 s of CPU."""
    program = """
import time, sys, json
start = time.process_time()
import slm_adapters
spent = time.process_time() - start
heavy = ["torch", "transformers", "crewai", "langchain_core", "litellm", "bitsandbytes",
         "sqlalchemy", "opentelemetry.sdk", "jsonschema", "rich", "typer", "httpx"]
print(json.dumps([spent, [name for name in heavy if name in sys.modules]]))
"""
    spent, heavy = json.loads(run_python(program))
    assert heavy == []
    assert spent < 0.3


@pytest.mark.parametrize("framework", ["langchain", "crewai"])
def test_a_recorder_of_spans_brings_nothing_along_for_records(framework) -> None:
    """The record's class, events and their packages, the store and the engine come when used."""
    program = f"""
import json, sys
{"import crewai" if framework == "crewai" else "import langchain_core.language_models.chat_models"}
before = set(sys.modules)
from slm_adapters.{framework} import CallRecorder
CallRecorder()
late = ["slm_adapters.calls", "slm_adapters.telemetry.events", "slm_adapters.store.database",
        "slm_adapters.engine", "slm_adapters.routing", "opentelemetry._logs"]
print(json.dumps([name for name in late if name in set(sys.modules) - before]))
"""
    assert json.loads(run_python(program)) == []


#: (statement, package made absent, extra the message must name)
ABSENT = [
    (
        "from slm_adapters.engine.loader import load_engine; "
        "load_engine('m', base_url='http://localhost/v1')",
        "httpx",
        "remote",
    ),
    ("import slm_adapters.crewai", "crewai", "crewai"),
    ("import slm_adapters.langchain", "langchain_core", "langchain"),
    ("import slm_adapters.litellm", "litellm", "litellm"),
    ("from slm_adapters import swap", "crewai", "crewai"),
    ("from slm_adapters import export_traces; export_traces()", "opentelemetry.sdk", "otlp"),
    (
        "from slm_adapters.engine.loader import load_engine; load_engine('bundled').warm_up()",
        "torch",
        "local",
    ),
    (
        "from slm_adapters.engine.loader import load_engine; load_engine('bundled').warm_up()",
        "transformers",
        "local",
    ),
    (
        "from slm_adapters.engine.loader import load_engine; "
        "load_engine('bundled', quantization='nf4').warm_up()",
        "bitsandbytes",
        "local",
    ),
]


@pytest.mark.parametrize(("statement", "package", "extra"), ABSENT)
def test_an_absent_extra_names_the_command_to_type(statement, package, extra) -> None:
    """One sentence: what was used, what is missing, the line to type."""
    program = f"""
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {package!r} or name.startswith({package!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import slm_adapters
try:
    exec({statement!r})
except ImportError as error:
    print(type(error).__name__, str(error))
else:
    print("no error")
"""
    printed = run_python(program).strip()
    assert printed.startswith("MissingExtraError "), printed
    assert f"pip install 'slm-adapters[{extra}]'" in printed
    assert printed.count("\n") == 0
