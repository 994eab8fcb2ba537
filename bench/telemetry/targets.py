"""What slm-adapters holds itself to, beside the floor and the best other integration of the run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import counts
import peers

OURS = "slm-adapters"
FLOORS = ("floor-otel", "floor-handler", "floor-content")
QUIET = ("none", "none-again", "noop-handler", "noop-inline")
CLOSER = Path(__file__).parent / "results" / "closer.json"
#: Rows of ``closer.py``, and the most they may be of the floor: as where the targets were set.
CALL_BY_CALL = {
    "invoke": 1.25,
    "invoke with content": 1.25,
    "invoke, not sampled": 40 / 31,
    "ainvoke": 1.3,
    "a chunk of 200": 2.5 / 2.0,
    "create_agent loop": 0.65 / 0.42,
}
#: What importing OpenLLMetry beside langchain took where the imports' target was set, ms.
IMPORT_WHERE = 267


def render(R):
    """The first table of a report: one row per target, judged by this run, or call by call, or counted."""
    rows = [row for make in ROWS for row in make(R)]
    if not rows:
        return ""
    head = ("what", "target", OURS, "floor", "best other", "met")
    met = [row[-1] for row in rows]
    lines = ["### Targets\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    lines.append(
        f"\n{met.count('yes')} of {len(met)} met. Times are added to the untraced call, median "
        "(min…max) over rounds; ratios are of the medians, with min…max of the same round's. "
        "*Best other*: the lowest median of the integrations that do this at all; what it gets "
        "wrong is in the tables below.\n"
    )
    return "\n".join(lines)


def versions(R):
    """Every package measured, as its own environment reported it."""
    by_package = {}
    for targets in R["info"].values():
        for info in targets.values():
            for package, version in info.get("versions", {}).items():
                by_package.setdefault(package, set()).add(version)
    listed = ", ".join(f"{p} {' / '.join(sorted(v))}" for p, v in sorted(by_package.items()))
    failed = [
        f"{name} ({target}): {info['failed']}"
        for name, targets in R["info"].items()
        for target, info in targets.items()
        if "failed" in info
    ]
    python = {i["python"] for t in R["info"].values() for i in t.values() if "python" in i}
    text = f"Python {', '.join(sorted(python))}; {listed}.\n"
    return text + ("Did not start: " + "; ".join(failed) + ".\n" if failed else "")


# Cells


def num(x, digits=0):
    return f"{x:,.{digits}f}"


def spread(s, digits=0, scale=1.0, unit=""):
    if not s:
        return "–"
    low, high = num(s["min"] * scale, digits), num(s["max"] * scale, digits)
    return f"{num(s['med'] * scale, digits)} ({low}…{high}){unit}"


def yes(condition):
    return "yes" if condition else "**no**"


def best(rows, value, names):
    """The other integration with the lowest value, as (name, value); None without any."""
    found = [(value(rows[n]), n) for n in names if n in rows and value(rows[n]) is not None]
    return min(found, default=None)


def others(R, key):
    """Integrations that are neither ours nor a floor nor a control, and make LLM spans."""
    return [
        n for n in R.get(key, {}) if not n.startswith(OURS) and n not in FLOORS and n not in QUIET
    ]


def median(x):
    return (x.get("added") or {}).get("med")


# Rows


def call_by_call(found):
    """The table of ``closer.py``."""
    head = ("added by", "untraced µs", "floor µs", "slm-adapters µs", "x the floor (95 %)",
            "fastest tenth: floor, ours µs", "x the floor (95 %)", "target")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in found.items():
        mid, fast = row["median"], row["fastest tenth"]
        cells = (
            name, num(mid["untraced"], 1), num(mid["floor"], 1), num(mid["ours"], 1),
            times_floor(mid), f"{num(fast['floor'], 1)}, {num(fast['ours'], 1)}",
            times_floor(fast), num(CALL_BY_CALL[name], 2),
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    turns = sorted({row["turns"] for row in found.values()})
    return "\n".join(lines) + f"\n\n{' to '.join(num(n) for n in turns)} turns of each row.\n"


def times_floor(x):
    return f"{num(x['ratio'], 2)} ({num(x['low'], 2)}…{num(x['high'], 2)})"


def closer(label, row, get, rivals=None, extra=None):
    """A LangChain call, judged by ``closer.py``: processes differ by more than a span costs.

    The best other integration is the big run's; ``extra(R)``: (also required, its words).
    """

    def make(R):
        data, limit = get(R), CALL_BY_CALL[row]
        if not data:
            return
        rival = best(data, median, rivals or others(R, "A_async"))
        told = f"{rival[1]} {spread(data[rival[1]]['added'], 1, unit=' µs')}" if rival else "–"
        target = f"at most {num(limit, 2)} x the floor"
        if not CLOSER.exists():
            yield label, target, "not measured: run closer.py", "–", told, "not measured"
            return
        found = json.loads(CLOSER.read_text())[row]["median"]
        also, words = extra(R) if extra else (True, "")
        yield (
            label,
            target,
            f"{times_floor(found)} x: {num(found['ours'], 1)} µs" + (f"; {words}" if words else ""),
            f"{num(found['floor'], 1)} µs",
            told,
            verdict(found["low"], found["high"], limit) if also else yes(False),
        )

    return make


def as_rows(spreads):
    """Plain spreads in the shape of the others."""
    return {n: {"added": s} for n, s in (spreads or {}).items()}


def agent_spans(R):
    spans = R["C"][OURS]["spans"]
    return spans == 4, f"{num(spans)} spans a run"


def quantile(xs, part):
    xs = sorted(xs)
    return xs[int(part * (len(xs) - 1))]


def cost(data, part, times=2000):
    """What tracing adds at a quantile of the kickoffs, and its 95 % bootstrap interval.

    The fastest tenth is the machine left alone; its median has other programs in it.
    """
    seeded = random.Random(0)
    rounds = list(zip(data["traced"], data["untraced"], strict=True))

    def added(some):
        return quantile([x for t, _ in some for x in t], part) - quantile(
            [x for _, u in some for x in u], part
        )

    drawn = sorted(added(seeded.choices(rounds, k=len(rounds))) for _ in range(times))
    return added(rounds), drawn[times // 40], drawn[-times // 40]


def verdict(low, high, limit):
    """Of an interval: on which side of the limit it lies."""
    return "undecided" if low <= limit < high else yes(high <= limit)


def counted(name, what, cheapest, extra=None, beside=None):
    """By what ``instructions.py`` counted: by time it wanders by more than an integration adds.

    ``cheapest``: the words for the integrations that do as much. ``extra(counts)``: (also required,
    its words). ``beside``: the floor, where that is not the bare spans.
    """
    op = counts.OPERATIONS[name]
    target = (
        f"at most {op.target} {op.unit} where the cheapest integration with {cheapest} takes "
        f"{op.cheapest}: {num(op.limit, 2)} x that one"
    )

    def make(R):
        data, floor = op.load(), beside or counts.FLOOR
        if data is None or not data.has(OURS, floor):
            yield what, target, "not counted: run instructions.py", "–", "–", "not counted"
            return
        cell = lambda n: f"{data.millions(n)} million"  # noqa: E731
        rival = data.rivals()[0]
        value, low, high = data.ratio(OURS, rival)
        added = data.added(OURS)[0]
        part, here = added / data.plain(), added / data.rate()[0] * op.per_ms
        also, words = extra(data) if extra else (True, "")
        digits = 1 if op.per_ms == 1 else 0
        yield (
            what,
            target,
            f"{num(value, 2)} x ({num(low, 2)}…{num(high, 2)}): {cell(OURS)}, {part:.1%} of the "
            f"{op.name}, about {num(here, digits)} {op.unit} here, "
            f"{num(part * op.untraced, digits)} where that takes {op.untraced:,}"
            + (f"; {words}" if words else ""),
            cell(floor) + (f"; ours {num(data.ratio(OURS, floor)[0], 2)} x" if beside else ""),
            f"{rival} {cell(rival)}",
            verdict(low, high, op.limit) if also else yes(False),
        )

    return make


def one_span(data):
    spans = data.counted[OURS]["spans"][0]
    return spans == 1, f"{spans} span a call"


def crew_truth(R):
    import report

    shape, tree = (R.get(k, {}).get(OURS) for k in ("D_shape", "D_trees"))
    if not shape or not tree or "error" in tree:
        return
    crew = shape["crew"]
    llm = [x for x in crew["spans"] if peers.is_llm(x["name"], x["attributes"])]
    counted = sum("gen_ai.usage.input_tokens" in x["attributes"] for x in llm)
    total, a, b = report.crew_usage(crew), tree["serial"], tree["threads"]
    inside = not (a["detached"] or b["detached"])
    wrong = b["wrong"] + b["orphans"]
    ways = [tree[k] for k in ("akickoff", "kickoff_async")]
    same = all("error" not in w and not w["wrong"] and not w["detached"] for w in ways)
    totals = {n: report.crew_usage(R["D_shape"][n].get("crew")) for n in others(R, "D_shape")}
    right = [n for n, t in totals.items() if t == "912"]
    yield (
        "the same kickoff: LLM spans with tokens; total of the run; in the caller's trace; "
        "same tree for kickoff, kickoff_async, akickoff",
        "2 of 2; 912; yes; yes",
        f"{counted} of {len(llm)}; {total}; {'yes' if inside else 'no'}, {wrong} of "
        f"{b['requests']} threaded trees wrong; {'yes' if same else 'no'}",
        "–",
        "right total: " + (", ".join(right) or "none"),
        yes(counted == len(llm) == 2 and total == "912" and inside and not wrong and same),
    )


def wire(R):
    data = R.get("wire") or {}
    for ours, floor, limit in (
        (OURS, "floor-handler", 600),
        (f"{OURS}+content", "floor-content", 3900),
    ):
        if ours in data:
            rivals = [n for n in others(R, "wire") if ("+content" in n) == ("+" in ours)]
            rival = best(data, lambda x: x, rivals)
            yield (
                "bytes on the wire a call" + (", with content" if "+" in ours else ""),
                f"at most {limit:,}",
                num(data[ours]),
                num(data.get(floor, float("nan"))),
                f"{rival[1]} {num(rival[0])}" if rival else "–",
                yes(data[ours] <= limit),
            )


_BAD = ("wrong", "orphans", "after_wrong", "detached", "never_ended", "contaminated")


def concurrency(R):
    data = R.get("F") or {}
    if "threads" not in data.get(OURS, {}):
        return

    def faults(name):
        x = data[name]
        if "threads" not in x:
            return None
        lost = (640 - x["threads"]["llm_spans"]) + (200 - x["async"]["llm_spans"])
        return lost + sum(x[way][key] for way in ("threads", "async") for key in _BAD)

    def nested(name):
        ways = [data[name][way]["inner_parent"] for way in ("threads", "async")]
        return all(list(w) == ["chat canned-1"] for w in ways)

    clean = [n for n in others(R, "F") if faults(n) == 0 and nested(n)]
    yield (
        "8 threads and 100 tasks: spans wrong, lost, orphaned, misparented, outside the trace; "
        "a span made inside the model is under its chat span",
        "0; yes",
        f"{faults(OURS)}; {'yes' if nested(OURS) else 'no'}",
        f"{faults('floor-handler')}; no" if "floor-handler" in data else "–",
        ", ".join(clean) or "none",
        yes(faults(OURS) == 0 and nested(OURS)),
    )


def failures(R):
    data = R.get("G_err") or {}
    ours = data.get(OURS)
    if not ours or "error" in ours:
        return

    def open_ones(name):
        if "error" in data[name]:
            return None
        return sum(max(x["never_ended"], 0) for x in data[name].values())

    alive = sum(x["alive"] > 2 for x in ours.values())
    failed = ("invoke raises", "stream raises at 5", "agent tool raises")
    marked = all(ours[case]["error_type"] > 0 for case in failed)
    clean = [n for n in others(R, "G_err") if open_ones(n) == 0]
    yield (
        f"{len(ours)} kinds of failure and cancellation: spans never ended; kinds that leave "
        "live spans; error.type on what failed",
        "0; 0; yes",
        f"{open_ones(OURS)}; {alive}; {'yes' if marked else 'no'}",
        f"{open_ones('floor-handler')} never ended" if "floor-handler" in data else "–",
        "0 never ended: " + (", ".join(clean) or "none"),
        yes(open_ones(OURS) == 0 and not alive and marked),
    )


def memory(R):
    data = R.get("G_mem") or {}
    if "rss_kb" not in data.get(OURS, {}):
        return

    def grown(x):
        return x["rss_kb"] / 1024 if "rss_kb" in x else None

    ours, rival = data[OURS], best(data, grown, others(R, "G_mem"))
    kept, unsampled = ours["objects"] / ours["n"], ours["unsampled_objects_per_call"]
    yield (
        f"{ours['n']:,} calls: growth; objects kept a call, sampled and not",
        "under 1.5 MB; 0; 0",
        f"{num(grown(ours), 1)} MB; {num(abs(kept), 2)}; {num(abs(unsampled), 2)}",
        f"{num(grown(data['floor-handler']), 1)} MB" if "floor-handler" in data else "–",
        f"{rival[1]} {num(rival[0], 1)} MB" if rival else "–",
        yes(grown(ours) < 1.5 and abs(kept) < 0.005 and abs(unsampled) < 0.005),
    )


def imports(R):
    """Milliseconds on a machine as fast at importing a peer as the one the target was set on."""
    data = R.get("H") or {}
    peer = (data.get("openllmetry") or {}).get("ms")
    allowed = max(20, 20 * peer["med"] / IMPORT_WHERE) if peer else 20
    for ours, host in ((OURS, "langchain"), (f"{OURS} (crewai)", "crewai")):
        if data.get(ours, {}).get("ms"):
            parts = ("opentelemetry-sdk", "otlp-http exporter")
            rivals = [
                n for n, x in data.items() if x["host"] == host and n != ours and n not in parts
            ]
            rival = best(data, lambda x: x["ms"] and x["ms"]["med"], rivals)
            yield (
                f"import and construction beside {host}",
                f"at most 20 ms where OpenLLMetry takes {IMPORT_WHERE} beside langchain, "
                "the same share where that takes longer",
                spread(data[ours]["ms"], 1, unit=" ms"),
                f"OpenLLMetry {spread(peer, 0, unit=' ms')}" if peer else "–",
                f"{rival[1]} {spread(data[rival[1]]['ms'], 1, unit=' ms')}" if rival else "–",
                yes(data[ours]["ms"]["med"] <= allowed),
            )


WITH_CONTENT = ("openinference", "openllmetry", "langfuse", "langsmith-otel", "logfire", "mlflow",
                "openlit", "otel-genai+content")  # fmt: skip
ROWS = (
    closer("LangChain `invoke`", "invoke", lambda R: (R.get("A") or {}).get("noop")),
    closer(
        "LangChain `invoke`, with prompt and reply", "invoke with content",
        lambda R: (R.get("A") or {}).get("noop"), WITH_CONTENT,
    ),
    closer(
        "LangChain `invoke`, not sampled", "invoke, not sampled", lambda R: R.get("A_unsampled")
    ),
    closer("LangChain `ainvoke`", "ainvoke", lambda R: R.get("A_async")),
    closer(
        "streaming, a chunk, with the time to the first", "a chunk of 200",
        lambda R: as_rows(R.get("B_chunk")),
    ),
    closer(
        "`create_agent` loop, one tool", "create_agent loop", lambda R: R.get("C"),
        extra=agent_spans,
    ),
    counted(
        "kickoff", "CrewAI kickoff, 2 agents and 2 tasks, instructions of all threads",
        "spans and tokens of model calls",
    ),
    crew_truth,
    counted(
        "completion", "`litellm.completion`, instructions of all threads to the last report",
        "a span and tokens of the call", one_span, "floor-handler",
    ),
    counted(
        "acompletion", "`litellm.acompletion`, the same", "a span and tokens of the call", one_span,
        "floor-handler",
    ),
    wire,
    concurrency,
    failures,
    memory,
    imports,
)  # fmt: skip
