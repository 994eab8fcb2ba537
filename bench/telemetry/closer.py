"""The floor and slm-adapters call by call in one process: what a call costs beyond the floor.

    VENV/bin/python bench/telemetry/closer.py [--calls 3000]      # VENV: DIR/base of setup_venvs.sh

The big benchmark compares processes, which differ by more than a span costs. Here every turn makes
one call without tracing, one with the floor and one with slm-adapters, in changing order, so each
turn sees one state of the machine. Printed are the medians of what was added, those of the fastest
tenth, which is the machine left alone, and the ratio to the floor with a 95 % bootstrap interval.
The untraced call runs beside a live recorder.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
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

#: Row -> calls of it in one turn's sample (a stream's chunks), and its target: the same multiple of
#: the floor as where the targets were set.
ROWS = {
    "invoke": (1, 1.25),
    "invoke with content": (1, 1.25),
    "invoke, not sampled": (1, 40 / 31),
    "ainvoke": (1, 1.3),
    "a chunk of 200": (200, 1.25),
    "create_agent loop": (1, 0.65 / 0.42),
}


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
    return f"{drawn[10]:.2f}…{drawn[-10]:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=3000, help="turns of the cheap rows")
    options, bench = parser.parse_args(), Bench()
    head = ("added by", "untraced µs", "floor µs", "slm-adapters µs", "x the floor (95 %)",
            "fastest tenth: floor, ours µs", "x the floor (95 %)", "target")  # fmt: skip
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name, (parts, target) in ROWS.items():
        turns = bench.row(name, options.calls // (1 if parts == 1 and "agent" not in name else 6))
        cells = []
        for part in (0.5, 0.1):
            none, floor, ours = (x / parts * 1e6 for x in quantile(turns, part))
            both = f"{ratio(turns, part):.2f} ({interval(turns, part)})"
            if part == 0.5:
                added = [
                    statistics.median((t[i] - t[0]) / parts * 1e6 for t in turns) for i in (1, 2)
                ]
                cells += [f"{none:.1f}", *(f"{x:.1f}" for x in added), both]
            else:
                cells += [f"{floor - none:.1f}, {ours - none:.1f}", both]
        print(f"| {name} | " + " | ".join(cells) + f" | {target:.2f} |", flush=True)


if __name__ == "__main__":
    main()
