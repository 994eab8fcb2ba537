"""One crew run as spans: names, kinds, parents and attributes, printed as they would be exported.

Needs no key and no server: the large model is a stand-in that answers from a script.
"""

from __future__ import annotations

import os

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")
os.environ.setdefault("CREWAI_TESTING", "true")

from crewai import Agent, Crew, Task
from crewai.tools import tool
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slm_adapters import ToolCall
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.testing import ScriptedModel


@tool
def lookup_order(order_id: str) -> str:
    """Look up an order by its id."""
    return f'{{"order_id": "{order_id}", "status": "shipped"}}'


def main() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    answers = [ToolCall("call_1", "lookup_order", '{"order_id": "A-1001"}'), "It is on its way."]
    agent = Agent(
        role="Order look-up",
        goal="Find the order",
        backstory="Knows every order.",
        llm=SLM(ScriptedModel(answers, name="scripted")),
        tools=[lookup_order],
    )
    task = Task(
        name="look up", description="Where is order A-1001?", expected_output="Text", agent=agent
    )
    with CallRecorder(tracer_provider=provider):
        Crew(name="desk", agents=[agent], tasks=[task]).kickoff()
    print_tree(exporter.get_finished_spans())


def print_tree(spans: tuple[ReadableSpan, ...]) -> None:
    """Children under their parents, in order of start."""
    children: dict[int, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda span: span.start_time):
        children.setdefault(span.parent.span_id if span.parent else 0, []).append(span)

    def show(parent: int, depth: int) -> None:
        for span in children.get(parent, ()):
            print(f"{'  ' * depth}{span.name}  [{span.kind.name}]")
            for key, value in sorted(span.attributes.items()):
                print(f"{'  ' * depth}    {key} = {value!r}")
            show(span.context.span_id, depth + 1)

    show(0, 0)


if __name__ == "__main__":
    main()
