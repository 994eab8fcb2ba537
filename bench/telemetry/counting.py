"""Operations of one integration, each in a Callgrind dump of its own: what ``instructions.py`` runs.

To be run under Callgrind with ``--instr-atstart=no`` and ``--dump-before`` of ``MARK``, or without
it to take the time.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time

import peers

#: A function of the C library that nobody else calls; ``os`` has it by the same name.
MARK = "getsid"


class Counted:
    """Operations under one integration, ``NAME`` or ``NAME:unsampled``."""

    #: The framework.
    target: str
    #: The operations' names; ``self.operation`` is the one at hand.
    operations: tuple[str, ...]
    #: Operations before the first that counts: what is loaded or cached once is there by then.
    warm: int

    def __init__(self, name):
        os.environ.setdefault("SINK_PORT", "9")
        name, _, mode = name.partition(":")
        self.mode = mode or "noop"
        self.switch = peers.Switch(int(os.environ["SINK_PORT"]))
        self.load()
        self.setup = peers.PEERS[name][2](self.target, self.switch)
        self.ready()

    def load(self):
        """Import the framework: before the integration, as in the other tables."""
        raise NotImplementedError

    def ready(self):
        """Make what the operations share."""
        raise NotImplementedError

    def prepare(self):
        """What one operation needs, not counted."""

    def operate(self, given):
        """One operation, to the last of its events."""
        raise NotImplementedError

    def run(self, given):
        """One operation, to the last of its events and spans."""
        self.operate(given)
        if self.setup.flush:
            self.setup.flush()
        self.switch.flush()

    def spans(self):
        """Spans of one operation; how many are of model calls; how many of those have tokens."""
        self.switch.record_all()
        self.switch.mem.clear()
        self.run(self.prepare())
        spans = self.switch.mem.get_finished_spans()
        llm = [span.attributes for span in spans if peers.is_llm(span.name, span.attributes)]
        counted = [a for a in llm if any("token" in key for key in a)]
        self.switch.mem.clear()
        return len(spans), len(llm), len(counted)

    def measure(self, n, before_each):
        """CPU ms of each of n operations, and how many spans ended in it."""
        self.switch.set_mode(self.mode)
        prepared = [self.prepare() for _ in range(n + self.warm)]
        for given in prepared[n:]:
            self.run(given)
        gc.collect()
        gc.freeze()
        gc.disable()  # the garbage of one does not wait for the next
        before_each[0]()
        took, ended = [], []
        for given in prepared[:n]:
            before_each[1]()
            start, before = time.process_time(), self.switch.n_ended
            self.run(given)
            took.append((time.process_time() - start) * 1e3)
            ended.append(self.switch.n_ended - before)
        before_each[1]()
        return took, ended


def count_from_here():
    command = ["callgrind_control", "--instr=on", str(os.getpid())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(kind):
    """``NAME N {counted,timed}``: N of each operation. Prints one line of JSON, by operation."""
    name, n, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    logging.disable(logging.CRITICAL)
    # A shell's background jobs ignore it, and then asyncio saves itself two million instructions.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counted, said = kind(name), {}
    nothing = lambda: None  # noqa: E731
    ways = {
        "counted": (count_from_here, lambda: getattr(os, MARK)(0)),
        "timed": (nothing, nothing),
    }
    for operation in kind.operations:
        counted.operation = operation
        spans = counted.spans()
        took, ended = counted.measure(n, ways[how])
        said[operation] = {"spans": spans, "ms": took, "ended": ended}
    print(json.dumps(said), flush=True)
    os._exit(0)
