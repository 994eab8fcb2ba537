"""One model call beside another tracer: how many LLM spans, and is the record there?

For each tracer installed here, in a process of its own: both switched on as they come, then each of
the two ways of the README, which must give one LLM span. Exit code 1 where one does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_TESTING": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
#: What to import to know that the tracer is here.
PEERS = {
    "openinference langchain": "openinference.instrumentation.langchain",
    "openinference crewai": "openinference.instrumentation.crewai",
    "openllmetry langchain": "opentelemetry.instrumentation.langchain",
    "openllmetry crewai": "opentelemetry.instrumentation.crewai",
    "langfuse langchain": "langfuse",
}
WAYS = ("both", "ours", "theirs")
#: This one sees no call of CrewAI's own or the user's LLM classes: only our record has it.
BLIND = {("openllmetry crewai", "theirs")}


def main() -> int:
    if len(sys.argv) == 3:
        print(json.dumps(one_call(sys.argv[1], sys.argv[2])))
        return 0
    failed, found = 0, 0
    for peer, module in PEERS.items():
        if not installed(module, peer.split()[1]):
            print(f"skipped: {peer}: {module} is not installed here.")
            continue
        found += 1
        for way in WAYS:
            result = in_a_process(peer, way)
            wanted = 0 if (peer, way) in BLIND else 1
            right = result.get("llm_spans") == wanted and result.get("records") == 1
            verdict = "as they come" if way == "both" else "ok" if right else "WRONG"
            failed += verdict == "WRONG"
            print(f"{peer}, {way}: {json.dumps(result)} {verdict}")
    if not found:
        print("skipped: none of OpenInference, OpenLLMetry and Langfuse is installed here.")
    return 1 if failed else 0


def installed(module: str, framework: str) -> bool:
    import importlib.util

    try:
        needed = (module, {"langchain": "langchain_core"}.get(framework, framework))
        return all(importlib.util.find_spec(name) is not None for name in needed)
    except ModuleNotFoundError:
        return False


def in_a_process(peer: str, way: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, peer, way],
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        timeout=180,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"error": done.stderr.strip().splitlines()[-1:] or done.returncode}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def one_call(peer: str, way: str) -> dict[str, Any]:
    """``both``: all on. ``ours``: our spans, their export. ``theirs``: their spans, our records."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import NoOpTracerProvider

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    records: list[Any] = []
    tracer, framework = peer.split()
    theirs = SWITCHES[tracer](framework, provider) if way != "ours" else []
    recorder = _recorder(framework)(
        tracer_provider=NoOpTracerProvider() if way == "theirs" else provider,
        hooks=[records.append],
    )
    (_langchain if framework == "langchain" else _crew)(recorder, theirs)
    spans = exporter.get_finished_spans()
    return {"llm_spans": sum(map(is_llm, spans)), "spans": len(spans), "records": len(records)}


def is_llm(span: Any) -> bool:
    """By any of the tracers' own marks."""
    attributes = span.attributes or {}
    return (
        attributes.get("openinference.span.kind") == "LLM"
        or attributes.get("gen_ai.operation.name") == "chat"
        or attributes.get("langfuse.observation.type") == "generation"
    )


def _recorder(framework: str) -> Any:
    import importlib

    return importlib.import_module(f"slm_adapters.{framework}").CallRecorder


def _langchain(recorder: Any, theirs: list[Any]) -> None:
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    model = FakeListChatModel(responses=["It is done."], name="fake")
    model.invoke("Do it.", config={"callbacks": [recorder, *theirs]})


def _crew(recorder: Any, theirs: list[Any]) -> None:
    from crewai import Agent, Crew, Task

    from slm_adapters.crewai import SLM
    from slm_adapters.testing import ScriptedModel

    worker = Agent(role="Worker", goal="g", backstory="b", llm=SLM(ScriptedModel(["done"])))
    task = Task(description="Do it.", expected_output="A word.", agent=worker)
    Crew(agents=[worker], tasks=[task]).kickoff()
    from crewai.events import crewai_event_bus

    crewai_event_bus.flush()


def _openinference(framework: str, provider: Any) -> list[Any]:
    if framework == "langchain":
        from openinference.instrumentation.langchain import LangChainInstrumentor

        LangChainInstrumentor().instrument(tracer_provider=provider)
        return []
    from openinference.instrumentation.crewai import CrewAIInstrumentor

    CrewAIInstrumentor().instrument(tracer_provider=provider, use_event_listener=True)
    return []


def _openllmetry(framework: str, provider: Any) -> list[Any]:
    if framework == "langchain":
        from opentelemetry.instrumentation.langchain import LangchainInstrumentor

        LangchainInstrumentor().instrument(tracer_provider=provider)
        return []
    from opentelemetry.instrumentation.crewai import CrewAIInstrumentor

    CrewAIInstrumentor().instrument(tracer_provider=provider)
    return []


def _langfuse(framework: str, provider: Any) -> list[Any]:
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    Langfuse(
        public_key="pk-check",
        secret_key="sk-check",
        base_url="http://127.0.0.1:9",
        tracer_provider=provider,
        span_exporter=InMemorySpanExporter(),
    )
    return [CallbackHandler()]


SWITCHES: dict[str, Callable[[str, Any], list[Any]]] = {
    "openinference": _openinference,
    "openllmetry": _openllmetry,
    "langfuse": _langfuse,
}

if __name__ == "__main__":
    sys.exit(main())
