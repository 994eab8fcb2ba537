# ruff: noqa: E402 - the environment comes before what reads it
"""What one LangChain integration does in the cases docs/features.md compares: Y or N a row.

Usage: VENV/bin/python features.py PEER   (names and venvs: peers.py; setup_venvs.sh makes them)
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys

os.environ.setdefault("SINK_PORT", "9")
os.environ.update(LANGSMITH_TRACING="false", CREWAI_DISABLE_TELEMETRY="true")
name = sys.argv[1]

import peers

venv, targets, setup, extra, note = peers.PEERS[name]
os.environ.update({k: v for k, v in extra.items() if k != "PYTHONPATH"})

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from opentelemetry import context

logging.disable(logging.CRITICAL)
sw = peers.Switch(int(os.environ["SINK_PORT"]))
sw.set_mode("memory")
made = setup("langchain", sw)
if sw.owns_export:
    sw.record_all()
tracer = sw.tracer()
using = {"callbacks": made.callbacks}


class Model(BaseChatModel):
    model_name: str = "canned-1"
    error: object = None

    @property
    def _llm_type(self):
        return "canned"

    @property
    def _identifying_params(self):
        return {"model_name": self.model_name}

    def _generate(self, *a, **k):
        tracer.start_span("POST").end()
        if self.error:
            raise self.error
        return ChatResult(generations=[ChatGeneration(message=AIMessage("fine"))])

    async def _agenerate(self, *a, **k):
        await asyncio.sleep(0)
        return self._generate()

    def _stream(self, *a, **k):
        tracer.start_span("POST").end()
        for word in "a b c".split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        tracer.start_span("POST").end()
        return [Document("found")]


@tool
def look_up(q: str) -> str:
    """Look up."""
    tracer.start_span("POST").end()
    return "found"


def spans_of(case):
    """Every span of one case run inside the application's own span."""
    sw.mem.clear()
    with tracer.start_as_current_span("request"):
        try:
            case()
        except Exception:
            pass
    if made.flush:
        made.flush()
    sw.flush()
    for _ in range(40):
        found = sw.mem.get_finished_spans()
        if len(found) > 2:
            break
        import time

        time.sleep(0.05)
    return found


def nests(case):
    """Whether the span made inside has one of the integration's as its parent."""
    found = spans_of(case)
    ids = {s.context.span_id: s.name for s in found}
    inner = [s for s in found if s.name == "POST"]
    parents = {ids.get(s.parent.span_id, "?") if s.parent else None for s in inner}
    return bool(inner) and not parents & {None, "request", "POST", "?"}


def no_error(case):
    found = [s for s in spans_of(case) if s.name not in ("request", "POST")]
    return bool(found) and not any(s.status.status_code.name == "ERROR" for s in found)


def closed():
    stream = Model().stream("q", using)
    next(stream)
    stream.close()


def paused():
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [interrupt("really?")]})
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    graph.compile(name="desk", checkpointer=InMemorySaver()).invoke(
        {"messages": []}, using | {"configurable": {"thread_id": "1"}}
    )


def error_class():
    found = spans_of(lambda: Model(error=ConnectionError("down")).invoke("q", using))
    said = [str(s.attributes.get("error.type")) for s in found if s.name not in ("request", "POST")]
    return any(word.endswith("ConnectionError") for word in said)


def heeds():
    """No LLM span under either key that says somebody has it."""
    keys = {"suppress_language_model_instrumentation": True}
    try:
        from opentelemetry.util.genai.invocation import InferenceData

        official = {"opentelemetry.genai.client.inference.context": InferenceData()}
    except ImportError:
        official = {}
    counts = []
    for extra in (keys, official):
        if not extra:
            continue  # nobody can set that key here
        where = context.get_current()
        for key, value in extra.items():
            where = context.set_value(key, value, where)
        token = context.attach(where)
        found = spans_of(lambda: Model().invoke("q", using))
        context.detach(token)
        counts.append(len([s for s in found if s.name not in ("request", "POST")]))
    return "Y" if not any(counts) else "P" if not all(counts) else "N"


def uninstruments():
    """After the integration's own way of switching off, nothing is recorded."""
    off = {
        "openinference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
        "openllmetry": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
        "otel-genai": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
        "openlit": ("openlit.instrumentation.langchain", "LangChainInstrumentor"),
    }
    if name == "mlflow":
        import mlflow

        mlflow.langchain.autolog(disable=True)
    elif name in off:
        import importlib

        module, cls = off[name]
        getattr(importlib.import_module(module), cls)().uninstrument()
    else:
        return "-"
    found = [s.name for s in spans_of(lambda: Model().invoke("q", using))]
    return sorted(found) == ["POST", "request"]


def word(value):
    return value if isinstance(value, str) else "Y" if value else "N"


rows = {
    "nest sync": lambda: nests(lambda: Model().invoke("q", using)),
    "nest async": lambda: nests(lambda: asyncio.run(Model().ainvoke("q", using))),
    "nest v3": lambda: nests(lambda: list(Model().stream_events("q", using, version="v3"))),
    "nest tool": lambda: nests(lambda: look_up.invoke({"q": "x"}, using)),
    "nest retriever": lambda: nests(lambda: Shelf().invoke("q", using)),
    "closed stream": lambda: no_error(closed),
    "interrupt": lambda: no_error(paused),
    "error.type": error_class,
    "heeds": heeds,
    "uninstrument": uninstruments,
}
result = {}
for row, check in rows.items():
    try:
        result[row] = word(check())
    except Exception as error:
        result[row] = f"failed: {type(error).__name__}: {error}"[:120]
print(json.dumps({name: result}))
os._exit(0)
