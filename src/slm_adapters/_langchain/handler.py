"""``CallRecorder`` for LangChain: callbacks -> spans and records, on the thread they happen on."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks.base import BaseCallbackManager
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry._logs import LoggerProvider
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ..calls import Message
from ..store.opening import StoreLike, open_store
from ..telemetry import semconv
from ..telemetry.content import Redact
from ..telemetry.harmless import harmless
from ..telemetry.recorder import CallHook, OpenCall, OpenSpan, Recorder
from . import convert, pending
from .convert import LOCAL_PROVIDER
from .runs import Run, Runs
from .spans import conversation_of, graph_span, model_facts, role_of, tool_attributes

__all__ = ["CallRecorder", "traced"]

_CANCELLED = "asyncio.exceptions.CancelledError"

LLM = TypeVar("LLM", bound=BaseLanguageModel[Any])


class CallRecorder(BaseCallbackHandler):
    """One span per model call, agent, graph, tool and retrieval; one record if you ask.

    ``store``: a path, a database URL or a ``CallStore``. Providers: default the global ones.
    ``hooks``: functions of every ended ``Call``. ``redact``: see ``content.Redact``.
    Pass it per call, at construction, or both: a run is counted once::

        chain.invoke(x, config={"callbacks": [CallRecorder(store="calls.db")]})
    """

    run_inline = True  # on the event loop: a thread hop would cost ten times the work itself

    def __init__(
        self,
        *,
        store: StoreLike | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        hooks: Sequence[CallHook] = (),
        redact: Redact | None = None,
        app: str | None = None,
        _recorder: Recorder | None = None,
    ) -> None:
        self.recorder = _recorder or Recorder(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            store=open_store(store),
            hooks=hooks,
            redact=redact,
            app=app,
        )
        self._runs = Runs(_end_lost)

    @property
    def open_runs(self) -> int:
        """How many LangChain runs are under way."""
        return len(self._runs)

    def open_call(self, run_id: UUID) -> OpenCall | None:
        """The open call of this model run."""
        run = self._runs.get(run_id)
        return run.span if run is not None and isinstance(run.span, OpenCall) else None

    def close(self) -> None:
        """End what is still open; the recorder can be used again."""
        self._runs.close()

    # Models

    @harmless("LangChain's on_chat_model_start")
    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if run_id in self._runs:
            return
        run = self._runs.start(run_id, parent_run_id, None, metadata)
        said = convert.messages_from(messages[0]) if self.recorder.wants_content else ()
        call = self._open(run, semconv.CHAT, serialized, said, kwargs)
        if call.fields["provider"] == LOCAL_PROVIDER:
            pending.announce(run_id, call, kwargs.get("invocation_params"))

    @harmless("LangChain's on_llm_start")
    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if run_id in self._runs:
            return
        run = self._runs.start(run_id, parent_run_id, None, metadata)
        said = [Message("user", prompt) for prompt in prompts]
        self._open(run, semconv.TEXT_COMPLETION, serialized, said, kwargs)

    def _open(
        self,
        run: Run,
        operation: str,
        serialized: Mapping[str, Any] | None,
        messages: Sequence[Message],
        kwargs: Mapping[str, Any],
    ) -> OpenCall:
        params: Mapping[str, Any] = kwargs.get("invocation_params") or {}
        model, provider = model_facts(serialized, params, run.metadata)
        wanted = self.recorder.wants_content
        response_format = params.get("response_format")
        call = self.recorder.open(
            framework="langchain",
            operation=operation,
            provider=provider,
            model=model,
            params=convert.params_from(params),
            messages=messages,
            tools=convert.tools_from(params) if wanted else (),
            response_format=response_format if isinstance(response_format, dict) else None,
            parent=run.parent_context(),
            start_ns=run.started_ns,
            role=role_of(run),
            run_id=run.root_id,
            in_process=provider == LOCAL_PROVIDER,
        )
        conversation = conversation_of(run)
        if conversation is not None:
            call.note(**{semconv.CONVERSATION_ID: conversation})
        run.span = call
        return call

    @harmless("LangChain's on_llm_new_token")
    def on_llm_new_token(
        self, token: str | list[Any], *, chunk: Any = None, run_id: UUID, **kwargs: Any
    ) -> None:
        self._chunk(run_id, token if isinstance(token, str) else "", "token")

    @harmless("LangChain's on_stream_event")
    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if str(event.get("event", "")).startswith("content-block"):
            delta = event.get("delta") or {}
            self._chunk(run_id, str(delta.get("text") or ""), "event")

    def _chunk(self, run_id: UUID, text: str, source: str) -> None:
        run = self._runs.get(run_id)
        if run is None or not isinstance(call := run.span, OpenCall):
            return
        if run.chunks_from is None:
            run.chunks_from = source
            call.fields["streamed"] = True
            call.span.set_attribute(semconv.REQUEST_STREAM, True)
        # A model may report one chunk through both callbacks: the first kind seen counts.
        if run.chunks_from == source:
            call.chunk(text)

    @harmless("LangChain's on_llm_end")
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.end(run_id)
        if run is None or not isinstance(call := run.span, OpenCall):
            return
        wanted = self.recorder.wants_content
        replies = (convert.replies_from if wanted else convert.bare_replies_from)(response)
        usage = convert.usage_from(response)
        if semconv.FALLBACK_REASON in call.attributes:
            # Another model's tokens: they are on its own span.
            usage = None
        elif usage is not None and call.fields["provider"] == LOCAL_PROVIDER:
            usage = dataclasses.replace(usage, source="tokenizer")
        model, response_id = convert.response_facts(response)
        call.finish(replies, usage, response_model=model, response_id=response_id)

    @harmless("LangChain's on_llm_error")
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        run = self._runs.end(run_id)
        if run is None or not isinstance(call := run.span, OpenCall):
            return
        if isinstance(error, GeneratorExit):
            partial = kwargs.get("response")
            call.abandon(convert.usage_from(partial) if partial is not None else None)
        else:
            call.fail(error)

    # Chains and graphs: only graphs make spans, seen by the first node that starts inside them

    @harmless("LangChain's on_chain_start")
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if run_id in self._runs:
            return
        run = self._runs.start(run_id, parent_run_id, kwargs.get("name"), metadata)
        graph = run.parent
        if graph is not None and graph.span is None and _is_node(tags):
            graph_span(self.recorder, graph)

    @harmless("LangChain's on_chain_end")
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, None)

    @harmless("LangChain's on_chain_error")
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._end(run_id, error)

    def _end(self, run_id: UUID, error: BaseException | None) -> None:
        run = self._runs.end(run_id)
        if run is None:
            return
        if error is not None and _gives_up(error):
            for inner in reversed(self._runs.inside(run)):
                _end_with(inner, error)
        if run.span is None and error is not None and run.parent is None and _is_graph(run):
            graph_span(self.recorder, run)
        _end_with(run, error)

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
        if run_id in self._runs:
            return
        tool = serialized or {}
        name = str(kwargs.get("name") or tool.get("name") or "tool")
        run = self._runs.start(run_id, parent_run_id, name, metadata)
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
        if run_id in self._runs:
            return
        name = kwargs.get("name") or (serialized or {}).get("name")
        run = self._runs.start(run_id, parent_run_id, name, metadata)
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
        )

    def _text(self, value: Any) -> str:
        return self.recorder.redaction.apply_to_text(convert.json_text(value))

    # LangGraph calls these when a graph pauses and goes on; a pause is not an end of its own.

    def on_interrupt(self, event: Any, **kwargs: Any) -> None:
        """A graph paused for a human."""

    def on_resume(self, event: Any, **kwargs: Any) -> None:
        """A paused graph goes on."""


def traced(llm: LLM, *, recorder: CallRecorder | None = None, **options: Any) -> LLM:
    """A copy of ``llm`` of the same type that records its calls; nothing else is touched.

    ``options`` are ``CallRecorder``'s. A model that already has a recorder is copied as it is::

        llm = traced(ChatOpenAI(model="gpt-4.1-mini"), store="calls.db")
    """
    callbacks = llm.callbacks
    handlers = callbacks.handlers if isinstance(callbacks, BaseCallbackManager) else callbacks or []
    if any(isinstance(handler, CallRecorder) for handler in handlers):
        return llm.model_copy()
    recorder = recorder or CallRecorder(**options)
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.add_handler(recorder)
        return llm.model_copy(update={"callbacks": manager})
    return llm.model_copy(update={"callbacks": [*handlers, recorder]})


def _end_lost(run: Run, when_ns: int) -> None:
    """A run whose manager died: a stream given up, or a cancelled call."""
    call = run.span
    if not isinstance(call, OpenCall):
        if call is not None:
            call.note(**{semconv.OUTCOME: "abandoned"})
            call.end(end_ns=when_ns)
        return
    if call.fields["streamed"]:
        call.abandon(end_ns=when_ns)
    else:
        call.fail(_CANCELLED, end_ns=when_ns)


def _end_with(run: Run, error: BaseException | None) -> None:
    span = run.span
    if isinstance(span, OpenCall):
        if isinstance(error, GeneratorExit):
            span.abandon()
        else:
            span.fail(error if error is not None else _CANCELLED)
    elif span is not None:
        _end_span(span, error)


def _end_span(span: OpenSpan, error: BaseException | None) -> None:
    if isinstance(error, GeneratorExit):
        span.note(**{semconv.OUTCOME: "abandoned"})
        span.end()
    elif error is not None and _is_control_flow(error):
        span.note(**{semconv.OUTCOME: "interrupted"})
        span.end()
    else:
        span.end(error)


def _gives_up(error: BaseException) -> bool:
    """Whether what runs inside was given up as well, and may never report its end."""
    return not isinstance(error, Exception)


def _is_control_flow(error: BaseException) -> bool:
    """LangGraph's interrupts and commands travel as exceptions."""
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)


def _is_node(tags: list[str] | None) -> bool:
    return bool(tags) and any(tag.startswith("graph:step:") for tag in tags or ())


def _is_graph(run: Run) -> bool:
    return run.metadata.get("ls_integration") in ("langgraph", "langchain_create_agent")
