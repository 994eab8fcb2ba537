"""One LLM span per call: asking instrumentations inside to keep quiet, and heeding those around.

Around us: a call under OpenTelemetry's or OpenLLMetry's key has its span already, so ours makes
none and only the record is kept. Inside us: clients find both keys, make no LLM span, and
OpenTelemetry's leave what they learned in an ``InferenceData`` for our span.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span

from . import semconv
from .harmless import harmless

if TYPE_CHECKING:
    from ..messages import Usage
    from .open_call import OpenCall, OpenSpan

__all__ = [
    "around", "call_in", "hushed", "innermost", "inside", "is_hushed", "is_inside",
    "is_silenced", "is_suppressed", "learned", "quiet_span", "teach",
]  # fmt: skip

#: Type-checked by its readers: the value is util-genai's ``InferenceData``.
_INFERENCE = "opentelemetry.genai.client.inference.context"
_EMBEDDING = "opentelemetry.genai.client.embedding.context"
_OPENLLMETRY = "suppress_language_model_instrumentation"
#: Silences HTTP spans too: heeded, never set.
_EVERYTHING = "suppress_instrumentation"
_CALL = "slm_adapters.call"
_OPEN = "slm_adapters.open"
_UTIL = "opentelemetry.util.genai.invocation"

#: OpenTelemetry's own key of the current span, which has no public name.
_SPAN = next(iter(trace.set_span_in_context(INVALID_SPAN, Context())))


def is_silenced(context: Context) -> bool:
    """Whether instrumentation of every kind is switched off here."""
    return bool(context.get(_EVERYTHING))


def is_suppressed(context: Context) -> bool:
    """Whether somebody else has the LLM span of a call made here."""
    if not context:
        return False
    if context.get(_EVERYTHING):
        return True
    if _CALL in context:
        # The keys are ours: a call inside a call is another one.
        return False
    return bool(context.get(_OPENLLMETRY)) or context.get(_INFERENCE) is not None


def quiet_span(context: Context) -> Span:
    """Stands in for a span somebody else has: same ids, records nothing."""
    return NonRecordingSpan(trace.get_current_span(context).get_span_context())


def around(call: OpenCall, parent: Context) -> Context:
    """The context inside ``call``: its span is current, LLM instrumentations keep quiet."""
    # Weak: a call holds its context, and contexts outlive calls in copies others made.
    us = weakref.ref(call)
    inner: dict[str, Any] = {_SPAN: call.span, _OPEN: us, _CALL: us, _OPENLLMETRY: True}
    if parent:
        inner = {**parent, **inner}
    if _UTIL in sys.modules:
        call.learned = inner[_INFERENCE] = sys.modules[_UTIL].InferenceData()
        call.says_more = True
        if call.operation == semconv.EMBEDDINGS:
            inner[_EMBEDDING] = sys.modules[_UTIL].EmbeddingData()
    return Context(inner)


def _no_call() -> None:
    return None


def hushed(parent: Context) -> Context:
    """The context inside a call whose span is made later: LLM instrumentations keep quiet."""
    if parent.get(_OPENLLMETRY) or parent.get(_INFERENCE) is not None:
        return parent
    # The keys are ours, though there is no call yet.
    extra: dict[str, Any] = {_OPENLLMETRY: True, _CALL: _no_call}
    if _UTIL in sys.modules:
        extra[_INFERENCE] = sys.modules[_UTIL].InferenceData()
        extra[_EMBEDDING] = sys.modules[_UTIL].EmbeddingData()
    return Context(parent, **extra)


def is_hushed(context: Context) -> bool:
    """Whether this is inside a call whose span is made later, see :func:`hushed`."""
    return context.get(_CALL) is _no_call


def inside(opened: OpenSpan, parent: Context) -> Context:
    """The context inside a tool or an agent; what a call around it asked for ends here."""
    if _CALL in parent:
        ours = (_CALL, _OPENLLMETRY, _INFERENCE, _EMBEDDING)
        parent = Context({key: value for key, value in parent.items() if key not in ours})
    return Context(parent, **{_SPAN: opened.span, _OPEN: weakref.ref(opened)})


def innermost(context: Context) -> OpenSpan | None:
    """The innermost of our spans around here, if it still exists."""
    opened: Any = context.get(_OPEN)
    found: OpenSpan | None = opened() if opened is not None else None
    return found


def is_inside(context: Context, opened: OpenSpan) -> bool:
    """Whether ``opened`` is the innermost of our spans around here."""
    return innermost(context) is opened


def call_in(context: Context) -> OpenCall | None:
    """The call of ours this context is inside of, if it still exists."""
    call: Any = context.get(_CALL)
    found: OpenCall | None = call() if call is not None else None
    return found


#: InferenceData's names -> ours.
_LEARNED = {
    "server_address": semconv.SERVER_ADDRESS,
    "server_port": semconv.SERVER_PORT,
    "request_reasoning_level": "gen_ai.request.reasoning.level",
    "conversation_compacted": "gen_ai.conversation.compacted",
}


@harmless("learning from an inner instrumentation")
def learned(call: OpenCall, usage: Usage | None) -> Usage | None:
    """Fill the gaps of ``call`` with what a client inside it saw; return the usage to write."""
    data = call.learned
    for name, attribute in _LEARNED.items():
        value = getattr(data, name, None)
        if value is not None:
            call.attributes.setdefault(attribute, value)
    for name in ("response_model", "response_id"):
        if call.fields.get(name) is None:
            call.fields[name] = getattr(data, name, None)
    if usage is None and data.usage_input_tokens is not None:
        from ..messages import Usage

        usage = Usage(
            data.usage_input_tokens,
            data.usage_output_tokens or 0,
            cached_tokens=data.usage_cache_read_input_tokens,
            cache_write_tokens=data.usage_cache_write_input_tokens,
            reasoning_tokens=data.usage_reasoning_output_tokens,
        )
    return usage


@harmless("telling an outer instrumentation")
def teach(call: OpenCall, usage: Usage | None) -> None:
    """Give the instrumentation around a quiet call what only we know."""
    data = call.context.get(_INFERENCE)
    if data is None or _CALL in call.context:
        return
    facts = {"response_model": call.fields.get("response_model")}
    facts["response_id"] = call.fields.get("response_id")
    if usage is not None:
        facts["usage_input_tokens"] = usage.input_tokens
        facts["usage_output_tokens"] = usage.output_tokens
    for name, value in facts.items():
        if value is not None and getattr(data, name, value) is None:
            setattr(data, name, value)
