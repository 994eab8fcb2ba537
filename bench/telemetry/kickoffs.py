"""One integration, some kickoffs of the canned crew: what ``instructions.py`` counts or times.

VENV/bin/python kickoffs.py NAME N {counted,timed}
"""

from __future__ import annotations

import canned
import counting


class Kickoffs(counting.Counted):
    target, operations, warm = "crewai", ("kickoff",), 2

    def load(self):
        import crewai  # noqa: F401
        from crewai.events import crewai_event_bus

        self.bus = crewai_event_bus

    def ready(self):
        self.llm = canned.make_crew_llm()(model="canned-1")
        kick = lambda crew: crew.kickoff()  # noqa: E731
        self.kick = self.setup.around(kick) if self.setup.around else kick

    def prepare(self):
        return canned.make_crew(self.llm)

    def operate(self, crew):
        self.kick(crew)
        self.bus.flush()


if __name__ == "__main__":
    counting.main(Kickoffs)
