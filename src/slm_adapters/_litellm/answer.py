"""One answer of the ``slm`` provider: request, checks, response shapes and, if need be, a span."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import litellm
from litellm.types.utils import Delta, ModelResponseStream, StreamingChoices

from ..engine.engine import ChatEngine, Chunk, Completion
from ..engine.shown_calls import ShownCalls
from ..errors import EmptyReplyError, SLMAdaptersError
from ..routing.span_facts import span_facts
from ..routing.verify import check, check_tools
from ..telemetry import semconv
from ..telemetry.current import switched_to
from ..telemetry.harmless import shielded
from ..telemetry.recorder import OpenCall, as_current_call, current_call, default_recorder
from . import convert, served, together
from .errors import as_litellm_error
from .recording import CallRecorder

__all__ = ["Answer", "answering", "response"]

Find: TypeAlias = Callable[[Mapping[str, Any]], ChatEngine]


class Answer:
    """What was asked, and the call that tells of it: one around it, a recorder's, or our own."""

    def __init__(
        self,
        given: Mapping[str, Any],
        find: Find,
        stream: bool,
    ) -> None:
        """``find``: the engine of a call; what it raises fails the call's span too."""
        _tell_loggers(given)
        params = given["optional_params"]
        self.model: str = given["model"]
        self.call_id = str(getattr(given["logging_obj"], "litellm_call_id", ""))
        self.request = convert.chat_request(given["messages"], params, given.get("timeout"))
        check_tools(self.request.tools)
        #: Whether nobody else answers if this model does not.
        self._only = not _is_behind_router(given)
        self._calls, self._calls_wait = ShownCalls(), False
        self._outer = current_call()
        self._ours: OpenCall | None = None
        missing: SLMAdaptersError | None = None
        try:
            self.engine = find(given)
        except SLMAdaptersError as error:
            self.engine, missing = ChatEngine(), error
        if not self.engine.local:
            facts = {**self.engine.facts, semconv.PROVIDER_NAME: self.engine.provider}
            served.remember(self.call_id, facts)
            if self._outer is not None:
                self._outer.note(**facts)
        self._ours = self._open(params, stream=stream)
        if missing is not None:
            self.fail(missing)
            raise missing

    def _open(self, params: Mapping[str, Any], *, stream: bool) -> OpenCall | None:
        if self._outer is not None or _is_recorded():
            return None
        request = self.request
        call = default_recorder().open(
            framework="litellm",
            provider=self.engine.provider,
            model=self.model,
            params=convert.params_from(params),
            messages=request.messages,
            tools=request.tools,
            response_format=request.response_format,
            streamed=stream,
            in_process=self.engine.local,
        )
        call.note(**self.engine.facts)
        return call

    def current(self) -> AbstractContextManager[None]:
        """Make the call's span current for what the engine does, if that is ours or is remote."""
        if self._ours is not None:
            return as_current_call(self._ours)
        if self._outer is None and not self.engine.local:
            inside = together.inside(self.call_id)
            if inside is not None:
                return switched_to(inside)
        return nullcontext()

    def finish(self, completion: Completion) -> None:
        """Check the answer and say on the span how it was made."""
        message = completion.reply.message
        if not message.text.strip() and not message.tool_calls:
            raise EmptyReplyError(
                f"{completion.model} answered with nothing: raise max_tokens, or configure a "
                "fallback in the LiteLLM router."
            )
        check(self.request, completion)
        facts = span_facts(completion)
        served.remember(self.call_id, facts)
        if self.engine.local:
            together.answered(self.call_id)
        if self._outer is not None:
            self._outer.note(**facts)
        if self._ours is not None:
            self._ours.note(**facts)
            self._ours.finish([completion.reply], completion.usage, response_model=completion.model)

    def fail(self, error: BaseException) -> None:
        """End our span, if there is one."""
        if self._ours is None:
            return
        if isinstance(error, GeneratorExit):
            self._ours.abandon()
        else:
            self._ours.fail(error)

    def chunks(self, event: Chunk | Completion) -> Iterator[Any]:
        """An engine's event as LiteLLM's chunks.

        Behind a router, which has another model to ask, calls that no grammar holds to their tools
        wait until they are checked.
        """
        if isinstance(event, Completion):
            self.finish(event)
            for delta in self._calls.rest(event):
                yield _chunk(tool_use=delta.to_openai())
            reason = convert.finish_reason_for_openai(event)
            usage = convert.usage_numbers(event.usage)
            yield _chunk(is_finished=True, finish_reason=reason, usage=usage)
        elif event.tool_call is not None:
            self._calls_wait = self._calls_wait or not (event.tool_call.certain or self._only)
            if not self._calls_wait:
                self._calls.note(event.tool_call)
                yield self._shown(tool_use=event.tool_call.to_openai())
        elif event.text:
            yield self._shown(text=event.text)
        elif event.reasoning:
            yield self._thought(event.reasoning)

    def _shown(self, **fields: Any) -> dict[str, Any]:
        if self._ours is not None:
            self._ours.chunk(fields.get("text"))
        return _chunk(**fields)

    def _thought(self, text: str) -> Any:
        """LiteLLM's plain chunks have no place for one."""
        if self._ours is not None:
            self._ours.chunk()
        delta = Delta(reasoning_content=text)
        choice = StreamingChoices(index=0, delta=delta)
        return ModelResponseStream(
            id=f"chatcmpl-{self.call_id}", model=self.model, choices=[choice]
        )


@contextmanager
def answering(
    given: Mapping[str, Any],
    find: Find,
    *,
    stream: bool = False,
) -> Iterator[Answer]:
    """An ``Answer`` whose errors leave as LiteLLM's."""
    answer: Answer | None = None
    try:
        answer = Answer(given, find, stream)
        yield answer
    except SLMAdaptersError as error:
        if answer is not None:
            answer.fail(error)
        made = as_litellm_error(error, given["model"])
        if stream and _is_behind_router(given):
            # A router lets a stream's 4xx pass without a fallback, which it would have for a call.
            made.status_code = 503
        raise made from error
    except BaseException as error:
        if answer is not None:
            answer.fail(error)
        raise


def response(given: Mapping[str, Any], completion: Completion) -> Any:
    """LiteLLM's response object, filled in."""
    message = completion.reply.message
    made = given["model_response"]
    made.model = given["model"]
    choice = made.choices[0]
    choice.finish_reason = convert.finish_reason_for_openai(completion)
    choice.message = litellm.Message(
        role="assistant",
        content=message.text or None,
        tool_calls=[call.to_openai() for call in message.tool_calls] or None,
        reasoning_content=message.reasoning,
    )
    made.usage = litellm.Usage(**convert.usage_numbers(completion.usage))
    with shielded("LiteLLM's post_call"):
        given["logging_obj"].post_call(message.text, input=given["messages"], api_key="")
    return made


def _is_behind_router(given: Mapping[str, Any]) -> bool:
    params = given.get("litellm_params") or {}
    return bool((params.get("metadata") or {}).get("model_group"))


def _tell_loggers(given: Mapping[str, Any]) -> None:
    # LiteLLM leaves its pre-call and post-call hooks to the provider.
    with shielded("LiteLLM's pre_call"):
        given["logging_obj"].pre_call(input=given["messages"], api_key="", additional_args={})


def _is_recorded() -> bool:
    listeners = [*litellm.success_callback, *litellm._async_success_callback]
    return any(isinstance(one, CallRecorder) and not one.closed for one in listeners)


def _chunk(**fields: Any) -> dict[str, Any]:
    empty = {"text": "", "tool_use": None, "is_finished": False, "finish_reason": ""}
    return {**empty, "usage": None, "index": 0, **fields}
