"""An open call or span: filled in while it runs, ended exactly once."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Required, TypedDict

from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from ..messages import Message, Reply, Tool, Usage
from ..scope import NO_LABELS
from . import content, semconv, spending, suppression
from .harmless import harmless, note_failure
from .hooks import CallHook

if TYPE_CHECKING:
    from ..calls import Call, Outcome
    from .metrics import Metrics
    from .recorder import Recorder

__all__ = [
    "CallFields", "CallHook", "OpenCall", "OpenSpan", "error_type", "global_hooks", "new_call_id",
]  # fmt: skip

#: Hooks every recorder feeds, for test doubles that watch a whole process.
global_hooks: list[CallHook] = []


class CallFields(TypedDict, total=False):
    """What a ``Call`` says of itself when it starts, by the record's names."""

    framework: Required[str]
    operation: str
    provider: str | None
    model: str | None
    params: dict[str, Any]
    response_format: dict[str, Any] | None
    streamed: bool
    started_ns: int
    role: str | None
    task: str | None
    run_id: str | None
    parent_id: str | None
    call_id: str
    attempt: int


class OpenSpan:
    """An open agent, task, tool or workflow span. Ends once; later ends are ignored.

    ``Recorder`` opens spans and calls and fills them in.
    """

    # Class attributes, not slots: what most spans never change costs nothing. No ``__init__``: it
    # would cost more than what it does.
    _ended = False
    #: Whether somebody else has the span and the metrics of this.
    quiet = False
    #: An agent's or a workflow's sums of what runs inside it.
    spent: spending.Spent | None = None

    recorder: Recorder
    span: Span
    operation: str
    started_ns: int
    #: What the span was started with; metrics pick their labels from it.
    labels: Mapping[str, Any]
    #: OpenTelemetry context with this span as the current one: the parent of what is inside.
    context: Context
    #: Written when the span ends.
    attributes: dict[str, Any]

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
        if not self.quiet and metrics.collects():
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
        if attributes and self.span.is_recording():
            self.span.set_attributes({k: v for k, v in attributes.items() if v is not None})


class OpenCall(OpenSpan):
    """A model call in flight. Fields may be filled in until it ends."""

    #: The record's, as far as they are known.
    fields: dict[str, Any]
    messages: Sequence[Message] = ()
    tools: Sequence[Tool] = ()
    #: The program's own labels where the call was made.
    scope = NO_LABELS
    metrics: Metrics | None = None
    first_chunk_ns: int | None = None
    _last_chunk_ns = 0
    _chunks: list[str] | None = None
    #: What a client's instrumentation inside this call found out (util-genai's InferenceData).
    learned: Any = None
    #: What it used, as far as anybody said so.
    usage: Usage | None = None
    #: The energy counters when the call began, by source.
    energy_before: dict[str, float] | None = None
    #: Those when it ended, if that is told later.
    energy_after: dict[str, float] | None = None
    #: Whether its end says more than a span and a record do: metrics, energy, an outer call.
    says_more = False

    @property
    def call_id(self) -> str:
        """The record's id, made when somebody asks for it."""
        if "call_id" not in self.fields:
            self.fields["call_id"] = new_call_id()
        return str(self.fields["call_id"])

    @property
    def wants_chunks(self) -> bool:
        """Whether chunks after the first matter: for a metric, or to keep their text."""
        return self.metrics is not None or self.recorder.wants_content

    def chunk(self, text: str | None = None) -> None:
        """A piece of a stream arrived; its text is kept in case the stream is given up."""
        if self.first_chunk_ns is None:
            self.first_chunk_ns = self._last_chunk_ns = time.time_ns()
        elif self.metrics is not None:
            now = time.time_ns()
            self.metrics.chunk(self.labels, (now - self._last_chunk_ns) / 1e9)
            self._last_chunk_ns = now
        if text and self.recorder.wants_content:
            if self._chunks is None:
                self._chunks = []
            self._chunks.append(text)

    def hear(self, usage: Usage | None, model: str | None, response_id: str | None) -> None:
        """What a client inside this call was answered; what its own end says wins."""
        if self._ended:
            return
        if usage is not None:
            self.usage = usage if self.usage is None else self.usage + usage
        for name, value in (("response_model", model), ("response_id", response_id)):
            if value and not self.fields.get(name):
                self.fields[name] = value

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
        if response_model is not None:
            self.fields["response_model"] = response_model
        if response_id is not None:
            self.fields["response_id"] = response_id
        self._finish("finished", tuple(replies), usage, None, end_ns)

    def is_span_only(self) -> bool:
        """Whether nobody reads more of this call than its span: no record, metric, outer call."""
        recorder = self.recorder
        return not (recorder.reads_calls or recorder.hooks or global_hooks or self.says_more)

    def finish_span(self, ended: dict[str, Any] | None) -> None:
        """The call succeeded, see :meth:`is_span_only`; ``ended`` are its last attributes."""
        if self._ended:
            return
        self._ended = True
        try:
            if ended is not None:
                if self.attributes or self.first_chunk_ns is not None:
                    self._add_own(ended)
                self.span.set_attributes(ended)
        finally:
            self.span.end()

    def fail(self, error: BaseException | str, *, end_ns: int | None = None) -> None:
        """The call raised; ``error`` is the exception or the name of its class."""
        self._finish("failed", (), None, error_type(error), end_ns)

    def abandon(self, usage: Usage | None = None, *, end_ns: int | None = None) -> None:
        """The caller stopped listening: an end, but not an error. Streamed text is kept."""
        text = "".join(self._chunks or ())
        replies = (Reply(Message("assistant", text), "error"),) if text else ()
        self._finish("abandoned", replies, usage, None, end_ns)

    def _finish(
        self,
        outcome: Outcome,
        replies: tuple[Reply, ...],
        usage: Usage | None,
        error: str | None,
        end_ns: int | None,
    ) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            self._end(outcome, replies, usage, error, end_ns or time.time_ns())
        except Exception as failure:
            note_failure("ending a call", failure)

    def _end(
        self,
        outcome: Outcome,
        replies: tuple[Reply, ...],
        usage: Usage | None,
        error: str | None,
        ended_ns: int,
    ) -> None:
        if self.learned is not None:
            usage = suppression.learned(self, usage)
        elif self.quiet:
            suppression.teach(self, usage)
        usage = self.usage if usage is None else usage
        # An estimate is for the record, which says that it is one.
        self.usage = counted = None if usage is None or usage.source == "estimated" else usage
        if (
            self.recorder.prices is not None
            or self.energy_before is not None
            or "cost" in self.fields
        ):
            self._spend(usage)
        kept: tuple[Reply, ...] = ()
        try:
            if replies:
                kept = self.recorder.redaction.apply_to_replies(replies)
            self._tell(outcome, replies, kept, counted, error, ended_ns)
        finally:
            if not self.quiet:
                self.span.end(ended_ns)
        if self.metrics is not None:
            self._measure(counted, error, ended_ns)
        if self.recorder.hooks or global_hooks:
            self.recorder.deliver(self._call(outcome, kept, usage, error, ended_ns))

    @harmless("cost and energy")
    def _spend(self, usage: Usage | None) -> None:
        """Cost by the user's prices, else the framework's own; energy by the counters."""
        fields, recorder = self.fields, self.recorder
        if recorder.prices is not None:
            models = (fields.get("response_model"), fields.get("model"))
            price = spending.cost(recorder.prices, models, usage)
            if price is not None:
                fields["cost"], fields["cost_source"] = price, "prices"
        if fields.get("cost") is not None:
            self.note(**{semconv.COST: fields["cost"], semconv.COST_SOURCE: fields["cost_source"]})
        if self.energy_before is not None and recorder.energy is not None:
            device = self.attributes.get(semconv.DEVICE)
            after = self.energy_after or recorder.energy.read()
            spent = recorder.energy.spent(self.energy_before, after, device)
            if spent is not None:
                fields["energy_j"], fields["energy_source"] = spent
                self.note(**{semconv.ENERGY: spent[0], semconv.ENERGY_SOURCE: spent[1]})

    def _tell(
        self,
        outcome: Outcome,
        replies: Sequence[Reply],
        kept: Sequence[Reply],
        usage: Usage | None,
        error: str | None,
        ended_ns: int,
    ) -> None:
        """Write the span's last attributes and the event."""
        # The event is of inference; embeddings have none, and no messages.
        silent = self.quiet or self.operation == semconv.EMBEDDINGS
        events = None if silent else self.recorder.events
        recording, hooks = self.span.is_recording(), self.recorder.completions
        if not recording and events is None and not hooks:
            return
        ended = self._end_attributes(outcome, replies, usage)
        record = None
        if events is not None:
            record = events.record(self, {**self.labels, **ended}, kept, error, ended_ns)
        said = hooks.tell(self, kept, record) if hooks else None
        if recording:
            if self.recorder.content_on_spans and not silent:
                if said is not None:
                    ended[semconv.INPUT_MESSAGES] = said.input_json()
                    ended[semconv.OUTPUT_MESSAGES] = said.output_json()
                elif kept:
                    ended[semconv.OUTPUT_MESSAGES] = content.output_json(kept)
            if ended:
                self.span.set_attributes(ended)
            if error is not None:
                self._mark_failed(error)
        if events is not None and record is not None:
            events.emit(record)

    @harmless("metrics")
    def _measure(self, usage: Usage | None, error: str | None, ended_ns: int) -> None:
        assert self.metrics is not None
        first = None
        if self.fields.get("streamed") and self.first_chunk_ns is not None:
            first = (self.first_chunk_ns - self.started_ns) / 1e9
        response_model = self.fields.get("response_model")
        ended = {semconv.RESPONSE_MODEL: response_model, semconv.ERROR_TYPE: error}
        labels = {**self.labels, **self.attributes, **ended}
        self.metrics.call_ended(labels, usage, (ended_ns - self.started_ns) / 1e9, first)

    def _end_attributes(
        self, outcome: Outcome, replies: Sequence[Reply], usage: Usage | None
    ) -> dict[str, Any]:
        fields = self.fields
        ended = semconv.answer_attributes(
            fields.get("response_model"),
            fields.get("response_id"),
            [reply.finish_reason for reply in replies] if outcome == "finished" else ("error",),
            semconv.counts_of(usage) if usage is not None else None,
            self.recorder.profile,
        )
        if self.operation == semconv.EMBEDDINGS:
            ended.pop(semconv.USAGE_OUTPUT_TOKENS, None)  # it writes nothing
        if outcome != "finished":
            ended[semconv.OUTCOME] = outcome
        self._add_own(ended)
        return ended

    def _add_own(self, ended: dict[str, Any]) -> None:
        """Add what was noted while the call ran."""
        if self.first_chunk_ns is not None and self.fields.get("streamed"):
            waited = (self.first_chunk_ns - self.started_ns) / 1e9
            ended[semconv.RESPONSE_TIME_TO_FIRST_CHUNK] = waited
        for name, value in self.attributes.items():
            if value is not None:
                ended[name] = value

    def _call(
        self,
        outcome: Outcome,
        replies: tuple[Reply, ...],
        usage: Usage | None,
        error: str | None,
        ended_ns: int,
    ) -> Call:
        # Here: making this class is the longest part of an import, and spans alone do without.
        from ..calls import Call

        call_id = self.call_id
        span_context = self.span.get_span_context()
        valid = span_context.is_valid
        return Call(
            **{**self.fields, "call_id": call_id, "app": self.recorder.app},
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


def new_call_id() -> str:
    """32 hexadecimal digits. No uuid4: the system's randomness costs as much as a small span."""
    return f"{random.getrandbits(128):032x}"


def error_type(error: BaseException | str) -> str:
    """``error.type``: the qualified class name; builtins without a module."""
    if isinstance(error, str):
        return error
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
