"""``CallRecorder`` for LangChain: callbacks -> spans and records, on the thread they happen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from ..messages import Message, Usage
from ..recording import CallRecorderBase
from ..telemetry import semconv
from ..telemetry.content import Row
from ..telemetry.harmless import harmless, note_failure
from ..telemetry.recorder import OpenCall, Recorder
from . import answers, convert, nesting, pending, spent
from .convert import LOCAL_PROVIDER
from .endings import end_lost, end_with, gives_up, is_closed
from .nesting import contexts, guard_here
from .plans import Plans
from .runs import ALL_NOTED, Run, Runs
from .spans import conversation_of, graph_span, is_in_graph, role_of, tool_attributes

__all__ = ["CallRecorder"]

#: A fallback's call, inside the call it is for, has counted for itself.
_COUNTED: semconv.Counts = (0, 0, None, None, None)


class CallRecorder(CallRecorderBase, BaseCallbackHandler):
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
        run = self._runs.end(run_id)
        if run is not None:
            end_with(run, error)

    def close(self) -> None:
        """End what is still open; the recorder can be used again."""
        self._runs.close()

    # Models

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: Mapping[str, Any] | None = None,
        tags: list[str] | None = None,
        options: Any = None,
        name: str | None = None,
        batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        # Not the decorator: this and ``on_llm_end`` are what every call pays. Nor are arguments
        # left to ``kwargs`` that LangChain gives each time: Python compares those to every name.
        try:
            self._open(
                semconv.CHAT, serialized, messages[0], run_id, parent_run_id, metadata,
                invocation_params,
            )  # fmt: skip
        except Exception as error:
            note_failure("LangChain's on_chat_model_start", error)

    @harmless("LangChain's on_llm_start")
    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._open(
            semconv.TEXT_COMPLETION, serialized, prompts, run_id, parent_run_id, metadata,
            invocation_params,
        )  # fmt: skip

    def _open(
        self,
        operation: str,
        serialized: dict[str, Any],
        asked: Sequence[BaseMessage | str],
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: dict[str, Any] | None,
        invocation_params: Mapping[str, Any] | None,
    ) -> None:
        run = self._runs.start(run_id, parent_run_id, None, metadata)
        if run is None:
            return
        recorder, params = self.recorder, invocation_params or {}
        plan = self._plans.plan(operation, serialized, params, run.metadata)
        fields, attributes = plan.fields.copy(), plan.attributes
        fields["started_ns"] = run.started_ns
        said: Sequence[Message] = ()
        rows: Sequence[Row] = ()
        kept = recorder.keeps_calls()
        if kept or recorder.content_on_spans:
            said, rows = self._said(asked, kept)
        if parent_run_id is not None or kept or plan.is_ours:
            fields["run_id"] = run.root_id
        # A call on its own belongs to no run that a span could name.
        if parent_run_id is not None:
            attributes = {**attributes, semconv.RUN_ID: run.root_id}
        in_graph = is_in_graph(run)
        if in_graph and (role := role_of(run)):
            fields["role"] = role
            attributes = {**attributes, semconv.ROLE: role}
        run.span = call = recorder.begin(
            fields,
            attributes,
            plan.name,
            plan.kind,
            said,
            rows,
            convert.tools_from(params) if said or rows else (),
            run.context if run.parent is None else run.parent_context(),
            run.leader.span if run.leader is not None else None,
        )
        contexts.setdefault(run.key, call.context)
        if in_graph and (conversation := conversation_of(run)):
            call.attributes[semconv.CONVERSATION_ID] = conversation
        if guard_here() is not None and (guard := nesting.entered(call)) is not None:
            run.answers(guard)
        if plan.is_ours:
            pending.announce(run_id, call, invocation_params)

    def _said(
        self, asked: Sequence[BaseMessage | str], kept: bool
    ) -> tuple[Sequence[Message], Sequence[Row]]:
        """The messages of a record, or of a span alone; nothing where nobody reads them."""
        if kept and not self.recorder.wants_content:
            return (), ()
        rows = [
            ("user", text, (), None, None) if isinstance(text, str) else convert.row_of(text)
            for text in asked
        ]
        return ([Message(*row) for row in rows], ()) if kept else ((), rows)

    def on_llm_new_token(
        self,
        token: str | list[Any],
        *,
        chunk: Any = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        # The one callback per chunk: no call but the lookup once nothing is left to note.
        run = self._runs.live.get(run_id.int)
        if run is not None and run.chunks is not ALL_NOTED:
            self._chunk(run, token if isinstance(token, str) else "", "token")

    @harmless("LangChain's on_stream_event")
    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.live.get(run_id.int)
        if run is None or run.chunks is ALL_NOTED:
            return
        if str(event.get("event", "")).startswith("content-block"):
            delta = event.get("delta") or {}
            self._chunk(run, str(delta.get("text") or ""), "event")

    @harmless("a chunk of a LangChain stream")
    def _chunk(self, run: Run, text: str, source: str) -> None:
        call = run.span
        if not isinstance(call, OpenCall):
            return
        if run.chunks is None:
            run.chunks = source
            call.fields["streamed"] = True
            call.span.set_attribute(semconv.REQUEST_STREAM, True)
        # A model may report one chunk through both callbacks: the first kind seen counts.
        if run.chunks == source:
            call.chunk(text)
            if not call.wants_chunks:
                run.chunks = ALL_NOTED

    def on_llm_end(
        self,
        response: LLMResult,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        run: Any = None
        call: Any = None
        try:
            run = self._runs.end(run_id)
            if run is None or not isinstance(call := run.span, OpenCall):
                return
            counts = None
            if not call.is_span_only():
                counts = self._finish(call, response)
            elif call.span.is_recording():
                counts = self._finish_span(call, response)
            else:
                call.finish_span(None)
            if run.parent is not None:
                spent.called(run, Usage(*counts) if counts is not None else None)
        except Exception as error:
            note_failure("LangChain's on_llm_end", error)
            if isinstance(call, OpenCall):
                call.finish()  # an answer nobody can read is an end too
                spent.called(run, None)

    def _finish_span(self, call: OpenCall, response: LLMResult) -> semconv.Counts | None:
        """End a call whose span is all that is read; return its tokens for the graphs around."""
        model, response_id, reasons, counts = answers.facts_from(response)
        if semconv.FALLBACK_REASON in call.attributes:
            # Another model's tokens: they are on its own span.
            counts, told = _COUNTED, None
        else:
            told = counts
        used = self.recorder.profile
        ended = semconv.answer_attributes(model, response_id, reasons, told, used)
        if self.recorder.content_on_spans:
            ended[semconv.OUTPUT_MESSAGES] = answers.output_json(response)
        call.finish_span(ended)
        return counts

    def _finish(self, call: OpenCall, response: LLMResult) -> semconv.Counts | None:
        """The same for a call whose record somebody keeps."""
        model, response_id, _, counts = answers.facts_from(response)
        fell_back = semconv.FALLBACK_REASON in call.attributes
        usage = None
        if counts is not None and not fell_back:
            local = call.fields["provider"] == LOCAL_PROVIDER
            usage = Usage(*counts, "tokenizer" if local else "provider")
        replies = answers.replies_from(response)
        call.finish(replies, usage, response_model=model, response_id=response_id)
        return _COUNTED if fell_back else counts

    @harmless("LangChain's on_llm_error")
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.end(run_id)
        if run is None or not isinstance(call := run.span, OpenCall):
            return
        if is_closed(run, error):
            partial = kwargs.get("response")
            usage = answers.usage_from(partial) if partial is not None else None
            spent.called(run, usage)
            call.abandon(usage)
        else:
            spent.called(run, Usage(0, 0))  # as everywhere, a failed call counts nothing
            call.fail(error)

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
        run = self._runs.end(run_id)
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
