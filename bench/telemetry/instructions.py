#!/usr/bin/env python3
"""What tracing adds to an operation, in instructions: its time wanders by more.

    python bench/telemetry/instructions.py --venvs DIR [--of kickoffs.py,completions.py]
        [--peers a,b] [--processes 3] [--jobs 2]

DIR holds the virtual environments made by setup_venvs.sh. Valgrind's Callgrind counts what a process
executes in user space, all threads together, operation by operation; hashes are seeded and the garbage
collector is off. An integration's cost is the median of its operations less that of untraced ones, with
a 95 % bootstrap interval over processes, which differ by more than operations do: ``none-again``, the
untraced operation once more, shows by how much. Costs depend on the builds of Python and the packages,
hardly on the machine and not on its load.

The milliseconds beside it are an estimate: instructions divided by the untraced operation's rate, its
instructions over its CPU time without Valgrind, in which other load and the kernel's work are too.

About 45 s for a process and core. Writes results/instructions-OPERATION.json, which report.py reads, and
prints the tables. Integrations that are not named keep what they had.
"""

from __future__ import annotations

import argparse
import concurrent.futures as cf
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import counting  # noqa: E402
import counts  # noqa: E402
import peers  # noqa: E402
import run_all  # noqa: E402

#: Operations timed in a process, without Valgrind.
TIMED = 20


def child(script, name, n, how, venvs, prefix=()):
    """Run a script under an integration; what it printed, by operation."""
    peer = peers.PEERS[name.partition(":")[0]]
    python = Path(venvs) / peer[0] / "bin" / "python"
    done = subprocess.run(
        [*prefix, str(python), str(HERE / script), name, str(n), how],
        capture_output=True,
        text=True,
        env=run_all.clean_env() | peer[3],
        cwd=tempfile.gettempdir(),
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith('{"'):
            return json.loads(line)
    raise SystemExit(f"{name}: no result.\n{done.stderr[-1500:]}")


def count(script, ops, name, venvs):
    """One process: by operation, the instructions of each, and the spans they made."""
    first, n = ops[0], ops[0].skipped + ops[0].counted
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dump"
        valgrind = ("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                    f"--dump-before={counting.MARK}", f"--callgrind-out-file={out}")  # fmt: skip
        said, found = child(script, name, n, "counted", venvs, valgrind), {}
        for place, (made, op) in enumerate(zip(said.values(), ops, strict=True)):
            if set(made["ended"]) != {made["spans"][0]} and "unsampled" not in name:
                raise SystemExit(f"{name}: a call has spans of another: {made['ended']}.")
            # A dump holds what ran since the one before; the first holds what ran before any.
            start = place * (n + 1) + 2
            dumps = (Path(f"{out}.{i}").read_text() for i in range(start, start + n))
            totals = [int(re.search(r"^totals: (\d+)", dump, re.M).group(1)) for dump in dumps]
            found[op.name] = totals[first.skipped :], made["spans"]
            shown = [round(x / 1e6, op.digits) for x in found[op.name][0]]
            print(f"{op.name}, {name}: {shown} M", file=sys.stderr, flush=True)
    return found


def count_all(script, names, venvs, processes, jobs):
    """Count a script's operations under each of ``names``. Writes what is there after each process."""
    ops = [op for op in counts.OPERATIONS.values() if op.script == script]
    keeper = {op.name: Keeper(op, names) for op in ops}
    if counts.PLAIN in names:
        for _ in range(processes):
            for name, made in child(script, counts.PLAIN, TIMED, "timed", venvs).items():
                keeper[name].timed(made["ms"])
    with cf.ThreadPoolExecutor(jobs) as pool:
        todo = [name for _ in range(processes) for name in names]
        made = [pool.submit(count, script, ops, name, venvs) for name in todo]
        named = dict(zip(made, todo))
        try:
            for done in cf.as_completed(made):
                for name, (totals, spans) in done.result().items():
                    keeper[name].counted(named[done], totals, spans)
        finally:  # what failed once would again
            pool.shutdown(cancel_futures=True)
    for op in ops:
        print(f"\n{op.load().table()}", flush=True)


class Keeper:
    """The file of an operation: integrations that are not counted now keep what they had."""

    def __init__(self, op, names):
        self.op, known = op, op.load()
        self.data = known.data if known else {"counted": {}}
        for name in names:
            self.data["counted"].pop(name, None)
        if counts.PLAIN in names:
            self.data["plain_ms"] = []

    def timed(self, ms):
        self.data["plain_ms"] += [round(x, 2) for x in ms]

    def counted(self, name, totals, spans):
        found = self.data["counted"]
        found.setdefault(name, {"instructions": [], "spans": spans})
        found[name]["instructions"].append(totals)
        self.data["counted"] = {n: found[n] for n in self.op.names if n in found}
        self.data |= {"when": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "machine": machine()}
        self.op.path.write_text(json.dumps(self.data, indent=1) + "\n")


def machine():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout
    return f"{found.group(1) if found else 'unknown processor'}, {version.strip()}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venvs", required=True, help="where setup_venvs.sh put the environments")
    parser.add_argument(
        "--of", default="kickoffs.py,completions.py", help="the operations' scripts"
    )
    parser.add_argument("--peers", default="", help="the integrations; default: all")
    parser.add_argument("--processes", type=int, default=3, help="of each integration")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    a = parser.parse_args()
    missing = [tool for tool in ("valgrind", "callgrind_control") if not shutil.which(tool)]
    if missing:
        raise SystemExit(
            f"NOT COUNTED: {' and '.join(missing)} missing. Nothing was measured and no result was "
            "written: install valgrind (apt-get install valgrind) and run this again."
        )
    for script in a.of.split(","):
        known = next(op.names for op in counts.OPERATIONS.values() if op.script == script)
        names = [n for n in known if not a.peers or n in a.peers.split(",")]
        count_all(script, names, a.venvs, a.processes, a.jobs)


if __name__ == "__main__":
    main()
