"""One lifecycle for every call: open -> chunk -> finish | fail | abandon.

A recorder turns each call into one span and, for whoever asked (a store, a hook), one ``Call``.
It uses the OpenTelemetry API only: without a configured provider, spans cost almost nothing.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, SpanKind, TracerProvider

from ..messages import Message, Tool
from ..scope import NO_LABELS, current_scope
from . import content, semconv, suppression
from .current import get_context, switched_to
from .energy import EnergyMeter
from .harmless import note_failure
from .hooks import CallHook, CompletionHook, Completions, sorted_out
from .metrics import Metrics
from .open_call import OpenCall, OpenSpan, error_type, global_hooks, new_call_id
from .spending import Prices

if TYPE_CHECKING:
    # What few recorders need is imported by those.
    from opentelemetry._logs import LoggerProvider

    from ..calls import Call
    from .events import Events
    from .open_call import CallFields

    class CallSink(Protocol):
        """Where calls are kept; ``slm_adapters.store.CallStore`` is one."""

        def write(self, call: Call) -> None: ...


__all__ = [
    "CallHook",
    "CompletionHook",
    "OpenCall",
    "OpenSpan",
    "Recorder",
    "as_current_call",
    "current_call",
    "default_recorder",
    "error_type",
    "global_hooks",
]


class Recorder:
    """Opens calls and spans on one tracer, and hands ended calls to a store and hooks.

    ``prices``: US dollars per million tokens, see ``spending.Prices``. ``energy``: read the
    machine's counters around calls of local models.
    ``hooks``: functions of a ``Call``, or objects with OpenTelemetry's ``on_completion``.
    ``store``: anything with ``write(call)``. ``redact``: see ``content.Redact``. ``app``: a name
    for the program, kept in each record. The providers default to the global ones.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        store: CallSink | None = None,
        hooks: Sequence[CallHook | CompletionHook] = (),
        redact: content.Redact | None = None,
        app: str | None = None,
        prices: Prices | None = None,
        energy: bool = False,
    ) -> None:
        self.app = app
        self.prices = prices
        self.energy = EnergyMeter() if energy else None
        self.tracer_provider = tracer_provider
        self.redaction = content.Redaction(redact)
        self.store = store
        self.hooks, contract = sorted_out(hooks)
        if store is not None:
            self.hooks.append(store.write)
        self.completions = Completions(contract) or None
        mode = content.capture_mode()
        self.content_on_spans = mode.on_spans
        self.events = _events(logger_provider) if mode.on_events else None
        self._reads_content = (
            self.content_on_spans or self.events is not None or self.completions is not None
        )
        # A redactor is a function of ``Message`` objects.
        redacts = self.content_on_spans and self.redaction.is_on
        readers = (prices, self.completions, self.events)
        self.reads_calls = redacts or any(reader is not None for reader in readers)
        self.profile = semconv.profile()
        self.metrics = Metrics(meter_provider, self.profile)
        tracer = trace.get_tracer("slm_adapters", _version(), tracer_provider=tracer_provider)
        self._start_span = tracer.start_span

    def shadow(self) -> Recorder:
        """One with the same hooks and store that makes no span, metric or event."""
        made = copy.copy(self)
        made.metrics = Metrics(NoOpMeterProvider(), self.profile)
        made._start_span = NoOpTracerProvider().get_tracer("slm_adapters").start_span
        made.events = made.completions = None
        made.content_on_spans = made._reads_content = False
        return made

    @property
    def wants_content(self) -> bool:
        """Whether anybody reads messages: convert them only then."""
        return self._reads_content or bool(self.hooks or global_hooks)

    def keeps_calls(self) -> bool:
        """Whether anybody reads more of a call than its span: make records only then."""
        return self.reads_calls or bool(self.hooks or global_hooks)

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
        messages: Sequence[Message] = (),
        tools: Sequence[Tool] = (),
        parent: Context | None = None,
        in_process: bool = False,
        beside: OpenSpan | None = None,
        **fields: Unpack[CallFields],
    ) -> OpenCall:
        """Start a model call; ``parent`` defaults to the current OpenTelemetry context.

        ``fields`` are the record's. An ambient ``role(...)`` or ``run(...)`` wins over the
        framework's own names. ``beside``: another recorder's span of the same call; then this one
        keeps a record only.
        """
        operation = fields.setdefault("operation", semconv.CHAT)
        if not fields.get("started_ns"):
            fields["started_ns"] = time.time_ns()
        record, model = cast("dict[str, Any]", fields), fields.get("model")
        return self.begin(
            record,
            semconv.call_attributes(record),
            semconv.span_name(operation, model),
            semconv.span_kind(operation, in_process),
            messages=messages,
            tools=tools,
            parent=parent,
            beside=beside,
        )

    def begin(
        self,
        fields: dict[str, Any],
        attributes: dict[str, Any],
        name: str,
        kind: SpanKind,
        messages: Sequence[Message] = (),
        rows: Sequence[content.Row] = (),
        tools: Sequence[Tool] = (),
        parent: Context | None = None,
        beside: OpenSpan | None = None,
    ) -> OpenCall:
        """:meth:`open` for callers that know the span's name, kind and attributes already.

        ``fields`` become the call's; ``attributes`` may be many calls'. ``rows``: messages for the
        span only, see :meth:`keeps_calls`.
        """
        scope = current_scope()
        if parent is None:
            parent = get_context()
        quiet = beside is not None or bool(parent and suppression.is_suppressed(parent))
        if messages or rows or self.hooks or scope is not NO_LABELS:
            attributes = attributes.copy()
            semconv.relabel(fields, attributes, scope.role, scope.run_id)
            messages = self.redaction.apply(messages)
            if not quiet:
                self._write_more(fields, attributes, messages, rows, tools)
        call = OpenCall()
        call.recorder, call.labels = self, attributes
        call.fields, call.attributes = fields, {}
        call.operation, call.started_ns = fields["operation"], fields["started_ns"]
        if quiet:
            call.quiet = call.says_more = True
            call.context = beside.context if beside is not None else parent
            call.span = suppression.quiet_span(call.context)
        else:
            if parent and self.profile.agents_have_provider:
                _name_provider(parent, fields.get("provider"))
            call.span = self._start_span(name, parent, kind, attributes, (), call.started_ns)
            call.context = suppression.around(call, parent)
            if self.metrics.collects():
                call.metrics, call.says_more = self.metrics, True
            if self.energy is not None and kind is SpanKind.INTERNAL:
                call.energy_before, call.says_more = self.energy.read(), True
        if messages or tools:
            call.messages, call.tools = messages, tools
        if scope is not NO_LABELS:
            call.scope = scope
        return call

    def reopen(
        self,
        call: OpenCall,
        *,
        messages: Sequence[Message] = (),
        tools: Sequence[Tool] = (),
        parent: Context,
        **fields: Unpack[CallFields],
    ) -> None:
        """Let an open call be another model's than it began as; it keeps its start and place."""
        record = {**call.fields, **fields}
        attributes = semconv.call_attributes(record)
        semconv.relabel(record, attributes, call.scope.role, call.scope.run_id)
        messages = self.redaction.apply(messages)
        if not call.quiet:
            self._write_more(record, attributes, messages, (), tools)
            call.span.update_name(semconv.span_name(call.operation, fields.get("model")))
            call.span.set_attributes(attributes)
            if self.profile.agents_have_provider:
                _name_provider(parent, fields.get("provider"))
        call.fields, call.labels = record, attributes
        call.messages, call.tools = messages, tools

    def _write_more(
        self,
        fields: dict[str, Any],
        attributes: dict[str, Any],
        messages: Sequence[Message],
        rows: Sequence[content.Row],
        tools: Sequence[Tool],
    ) -> None:
        """What few spans start with: the record's id, and content."""
        if self.hooks:
            attributes[semconv.CALL_ID] = fields["call_id"] = new_call_id()
        wanted = self.content_on_spans and (messages or rows)
        if not wanted or attributes[semconv.OPERATION_NAME] == semconv.EMBEDDINGS:
            return
        if rows:
            attributes[semconv.INPUT_MESSAGES] = content.fitted(list(map(content.structured, rows)))
        elif not self.completions:  # they may change the messages, so those are written last
            attributes[semconv.INPUT_MESSAGES] = content.input_json(messages)
        if tools:
            attributes[semconv.TOOL_DEFINITIONS] = content.tool_definitions_json(tools)

    def span(
        self,
        operation: str,
        target: str | None,
        *,
        attributes: Mapping[str, Any] | None = None,
        parent: Context | None = None,
        start_ns: int | None = None,
        beside: OpenSpan | None = None,
    ) -> OpenSpan:
        """Start an agent, task, tool or workflow span; ``beside`` as in :meth:`open`."""
        attributes = {semconv.OPERATION_NAME: operation, **(attributes or {})}
        name, kind = semconv.span_name(operation, target), semconv.span_kind(operation)
        if parent is None:
            parent = get_context()
        opened = OpenSpan()
        opened.recorder, opened.operation, opened.labels = self, operation, attributes
        opened.attributes, opened.started_ns = {}, start_ns or time.time_ns()
        if beside is not None or suppression.is_silenced(parent):
            opened.quiet = True
            opened.context = beside.context if beside is not None else parent
            opened.span = suppression.quiet_span(opened.context)
            return opened
        present = {key: value for key, value in attributes.items() if value is not None}
        if operation == semconv.INVOKE_AGENT and self.profile.agents_have_provider:
            # Required; which model an agent has shows at its first call, if not before.
            present.setdefault(semconv.PROVIDER_NAME, "unknown")
        opened.span = self._start_span(name, parent, kind, present, start_time=opened.started_ns)
        opened.context = suppression.inside(opened, parent)
        return opened


def _events(logger_provider: LoggerProvider | None) -> Events:
    from .events import Events

    return Events(logger_provider)


def _name_provider(context: Context, provider: str | None) -> None:
    """Tell the agent right around a call its model's provider, if it does not know one."""
    agent = suppression.innermost(context) if provider else None
    if agent is not None and agent.operation == semconv.INVOKE_AGENT:
        agent.attributes.setdefault(semconv.PROVIDER_NAME, provider)


_default: Recorder | None = None


def current_call() -> OpenCall | None:
    """The call a framework's recorder opened around the running code, if it is still open."""
    call = suppression.call_in(get_context())
    return None if call is None or call.ended else call


def as_current_call(call: OpenCall) -> contextlib.AbstractContextManager[None]:
    """Make ``call`` the current one, and its span the current OpenTelemetry span."""
    return switched_to(call.context)


def default_recorder() -> Recorder:
    """The recorder of model classes used without a callback: global provider, no store."""
    global _default
    if _default is None:
        _default = Recorder()
    return _default


def _version() -> str:
    from .. import __version__

    return __version__
