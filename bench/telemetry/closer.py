"""The floor and slm-adapters call by call in one process: what a call costs beyond the floor.

    VENV/bin/python bench/telemetry/closer.py [--calls 3000]      # VENV: DIR/base of setup_venvs.sh

The big benchmark compares processes, which differ by more than a span costs. Here every turn makes
one call without tracing, one with the floor and one with slm-adapters, in changing order, so each
turn sees one state of the machine. Printed are the medians of what was added, those of the fastest
tenth, which is the machine left alone, and the ratio to the floor with a 95 % bootstrap interval.
The untraced call runs beside a live recorder. Writes results/closer.json, by which report.py judges
these rows, about a minute for 1,000 calls.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("SINK_PORT", "9")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "src")]
import canned  # noqa: E402
import peers  # noqa: E402
import targets  # noqa: E402

#: Calls of a turn's sample: a stream's chunks.
PARTS = {"a chunk of 200": 200}
RESULTS = Path(__file__).parent / "results" / "closer.json"


class Bench:
    def __init__(self):
        self.switch = peers.Switch(int(os.environ["SINK_PORT"]))
        self.chat = canned.make_chat()
        self.model, self.messages = self.chat(), canned.chat_messages()
        self.stream = self.chat(chunks=200)
        self.agent = canned.make_agent(self.chat)
        self.loop = asyncio.new_event_loop()

    def handlers(self, content):
        os.environ.pop("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", None)
        if content:
            os.environ.update(peers.CAPTURE)
        floor = peers.PEERS["floor-content" if content else "floor-handler"][2]
        ours = peers.PEERS["slm-adapters"][2]
        return [[], *(made("langchain", self.switch).callbacks for made in (floor, ours))]

    def call(self, row, callbacks):
        """Seconds of one call."""
        config = {"callbacks": callbacks}
        clock = time.perf_counter
        if row == "ainvoke":
            return self.loop.run_until_complete(self.timed(config))
        start = clock()
        if row.startswith("invoke"):
            self.model.invoke(self.messages, config)
        elif row.startswith("create_agent"):
            self.agent.invoke({"messages": [("user", canned.PROMPT)]}, config)
        else:
            # From the first chunk on: what comes before it is the call's.
            steps = self.stream.stream(self.messages, config)
            next(steps)
            start = clock()
            for _ in steps:
                pass
        return clock() - start

    async def timed(self, config):
        start = time.perf_counter()
        await self.model.ainvoke(self.messages, config)
        return time.perf_counter() - start

    def row(self, name, calls):
        self.switch.set_mode("unsampled" if "not sampled" in name else "noop")
        ways = self.handlers("content" in name)
        orders = itertools.cycle(itertools.permutations(range(3)))
        for way in ways * 30:
            self.call(name, way)
        gc.collect()
        gc.freeze()
        turns = []
        for _ in range(calls):
            turn = [0.0] * 3
            for way in next(orders):
                turn[way] = self.call(name, ways[way])
            turns.append(turn)
        self.switch.flush()
        # The next row's recorder is to be alone.
        gc.unfreeze()
        ways.clear()
        del way
        gc.collect()
        return turns


def quantile(turns, part):
    return [targets.quantile(way, part) for way in zip(*turns, strict=True)]


def ratio(turns, part):
    none, floor, ours = quantile(turns, part)
    return (ours - none) / (floor - none)


def interval(turns, part):
    seeded = random.Random(0)
    drawn = sorted(ratio(seeded.choices(turns, k=len(turns)), part) for _ in range(400))
    return drawn[10], drawn[-10]


def figures(turns, parts):
    """Microseconds and ratios, at the median and at the fastest tenth."""
    found = {"turns": len(turns)}
    for name, part in (("median", 0.5), ("fastest tenth", 0.1)):
        none, floor, ours = (x / parts * 1e6 for x in quantile(turns, part))
        added = [floor - none, ours - none]
        if part == 0.5:
            added = [statistics.median((t[i] - t[0]) / parts * 1e6 for t in turns) for i in (1, 2)]
        low, high = interval(turns, part)
        found[name] = {
            "untraced": none, "floor": added[0], "ours": added[1],
            "ratio": ratio(turns, part), "low": low, "high": high,
        }  # fmt: skip
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=3000, help="turns of a row")
    parser.add_argument(
        "--rows", nargs="+", choices=targets.CALL_BY_CALL, help="measure these again, keep the rest"
    )
    options, bench, found = parser.parse_args(), Bench(), {}
    if options.rows and RESULTS.exists():
        found = json.loads(RESULTS.read_text())
    for name in options.rows or targets.CALL_BY_CALL:
        parts = PARTS.get(name, 1)
        found[name] = figures(bench.row(name, options.calls), parts)
        print(f"{name}: {found[name]['median']['ratio']:.2f} x the floor", flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print("\n" + targets.call_by_call(found))


if __name__ == "__main__":
    main()
