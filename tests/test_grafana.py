"""The dashboard asks for nothing we do not emit, under either generation of names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum

from slm_adapters import Recorder, Usage, role
from slm_adapters.telemetry import semconv

FOLDER = Path(__file__).parent.parent / "integrations" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
EXPRESSIONS = [
    (panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]
]
_MATCHER = re.compile(r"""(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)\"""")


def prometheus_name(name: str, unit: str) -> str:
    """As the collector's Prometheus exporter writes it; ``{token}`` is no unit."""
    word = {"s": "seconds"}.get(unit, "")
    plain = re.sub(r"\W", "_", name)
    return f"{plain}_{word}" if word else plain


def emitted(monkeypatch, generation: str) -> dict[str, set[str]]:
    """Prometheus metric name -> its labels, after one of everything."""
    monkeypatch.setenv(semconv.OPT_IN_VARIABLE, generation)
    reader = InMemoryMetricReader()
    recorder = Recorder(meter_provider=MeterProvider([reader]))
    with role("triage"):
        call = recorder.open(framework="x", provider="slm_adapters", model="m", streamed=True)
        call.chunk("a")
        call.chunk("b")
        call.note(**{semconv.FALLBACK_REASON: "overflow", semconv.FALLBACK_MODEL: "big"})
        call.finish(usage=Usage(10, 2), response_model="m-1")
        recorder.open(framework="x", provider="slm_adapters", model="m").fail(ValueError("x"))
    for operation, name in (
        (semconv.INVOKE_AGENT, semconv.AGENT_NAME),
        (semconv.EXECUTE_TOOL, semconv.TOOL_NAME),
        (semconv.INVOKE_WORKFLOW, semconv.WORKFLOW_NAME),
    ):
        recorder.span(operation, "a", attributes={name: "a"}).end()
    found: dict[str, set[str]] = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                plain = prometheus_name(metric.name, metric.unit)
                labels = {
                    re.sub(r"\W", "_", key)
                    for point in metric.data.data_points
                    for key in point.attributes
                }
                if isinstance(metric.data, Histogram):
                    found[f"{plain}_bucket"] = labels | {"le"}
                    found[f"{plain}_sum"] = found[f"{plain}_count"] = labels
                elif isinstance(metric.data, Sum):
                    found[f"{plain}_total"] = labels
    return found


def asked(expression: str) -> list[tuple[re.Pattern[str], set[str]]]:
    """Each selector of a PromQL expression: which metrics, with which labels."""
    found = []
    grouped = {
        label.strip()
        for labels in re.findall(r"by \(([^)]*)\)", expression)
        for label in labels.split(",")
    }
    for name, inside in re.findall(r"([a-z]\w*)?(?:\{([^}]*)\})?\[\$__rate_interval\]", expression):
        matchers = _MATCHER.findall(inside)
        labels = {label for label, _, _ in matchers if label != "__name__"}
        pattern = name or next(value for label, _, value in matchers if label == "__name__")
        found.append((re.compile(pattern), labels | grouped))
    return found


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_metric_and_label_is_one_we_emit(title, expression, monkeypatch) -> None:
    """Each selector finds a metric in one generation at least; each query does in both."""
    generations = [emitted(monkeypatch, name) for name in ("", "gen_ai_latest_experimental")]
    everything = {**generations[0], **generations[1]}
    selectors = asked(expression)
    assert selectors, f"{title}: no selector found in {expression}"
    for pattern, labels in selectors:
        metrics = [name for name in everything if pattern.fullmatch(name)]
        assert metrics, f"{title}: {pattern.pattern} is nothing we emit"
        for name in metrics:
            assert labels <= everything[name], f"{title}: {name} has no {labels - everything[name]}"
    for generation in generations:
        assert any(p.fullmatch(name) for p, _ in selectors for name in generation), title


def test_the_reader_of_queries_sees_a_wrong_one(monkeypatch) -> None:
    """A metric or a label of somebody else's is found out."""
    everything = emitted(monkeypatch, "")
    ((pattern, labels),) = asked(
        'sum by (nope) (rate(gen_ai_client_token_usage_sum{a="b"}[$__rate_interval]))'
    )
    assert pattern.fullmatch("gen_ai_client_token_usage_sum")
    assert labels == {"nope", "a"}
    assert not labels <= everything["gen_ai_client_token_usage_sum"]
    assert "gen_ai_client_tokens_sum" not in everything


def test_the_dashboard_shows_what_it_promises() -> None:
    """The panels of the README are there, each with a unit, a source and an id of its own."""
    titles = " ".join(panel["title"].lower() for panel in DASHBOARD["panels"])
    for word in ("calls", "errors", "p50", "p95", "tokens", "first chunk", "fallbacks", "agents"):
        assert word in titles
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${source}"


def test_the_variable_s_query_names_a_metric_we_emit(monkeypatch) -> None:
    """The list of models is read from the duration's label."""
    (variable,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "model"]
    pattern = re.search(r'__name__=~"([^"]*)"', variable["query"]["query"]).group(1)
    found = emitted(monkeypatch, "")
    (name,) = [name for name in found if re.fullmatch(pattern, name)]
    assert "gen_ai_request_model" in found[name]


@pytest.mark.parametrize(
    ("name", "kept"), [("triage", True), ("Desk for order 123456", False), ("x" * 65, False)]
)
def test_a_role_is_a_label_only_if_there_are_few(name, kept) -> None:
    """A role made per run would make a series per run."""
    reader = InMemoryMetricReader()
    recorder = Recorder(meter_provider=MeterProvider([reader]))
    recorder.open(framework="x", provider="p", model="m", role=name).finish()
    data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data
    assert (data.data_points[0].attributes.get(semconv.ROLE) == name) is kept


def test_the_compose_file_mounts_what_exists() -> None:
    """Every mounted file is in the repository."""
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    mounts = re.findall(r"- (\.\.?/[^:]+):", text)
    assert len(mounts) == 4
    assert [mount for mount in mounts if not (FOLDER / mount).exists()] == []


CHECK = FOLDER / "check.py"


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECK), *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.mark.server
def test_a_real_prometheus_answers_every_panel() -> None:
    """Both generations, scraped from this package's own metrics."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on the PATH (Debian: apt-get install prometheus)")
    done = run_check()
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(EXPRESSIONS)
    for generation in ("1.41", "latest"):
        assert f"{generation}: {count} queries, {count} answered" in done.stdout


@pytest.mark.server
def test_the_check_finds_a_panel_that_stays_empty(tmp_path) -> None:
    """A metric nobody emits, and a query Prometheus cannot read."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on the PATH (Debian: apt-get install prometheus)")
    shutil.copy(CHECK, tmp_path / "check.py")
    for expression, said in (("rate(nobody_total[$__rate_interval])", "no data"), ("(", "refused")):
        panel = {"title": "Wrong", "targets": [{"expr": expression}]}
        (tmp_path / "dashboard.json").write_text(json.dumps({"panels": [panel]}), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(tmp_path / "check.py"), "--wait", "5"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 1
        assert said in done.stdout + done.stderr


def test_without_prometheus_the_check_skips_with_a_sentence() -> None:
    """It names what to install."""
    pytest.importorskip("opentelemetry.exporter.prometheus")
    done = run_check("--prometheus", "")
    assert done.returncode == 0, done.stderr
    assert "skipped: no prometheus on the PATH" in done.stdout
