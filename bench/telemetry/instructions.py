#!/usr/bin/env python3
"""What tracing adds to a CrewAI kickoff, in instructions: a kickoff's time wanders by more.

    python bench/telemetry/instructions.py --venvs DIR [--peers a,b] [--kickoffs 12] [--jobs 2]

DIR holds the virtual environments made by setup_venvs.sh. Valgrind's Callgrind counts what a process
executes in user space, all threads together, kickoff by kickoff; hashes are seeded and the garbage
collector is off. An integration's cost is the median of the differences to the untraced process,
kickoff by kickoff of the same place in the row, with a 95 % bootstrap interval. That is the same on
any x86-64 machine; load does not move it. ``none-again``, a second untraced process, shows the error.

The milliseconds beside it are an estimate: instructions divided by the untraced kickoff's rate, its
instructions over its CPU time without Valgrind. A kickoff also waits for memory and the kernel, so
tracing's own code, which mostly does not, takes rather less.

About 90 s for an integration and core. Writes results/instructions.json, which report.py reads, and
prints the table. Integrations that are not named keep what they had.
"""

from __future__ import annotations

import argparse
import concurrent.futures as cf
import datetime
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import kickoffs  # noqa: E402
import peers  # noqa: E402
import run_all  # noqa: E402

RESULTS = HERE / "results" / "instructions.json"
PLAIN, AGAIN, OURS, FLOOR = "none", "none-again", "slm-adapters", "floor-otel"
#: Not sampled, what a program pays for an integration that is on all the time.
UNSAMPLED = (f"{FLOOR}:unsampled", f"{OURS}:unsampled")
#: mlflow's makes no span here at all.
NAMES = [n for n, peer in peers.PEERS.items() if "crewai" in peer[1] and n != "mlflow"]
#: Kickoffs at the start of the counted ones that are left out: their code is being translated.
SKIPPED = 2
#: The target, and what the cheapest integration with spans of model calls took where it was set.
TARGET_MS, CHEAPEST_MS = 1.0, 1.4


def child(name, n, how, venvs, prefix=()):
    """Run kickoffs.py for an integration; what it printed."""
    peer = peers.PEERS[name.partition(":")[0]]
    python = Path(venvs) / peer[0] / "bin" / "python"
    done = subprocess.run(
        [*prefix, str(python), str(HERE / "kickoffs.py"), name, str(n), how],
        capture_output=True,
        text=True,
        env=run_all.clean_env() | peer[3],
        cwd=tempfile.gettempdir(),
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith('{"spans"'):
            return json.loads(line)
    raise SystemExit(f"{name}: no result.\n{done.stderr[-1500:]}")


def count(name, n, venvs):
    """Instructions of each of n kickoffs, and the spans they made."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dump"
        valgrind = ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                    f"--dump-before={kickoffs.MARK}", f"--callgrind-out-file={out}")  # fmt: skip
        said = child(name, n, "counted", venvs, valgrind)
        # A dump holds what ran since the one before; the first holds what ran before any kickoff.
        dumps = [Path(f"{out}.{i}").read_text() for i in range(2, n + 2)]
    totals = [int(re.search(r"^totals: (\d+)", dump, re.M).group(1)) for dump in dumps]
    print(f"{name}: {[round(x / 1e6, 2) for x in totals]} M", file=sys.stderr, flush=True)
    return {"instructions": totals[SKIPPED:], "spans": said["spans"]}


def load():
    """What was counted last, or None."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def plain(data):
    """Instructions of the untraced kickoff."""
    return statistics.median(data["counted"][PLAIN]["instructions"])


def interval(values, of=statistics.median, times=4000):
    """95 % bootstrap interval of ``of(values)``."""
    seeded = random.Random(0)
    drawn = sorted(of(seeded.choices(values, k=len(values))) for _ in range(times))
    return drawn[times // 40], drawn[-times // 40]


def added(data, name):
    """Instructions beyond the untraced kickoff: median, and its 95 % interval."""
    pairs = zip(data["counted"][name]["instructions"], data["counted"][PLAIN]["instructions"])
    differences = [traced - none for traced, none in pairs]
    return statistics.median(differences), *interval(differences)


def ratio(data, name, other):
    """What ``name`` adds as a multiple of what ``other`` adds, and its 95 % interval."""
    rows = list(zip(*(data["counted"][n]["instructions"] for n in (name, other, PLAIN))))

    def of(rows):
        ours = statistics.median(a - none for a, _, none in rows)
        return ours / statistics.median(b - none for _, b, none in rows)

    return of(rows), *interval(rows, of)


def rivals(data):
    """Other integrations whose model calls all have spans with tokens, the cheapest first."""
    found = [
        name
        for name, made in data["counted"].items()
        if not name.startswith((OURS, "floor", PLAIN, "noop")) and made["spans"][2] == 2
    ]
    return sorted(found, key=lambda name: added(data, name)[0])


def rate(data):
    """Instructions per CPU ms of the untraced kickoff at its median, and at the quartiles."""
    fast, middle, slow = statistics.quantiles(data["plain_ms"], n=4)
    return plain(data) / middle, plain(data) / slow, plain(data) / fast


def table(data):
    """The table, as markdown."""
    best, per_ms = rivals(data), rate(data)[0]
    head = ["integration", "added, million instructions (95 %)", "of the kickoff", "ms at its rate",
            "spans: all, model calls, with tokens", *(f"x {name}" for name in best)]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, made in data["counted"].items():
        if name == PLAIN:
            continue
        value, low, high = added(data, name)
        cells = [
            name.replace(":", ", "),
            f"{value / 1e6:.2f} ({low / 1e6:.2f}…{high / 1e6:.2f})",
            f"{value / plain(data):.1%}",
            f"{value / per_ms:.2f}",
            ", ".join(map(str, made["spans"])) if "unsampled" not in name else "–",
            *(f"{ratio(data, name, other)[0]:.2f}" for other in best),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    middle, slow, fast = (x / 1e6 for x in rate(data))
    lines.append(
        f"\nThe untraced kickoff: {plain(data) / 1e6:.1f} million instructions, "
        f"{statistics.median(data['plain_ms']):.0f} ms of CPU ({len(data['plain_ms'])} of them, "
        f"without Valgrind): {middle:.2f} million a ms, {slow:.2f}…{fast:.2f} between the "
        f"quartiles. Counted {data['when']}, {data['machine']}."
    )
    return "\n".join(lines)


def machine():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout
    return f"{found.group(1) if found else 'unknown processor'}, {version.strip()}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venvs", required=True, help="where setup_venvs.sh put the environments")
    parser.add_argument("--peers", default=",".join([*NAMES, *UNSAMPLED]))
    parser.add_argument("--kickoffs", type=int, default=12, help="counted in each process")
    parser.add_argument("--rounds", type=int, default=4, help="processes of 20 timed kickoffs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    a = parser.parse_args()
    missing = [tool for tool in ("valgrind", "callgrind_control") if not shutil.which(tool)]
    if missing:
        raise SystemExit(
            f"NOT COUNTED: {' and '.join(missing)} missing. Nothing was measured and no result was "
            "written: install valgrind (apt-get install valgrind) and run this again."
        )
    names = a.peers.split(",")
    with cf.ThreadPoolExecutor(a.jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: count(name, a.kickoffs, a.venvs), names)))
    data = load() or {"counted": {}}
    found = data["counted"] | found
    data["counted"] = {name: found[name] for name in (*NAMES, *UNSAMPLED) if name in found}
    if PLAIN in names:
        timed = (child(PLAIN, 20, "timed", a.venvs)["ms"] for _ in range(a.rounds))
        data["plain_ms"] = [round(ms, 2) for some in timed for ms in some]
    data |= {"when": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "machine": machine()}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n")
    print(table(data))


if __name__ == "__main__":
    main()
