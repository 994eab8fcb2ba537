"""One integration, some kickoffs of the canned crew: what ``instructions.py`` counts or times.

    VENV/bin/python kickoffs.py NAME N {counted,timed}

``counted``: to be run under Callgrind with ``--instr-atstart=no`` and ``--dump-before`` of ``MARK``,
so that each kickoff has a dump of its own. Prints one line of JSON.
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

import canned
import peers

#: A function of the C library that nobody else calls; ``os`` has it by the same name.
MARK = "getsid"
#: Kickoffs before the first that counts: what is loaded or cached once is there by then.
WARM = 2


class Kickoffs:
    def __init__(self, name):
        name, _, mode = name.partition(":")
        self.mode = mode or "noop"
        self.switch = peers.Switch(int(os.environ.get("SINK_PORT", "9")))
        import crewai  # noqa: F401 - before the integration, as in the other tables
        from crewai.events import crewai_event_bus

        self.bus = crewai_event_bus
        self.setup = peers.PEERS[name][2]("crewai", self.switch)
        self.llm = canned.make_crew_llm()(model="canned-1")
        kick = lambda crew: crew.kickoff()  # noqa: E731
        self.kick = self.setup.around(kick) if self.setup.around else kick

    def run(self, crew):
        """One kickoff, to the last of its events and spans."""
        self.kick(crew)
        self.bus.flush()
        if self.setup.flush:
            self.setup.flush()
        self.switch.flush()

    def spans(self):
        """Spans of one kickoff; how many are of model calls; how many of those have tokens."""
        self.switch.record_all()
        self.switch.mem.clear()
        self.run(canned.make_crew(self.llm))
        spans = self.switch.mem.get_finished_spans()
        llm = [span.attributes for span in spans if peers.is_llm(span.name, span.attributes)]
        counted = [a for a in llm if any("token" in key for key in a)]
        self.switch.mem.clear()
        return len(spans), len(llm), len(counted)

    def measure(self, n, before_each):
        """CPU ms of each of n kickoffs. The garbage of one does not wait for the next."""
        self.switch.set_mode(self.mode)
        crews = [canned.make_crew(self.llm) for _ in range(n + WARM)]
        for crew in crews[n:]:
            self.run(crew)
        gc.collect()
        gc.freeze()
        gc.disable()
        before_each[0]()
        took = []
        for crew in crews[:n]:
            before_each[1]()
            start = time.process_time()
            self.run(crew)
            took.append((time.process_time() - start) * 1e3)
        before_each[1]()
        return took


def count_from_here():
    command = ["callgrind_control", "--instr=on", str(os.getpid())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    name, n, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    logging.disable(logging.CRITICAL)
    # A shell's background jobs ignore it, and then asyncio saves itself two million instructions.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    kickoffs = Kickoffs(name)
    spans = kickoffs.spans()
    nothing = lambda: None  # noqa: E731
    ways = {
        "counted": (count_from_here, lambda: getattr(os, MARK)(0)),
        "timed": (nothing, nothing),
    }
    took = kickoffs.measure(n, ways[how])
    print(json.dumps({"spans": spans, "ms": took}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
