"""One lifecycle for every call: open -> chunk -> finish | fail | abandon.

A recorder turns each call into one span and, for whoever asked (a store, a hook), one ``Call``.
It uses the OpenTelemetry API only: without a configured provider, spans cost almost nothing.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from ..calls import Call, Message, Outcome, Reply, Tool, Usage, current_scope
from . import content, semconv
from .harmless import harmless, note_failure
from .metrics import Metrics

__all__ = ["CallHook", "OpenCall", "OpenSpan", "Recorder", "current_call", "default_recorder"]

#: Called once with every ended call, whatever the sampling decision; exceptions are counted.
CallHook = Callable[[Call], None]


class CallSink(Protocol):
    """Where calls are kept; ``slm_adapters.store.CallStore`` is one."""

    def write(self, call: Call) -> None: ...


class OpenSpan:
    """An open agent, task, tool or workflow span. Ends once; later ends are ignored."""

    __slots__ = (
        "_ended", "attributes", "context", "labels", "operation", "recorder", "span", "started_ns",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        span: Span,
        context: Context,
        operation: str,
        labels: Mapping[str, Any],
        started_ns: int,
    ) -> None:
        self.recorder, self.span, self.operation = recorder, span, operation
        self.started_ns = started_ns
        #: What the span was started with; metrics pick their labels from it.
        self.labels = labels
        #: OpenTelemetry context with this span as the current one: the parent of what is inside.
        self.context = context
        self.attributes: dict[str, Any] = {}
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def note(self, **attributes: Any) -> None:
        """Add attributes by semconv name, written when the span ends."""
        self.attributes.update(attributes)

    @harmless("ending a span")
    def end(self, error: BaseException | str | None = None, *, end_ns: int | None = None) -> None:
        """End the span; ``error`` is an exception or the name of its class."""
        if not self._close():
            return
        kind = error_type(error) if error is not None else None
        if kind is not None:
            self._mark_failed(kind)
        self._write(self.attributes)
        end_ns = end_ns or time.time_ns()
        self.span.end(end_ns)
        metrics = self.recorder.metrics
        if metrics.enabled:
            labels = {**self.labels, **self.attributes, semconv.ERROR_TYPE: kind}
            metrics.span_ended(self.operation, labels, (end_ns - self.started_ns) / 1e9)

    def _close(self) -> bool:
        was_open, self._ended = not self._ended, True
        return was_open

    def _mark_failed(self, kind: str) -> None:
        # The class only: exception texts may quote the prompt.
        self.span.set_attribute(semconv.ERROR_TYPE, kind)
        self.span.set_status(Status(StatusCode.ERROR, kind))

    def _write(self, attributes: Mapping[str, Any]) -> None:
        if self.span.is_recording():
            self.span.set_attributes({k: v for k, v in attributes.items() if v is not None})


class OpenCall(OpenSpan):
    """A model call in flight. Fields may be filled in until it ends."""

    __slots__ = (
        "_chunks", "_last_chunk_ns", "_metrics", "fields", "first_chunk_ns", "messages", "scope",
        "tools",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        span: Span,
        context: Context,
        fields: dict[str, Any],
        messages: Sequence[Message],
        tools: Sequence[Tool],
        labels: Mapping[str, Any],
    ) -> None:
        super().__init__(recorder, span, context, fields["operation"], labels, fields["started_ns"])
        self.fields = fields
        self.scope = current_scope()
        self.messages, self.tools = messages, tools
        self.first_chunk_ns: int | None = None
        self._last_chunk_ns = 0
        self._chunks: list[str] = []
        self._metrics = recorder.metrics if recorder.metrics.enabled else None

    def chunk(self, text: str | None = None) -> None:
        """A piece of a stream arrived; its text is kept in case the stream is given up."""
        if self.first_chunk_ns is None:
            self.first_chunk_ns = self._last_chunk_ns = time.time_ns()
        elif self._metrics is not None:
            now = time.time_ns()
            self._metrics.chunk(self.labels, (now - self._last_chunk_ns) / 1e9)
            self._last_chunk_ns = now
        if text and self.recorder.wants_content:
            self._chunks.append(text)

    def finish(
        self,
        replies: Sequence[Reply] = (),
        usage: Usage | None = None,
        *,
        response_model: str | None = None,
        response_id: str | None = None,
        end_ns: int | None = None,
    ) -> None:
        """The call succeeded."""
        self.fields.update(response_model=response_model, response_id=response_id)
        self._finish("finished", tuple(replies), usage, None, end_ns)

    def fail(self, error: BaseException | str, *, end_ns: int | None = None) -> None:
        """The call raised; ``error`` is the exception or the name of its class."""
        self._finish("failed", (), None, error_type(error), end_ns)

    def abandon(self, usage: Usage | None = None, *, end_ns: int | None = None) -> None:
        """The caller stopped listening: an end, but not an error. Streamed text is kept."""
        text = "".join(self._chunks)
        replies = (Reply(Message("assistant", text), "error"),) if text else ()
        self._finish("abandoned", replies, usage, None, end_ns)

    @harmless("ending a call")
    def _finish(
        self,
        outcome: Outcome,
        replies: tuple[Reply, ...],
        usage: Usage | None,
        error: str | None,
        end_ns: int | None,
    ) -> None:
        if not self._close():
            return
        ended_ns = end_ns or time.time_ns()
        try:
            kept = self.recorder.redaction.apply_to_replies(replies) if replies else ()
            if self.span.is_recording():
                self._write(self._end_attributes(outcome, replies, kept, usage))
                if error is not None:
                    self._mark_failed(error)
        finally:
            self.span.end(ended_ns)
        if self._metrics is not None:
            self._measure(usage, error, ended_ns)
        if self.recorder.hooks or global_hooks:
            self.recorder.deliver(self._call(outcome, kept, usage, error, ended_ns))

    @harmless("metrics")
    def _measure(self, usage: Usage | None, error: str | None, ended_ns: int) -> None:
        assert self._metrics is not None
        first = None
        if self.fields.get("streamed") and self.first_chunk_ns is not None:
            first = (self.first_chunk_ns - self.started_ns) / 1e9
        response_model = self.fields.get("response_model")
        ended = {semconv.RESPONSE_MODEL: response_model, semconv.ERROR_TYPE: error}
        labels = {**self.labels, **self.attributes, **ended}
        self._metrics.call_ended(labels, usage, (ended_ns - self.started_ns) / 1e9, first)

    def _end_attributes(
        self, outcome: Outcome, replies: Sequence[Reply], kept: Sequence[Reply], usage: Usage | None
    ) -> dict[str, Any]:
        reasons = [reply.finish_reason or "stop" for reply in replies]
        attributes: dict[str, Any] = {
            semconv.RESPONSE_MODEL: self.fields.get("response_model"),
            semconv.RESPONSE_ID: self.fields.get("response_id"),
            semconv.RESPONSE_FINISH_REASONS: reasons if outcome == "finished" else ["error"],
            semconv.OUTCOME: outcome if outcome != "finished" else None,
        }
        if usage is not None:
            attributes[semconv.USAGE_INPUT_TOKENS] = usage.input_tokens
            attributes[semconv.USAGE_OUTPUT_TOKENS] = usage.output_tokens
            attributes[semconv.USAGE_CACHE_READ_TOKENS] = usage.cached_tokens
            attributes[semconv.USAGE_CACHE_WRITE_TOKENS] = usage.cache_write_tokens
            attributes[semconv.USAGE_REASONING_TOKENS] = usage.reasoning_tokens
        if self.fields.get("streamed") and self.first_chunk_ns is not None:
            waited = (self.first_chunk_ns - self.started_ns) / 1e9
            attributes[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = waited
        if kept and self.recorder.content_on_spans:
            attributes[semconv.OUTPUT_MESSAGES] = content.output_json(kept)
        return attributes | self.attributes

    def _call(
        self,
        outcome: Outcome,
        replies: tuple[Reply, ...],
        usage: Usage | None,
        error: str | None,
        ended_ns: int,
    ) -> Call:
        span_context = self.span.get_span_context()
        valid = span_context.is_valid
        return Call(
            **self.fields,
            trace_id=f"{span_context.trace_id:032x}" if valid else None,
            span_id=f"{span_context.span_id:016x}" if valid else None,
            messages=tuple(self.messages),
            tools=tuple(self.tools),
            replies=replies,
            usage=usage,
            first_chunk_ns=self.first_chunk_ns if self.fields.get("streamed") else None,
            ended_ns=ended_ns,
            outcome=outcome,
            error_type=error,
            attributes={**self.scope.attributes, **self.attributes},
        )


class Recorder:
    """Opens calls and spans on one tracer, and hands ended calls to a store and hooks.

    ``store``: anything with ``write(call)``. ``redact``: see ``content.Redact``. ``app``: a name
    for the program, kept in each record. ``tracer_provider``, ``meter_provider``: default the
    global ones.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        store: CallSink | None = None,
        hooks: Sequence[CallHook] = (),
        redact: content.Redact | None = None,
        app: str | None = None,
    ) -> None:
        self.app = app
        self.redaction = content.Redaction(redact)
        self.store = store
        self.hooks: list[CallHook] = [*hooks]
        if store is not None:
            self.hooks.append(store.write)
        self.content_on_spans = content.spans_carry_content()
        self.metrics = Metrics(meter_provider)
        self._tracer = trace.get_tracer("slm_adapters", _version(), tracer_provider=tracer_provider)

    @property
    def wants_content(self) -> bool:
        """Whether anybody reads messages: convert them only then."""
        return self.content_on_spans or bool(self.hooks or global_hooks)

    def deliver(self, call: Call) -> None:
        """Hand an ended call to every hook; a hook that raises is counted."""
        for hook in (*self.hooks, *global_hooks):
            try:
                hook(call)
            except Exception as error:
                note_failure("a completion hook", error)

    def open(
        self,
        *,
        framework: str,
        operation: str = semconv.CHAT,
        provider: str | None = None,
        model: str | None = None,
        params: Mapping[str, Any] | None = None,
        messages: Sequence[Message] = (),
        tools: Sequence[Tool] = (),
        response_format: dict[str, Any] | None = None,
        stream: bool = False,
        parent: Context | None = None,
        start_ns: int | None = None,
        role: str | None = None,
        task: str | None = None,
        run_id: str | None = None,
        parent_id: str | None = None,
        attempt: int = 1,
        in_process: bool = False,
    ) -> OpenCall:
        """Start a model call; ``parent`` defaults to the current OpenTelemetry context.

        An ambient ``role(...)`` or ``run(...)`` wins over the framework's own names.
        """
        scope = current_scope()
        messages = self.redaction.apply(messages) if messages else ()
        started = start_ns or time.time_ns()
        fields: dict[str, Any] = {
            "call_id": uuid.uuid4().hex,
            "framework": framework,
            "operation": operation,
            "run_id": scope.run_id or run_id,
            "parent_id": parent_id,
            "app": self.app,
            "role": scope.role or role,
            "task": task,
            "provider": provider,
            "model": model,
            "params": dict(params or {}),
            "response_format": response_format,
            "streamed": stream,
            "started_ns": started,
            "attempt": attempt,
        }
        attributes: dict[str, Any] = {
            semconv.OPERATION_NAME: operation,
            semconv.PROVIDER_NAME: provider or "unknown",
            semconv.REQUEST_MODEL: model,
            semconv.REQUEST_STREAM: True if stream else None,
            semconv.ROLE: fields["role"],
            semconv.TASK_NAME: task,
            semconv.RUN_ID: fields["run_id"],
            semconv.CALL_ID: fields["call_id"] if self.hooks else None,
            semconv.OUTPUT_TYPE: "json" if response_format else None,
            **semconv.request_attributes(fields["params"]),
        }
        if self.content_on_spans and messages:
            attributes[semconv.INPUT_MESSAGES] = content.input_json(messages)
            if tools:
                attributes[semconv.TOOL_DEFINITIONS] = content.tool_definitions_json(tools)
        kind = semconv.span_kind(operation, in_process=in_process)
        name = semconv.span_name(operation, model)
        span, context = self._start(name, kind, attributes, parent, started)
        return OpenCall(self, span, context, fields, messages, tools, attributes)

    def span(
        self,
        operation: str,
        target: str | None,
        *,
        attributes: Mapping[str, Any] | None = None,
        parent: Context | None = None,
        start_ns: int | None = None,
    ) -> OpenSpan:
        """Start an agent, task, tool or workflow span."""
        attributes = {semconv.OPERATION_NAME: operation, **(attributes or {})}
        name, kind = semconv.span_name(operation, target), semconv.span_kind(operation)
        started = start_ns or time.time_ns()
        span, context = self._start(name, kind, attributes, parent, started)
        return OpenSpan(self, span, context, operation, attributes, started)

    def _start(
        self,
        name: str,
        kind: trace.SpanKind,
        attributes: Mapping[str, Any],
        parent: Context | None,
        start_ns: int | None,
    ) -> tuple[Span, Context]:
        parent = parent if parent is not None else otel_context.get_current()
        present = {key: value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(name, parent, kind, present, start_time=start_ns)
        return span, trace.set_span_in_context(span, parent)


#: Hooks every recorder feeds, for test doubles that watch a whole process.
global_hooks: list[CallHook] = []

_current_call: ContextVar[OpenCall | None] = ContextVar("slm_adapters_open_call", default=None)
_default: Recorder | None = None


def current_call() -> OpenCall | None:
    """The call a framework's recorder opened around the running code, if it is still open."""
    call = _current_call.get()
    return None if call is None or call.ended else call


@contextlib.contextmanager
def as_current_call(call: OpenCall) -> Iterator[None]:
    """Make ``call`` the current one, and its span the current OpenTelemetry span."""
    outer_call, outer_context = _current_call.get(), otel_context.get_current()
    set_current_call(call, call.context)
    try:
        yield
    finally:
        set_current_call(outer_call, outer_context)


def set_current_call(call: OpenCall | None, context: Context) -> None:
    """Set both by value: tokens cannot be reset from another task or thread."""
    _current_call.set(call)
    otel_context.attach(context)


def default_recorder() -> Recorder:
    """The recorder of model classes used without a callback: global provider, no store."""
    global _default
    if _default is None:
        _default = Recorder()
    return _default


def error_type(error: BaseException | str) -> str:
    """``error.type``: the qualified class name; builtins without a module."""
    if isinstance(error, str):
        return error
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"


def _version() -> str:
    from .. import __version__

    return __version__
