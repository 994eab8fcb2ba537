#!/usr/bin/env python3
"""What tracing adds to a CrewAI kickoff, in instructions: a kickoff's time wanders by more.

    python bench/telemetry/instructions.py --venvs DIR [--peers a,b] [--processes 3] [--jobs 2]

DIR holds the virtual environments made by setup_venvs.sh. Valgrind's Callgrind counts what a process
executes in user space, all threads together, kickoff by kickoff; hashes are seeded and the garbage
collector is off. An integration's cost is the median of its kickoffs less that of untraced ones, with
a 95 % bootstrap interval over processes, which differ by more than kickoffs do: ``none-again``, the
untraced crew once more, shows by how much. Costs depend on the builds of Python and the packages, hardly
on the machine and not on its load.

The milliseconds beside it are an estimate: instructions divided by the untraced kickoff's rate, its
instructions over its CPU time without Valgrind, in which other load and the kernel's work are too.

About 45 s for a process and core. Writes results/instructions.json, which report.py reads, and
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
#: The target; where it was set, what the cheapest integration with spans of model calls added and
#: what the untraced kickoff took, in CPU ms.
TARGET_MS, CHEAPEST_MS, PLAIN_MS = 1.0, 1.4, 39.4


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
    """One process: instructions of each of n kickoffs, and the spans they made."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dump"
        valgrind = ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                    f"--dump-before={kickoffs.MARK}", f"--callgrind-out-file={out}")  # fmt: skip
        said = child(name, SKIPPED + n, "counted", venvs, valgrind)
        # A dump holds what ran since the one before; the first holds what ran before any kickoff.
        dumps = [Path(f"{out}.{i}").read_text() for i in range(2 + SKIPPED, n + SKIPPED + 2)]
    totals = [int(re.search(r"^totals: (\d+)", dump, re.M).group(1)) for dump in dumps]
    print(f"{name}: {[round(x / 1e6, 2) for x in totals]} M", file=sys.stderr, flush=True)
    return totals, said["spans"]


def load():
    """What was counted last, or None."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def plain(data):
    """Instructions of the untraced kickoff."""
    return settled(data, (PLAIN,), lambda none: none, times=40)[0]


def settled(data, names, of, times=4000):
    """``of`` the median kickoffs of ``names``, and its 95 % bootstrap interval over processes."""
    seeded = random.Random(0)
    processes = [data["counted"][name]["instructions"] for name in names]

    def middle(some):
        return statistics.median(x for process in some for x in process)

    drawn = sorted(
        of(*(middle(seeded.choices(some, k=len(some))) for some in processes)) for _ in range(times)
    )
    return of(*map(middle, processes)), drawn[times // 40], drawn[-times // 40]


def added(data, name):
    """Instructions beyond the untraced kickoff, and their 95 % interval."""
    return settled(data, (name, PLAIN), lambda traced, none: traced - none)


def ratio(data, name, other):
    """What ``name`` adds as a multiple of what ``other`` adds, and its 95 % interval."""
    return settled(data, (name, other, PLAIN), lambda a, b, none: (a - none) / (b - none))


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
    parser.add_argument("--processes", type=int, default=3, help="of each integration")
    parser.add_argument("--kickoffs", type=int, default=4, help="counted in each process")
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
        jobs = [name for _ in range(a.processes) for name in names]
        counts = list(pool.map(lambda name: count(name, a.kickoffs, a.venvs), jobs))
    found = {name: {"instructions": [], "spans": spans} for name, (_, spans) in zip(jobs, counts)}
    for name, (totals, _) in zip(jobs, counts):
        found[name]["instructions"].append(totals)
    data = load() or {"counted": {}}
    found = data["counted"] | found
    data["counted"] = {name: found[name] for name in (*NAMES, *UNSAMPLED) if name in found}
    if PLAIN in names:
        timed = (child(PLAIN, 20, "timed", a.venvs)["ms"] for _ in range(a.processes))
        data["plain_ms"] = [round(ms, 2) for some in timed for ms in some]
    data |= {"when": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "machine": machine()}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n")
    print(table(data))


if __name__ == "__main__":
    main()
