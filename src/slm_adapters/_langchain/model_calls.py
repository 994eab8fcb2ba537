"""What LangChain's callbacks of chat and text models come to: the path that every call pays for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan

from ..messages import Message, Usage
from ..telemetry import semconv, suppression
from ..telemetry.content import Row
from ..telemetry.current import get_context
from ..telemetry.harmless import harmless, note_failure
from ..telemetry.recorder import OpenCall, Recorder
from . import answers, convert, nesting, pending, spent
from .convert import LOCAL_PROVIDER
from .endings import is_closed
from .nesting import contexts, guard_here
from .plans import Plans
from .runs import ALL_NOTED, Run, Runs
from .spans import conversation_of, is_in_graph, role_of

__all__ = ["ModelCalls"]

#: A fallback's call, inside the call it is for, has counted for itself.
_COUNTED: semconv.Counts = (0, 0, None, None, None)


class ModelCalls(BaseCallbackHandler):
    """The callbacks of model calls; ``CallRecorder`` adds those of graphs and tools."""

    recorder: Recorder
    _runs: Runs
    _plans: Plans

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
        around = run.context if run.parent is None else run.parent_context() or get_context()
        if around and not plan.is_ours and (outer := _outer(around)) is not None:
            run.outer = outer
            return
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
            around,
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
            run = self._runs.take(run_id.int)
            if run is None or not isinstance(call := run.span, OpenCall):
                if run is not None and run.outer is not None and run.leader is None:
                    model, response_id, _, counts = answers.facts_from(response)
                    run.outer.hear(Usage(*counts) if counts else None, model, response_id)
                return
            counts = None
            if not call.is_span_only():
                counts = self._finish(call, response)
            elif call.span.__class__ is not NonRecordingSpan:
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
        run = self._runs.take(run_id.int)
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


def _outer(context: Context) -> OpenCall | None:
    """The call of another framework around here, whose LLM asks LangChain: the same call."""
    call = suppression.call_in(context)
    if call is None or call.ended or call.fields["framework"] == "langchain":
        return None
    return call
