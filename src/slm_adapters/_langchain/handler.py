"""``CallRecorder`` for LangChain: callbacks -> spans and records, on the thread they happen on."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ..recording import CallRecorderBase
from ..telemetry import semconv
from ..telemetry.harmless import harmless, note_failure
from ..telemetry.recorder import OpenCall, Recorder
from . import convert, nesting
from .endings import end_lost, end_with, gives_up
from .model_calls import ModelCalls
from .plans import Plans
from .runs import Run, Runs
from .spans import graph_span, tool_attributes

__all__ = ["CallRecorder"]


class CallRecorder(CallRecorderBase, ModelCalls):
    """One span per model call, agent, graph, tool and retrieval; one record if you ask.

    ``store``: a path, a database URL or a ``CallStore``. Providers: default the global ones.
    ``hooks``: functions of every ended ``Call``. ``redact``: see ``content.Redact``.
    Pass it per call, at construction, or both: a run is counted once::

        chain.invoke(x, config={"callbacks": [CallRecorder(store="calls.db")]})
    """

    run_inline = True  # on the event loop: a thread hop would cost ten times the work itself

    def _begin(self) -> None:
        self._runs, self._plans = Runs(end_lost, self.recorder.tracer_provider), Plans()
        nesting.keep_while(self)

    @classmethod
    def over(cls, recorder: Recorder) -> CallRecorder:
        """Callbacks that feed an existing ``Recorder``."""
        made = cls.__new__(cls)
        made.recorder, made._plans = recorder, Plans()
        made._runs = Runs(end_lost, recorder.tracer_provider)
        return made

    @property
    def open_runs(self) -> int:
        """How many LangChain runs are under way."""
        return len(self._runs)

    def open_call(self, run_id: UUID) -> OpenCall | None:
        """The open call of this model run."""
        run = self._runs.get(run_id)
        return run.span if run is not None and isinstance(run.span, OpenCall) else None

    def given_up(self, run_id: UUID, error: BaseException) -> None:
        """A model call was cancelled; LangChain itself tells nobody."""
        run = self._runs.take(run_id.int)
        if run is not None:
            end_with(run, error)

    def close(self) -> None:
        """End what is still open; the recorder can be used again."""
        self._runs.close()

    # Chains and graphs: only graphs make spans, seen by the first node that starts inside them. As
    # for models, there is no decorator where every step comes by, and each argument has its name.

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            run = self._runs.start(run_id, parent_run_id, name, metadata)
            graph = run.parent if run is not None else None
            if graph is not None and graph.span is None and _is_node(tags):
                graph_span(self.recorder, graph)
        except Exception as error:
            note_failure("LangChain's on_chain_start", error)

    def on_chain_end(
        self,
        outputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            self._end(run_id, None)
        except Exception as error:
            note_failure("LangChain's on_chain_end", error)

    @harmless("LangChain's on_chain_error")
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def _end(self, run_id: UUID, error: BaseException | None) -> None:
        run = self._runs.take(run_id.int)
        if run is None or (run.span is None and error is None):
            return
        if error is not None and gives_up(error):
            for inner in reversed(self._runs.inside(run)):
                end_with(inner, error)
        if run.span is None and error is not None and run.parent is None and _is_graph(run):
            graph_span(self.recorder, run)
        end_with(run, error)

    # Tools and retrievers

    @harmless("LangChain's on_tool_start")
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        tool = serialized or {}
        name = str(kwargs.get("name") or tool.get("name") or "tool")
        run = self._runs.start(run_id, parent_run_id, name, metadata)
        if run is None:
            return
        attributes = tool_attributes(tool, name, kwargs.get("tool_call_id"))
        if self.recorder.content_on_spans:
            arguments = inputs if inputs is not None else input_str
            attributes[semconv.TOOL_CALL_ARGUMENTS] = self._text(arguments)
        self._open_span(run, semconv.EXECUTE_TOOL, name, attributes)

    @harmless("LangChain's on_tool_end")
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.get(run_id)
        if run is not None and run.span is not None and self.recorder.content_on_spans:
            result = getattr(output, "content", output)
            run.span.note(**{semconv.TOOL_CALL_RESULT: self._text(result)})
        self._end(run_id, None)

    @harmless("LangChain's on_tool_error")
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    @harmless("LangChain's on_retriever_start")
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        name = kwargs.get("name") or (serialized or {}).get("name")
        run = self._runs.start(run_id, parent_run_id, name, metadata)
        if run is not None:
            self._open_span(run, semconv.RETRIEVAL, name, {semconv.DATA_SOURCE_ID: name})

    @harmless("LangChain's on_retriever_end")
    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, None)

    @harmless("LangChain's on_retriever_error")
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def _open_span(
        self, run: Run, operation: str, name: str | None, attributes: dict[str, Any]
    ) -> None:
        attributes[semconv.RUN_ID] = run.root_id
        run.span = self.recorder.span(
            operation,
            name,
            attributes=attributes,
            parent=run.parent_context(),
            start_ns=run.started_ns,
            beside=run.beside(),
        )
        guard = nesting.entered(run.span)
        if guard is not None:
            run.answers(guard)

    def _text(self, value: Any) -> str:
        return self.recorder.redaction.apply_to_text(convert.text_of(value))

    # LangGraph calls these when a graph pauses and goes on; a pause is not an end of its own.

    def on_interrupt(self, event: Any, **kwargs: Any) -> None:
        """A graph paused for a human."""

    def on_resume(self, event: Any, **kwargs: Any) -> None:
        """A paused graph goes on."""


def _is_node(tags: list[str] | None) -> bool:
    return bool(tags) and any(tag.startswith("graph:step:") for tag in tags or ())


def _is_graph(run: Run) -> bool:
    return run.metadata.get("ls_integration") in ("langgraph", "langchain_create_agent")
