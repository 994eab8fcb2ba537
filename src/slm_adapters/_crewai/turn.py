"""One call of an ``SLM``: its events, its span, its answer in the form CrewAI expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallType
from crewai.events.types.tool_usage_events import (
    ToolUsageErrorEvent,
    ToolUsageFinishedEvent,
    ToolUsageStartedEvent,
)
from crewai.hooks.dispatch import HookAborted
from crewai.llms.base_llm import LLMCallBlockedError, llm_call_context
from pydantic import BaseModel

from ..engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from ..engine.shown_calls import ShownCalls
from ..errors import UnsupportedContentError
from ..messages import Message, Reply, ToolCall
from ..routing.fallback import reason_of, should_fall_back
from ..routing.routed import RoutedEngine
from ..routing.span_facts import span_facts
from ..routing.verify import check_tools
from ..scope import current_scope
from ..telemetry import semconv
from ..telemetry.recorder import OpenCall, as_current_call, default_recorder
from . import bus, convert, listening
from .answers import Asked, Executed, check_messages, validated
from .facts import CallFacts, keep, run_id, sharing_facts
from .spans import is_failure

if TYPE_CHECKING:
    from .model import SLM

__all__ = ["Turn"]


@dataclass
class Turn:
    """The life of one call. ``with turn.recorded(): ...`` emits exactly one end."""

    llm: SLM
    asked: Asked
    streams: bool = False
    #: Text was shown to the user: too late for another model to answer.
    shown: bool = False
    #: The tool call to run here, because the caller handed over the functions.
    to_execute: ToolCall | None = None
    request: ChatRequest = field(init=False)
    facts: CallFacts = field(init=False)
    _call: OpenCall | None = None
    _calls: ShownCalls = field(default_factory=ShownCalls)

    # Record

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Emit the started event and, if the block raises, the failed one."""
        llm, asked = self.llm, self.asked
        check_messages(asked.messages)
        self.streams = bool(llm._effective_stream())
        response_format = convert.response_format_of(asked.response_model)
        self.facts = CallFacts(
            llm, llm.model_name, llm.engine_provider, llm.in_process, response_format
        )
        self.facts.attributes.update(llm.engine_facts)
        with ExitStack() as stack:
            call_id = stack.enter_context(llm_call_context())
            stack.enter_context(sharing_facts(self.facts))
            if listening.active() and any(sink.sees_everything for sink in bus.sinks()):
                keep(call_id, self.facts)
            arguments = asked.arguments()
            del arguments["response_model"]
            llm._emit_call_started_event(stream=self.streams, **arguments)
            if not self.facts.recorded:
                self._call = self._open_call()
                stack.enter_context(as_current_call(self._call))
            try:
                yield
            except BaseException as error:
                self._failed(error)
                raise

    def _open_call(self) -> OpenCall:
        recorder, llm, asked = default_recorder(), self.llm, self.asked
        content = recorder.wants_content
        return recorder.open(
            framework="crewai",
            provider=self.facts.provider,
            model=self.facts.model,
            params={
                "temperature": llm.temperature,
                "max_tokens": llm.max_tokens,
                "stop": llm.stop_sequences or None,
            },
            messages=convert.messages_of(asked.messages) if content else (),
            tools=convert.tools_of(asked.tools) if content else (),
            response_format=self.facts.response_format,
            streamed=self.streams,
            role=getattr(asked.from_agent, "role", None),
            task=convert.low_cardinality(getattr(asked.from_task, "name", None)),
            in_process=self.facts.in_process,
        )

    def _failed(self, error: BaseException) -> None:
        who = (self.asked.from_task, self.asked.from_agent)
        if isinstance(error, HookAborted | LLMCallBlockedError):
            self.llm._emit_call_denied_event(error, *who)
        else:
            self.llm._emit_call_failed_event(str(error) or type(error).__name__, *who)
        if self._call is not None:
            self._call.note(**self.facts.attributes)
            if is_failure(error):
                self._call.fail(error)
            else:
                self._call.abandon()

    def _completed(self, response: Any, call_type: LLMCallType) -> None:
        facts = self.facts
        self.llm._emit_call_completed_event(
            response=response,
            call_type=call_type,
            from_task=self.asked.from_task,
            from_agent=self.asked.from_agent,
            usage=convert.usage_dict(facts.usage) if facts.usage else None,
            finish_reason=facts.reply.finish_reason if facts.reply else None,
        )
        if self._call is not None:
            self._call.note(**facts.attributes)
            replies = [facts.reply or Reply(Message("assistant"))]
            self._call.finish(replies, facts.usage, response_model=facts.response_model)

    # Ask

    def prepare(self) -> None:
        """Run the hooks that may edit or block the call, then build the request."""
        llm, asked = self.llm, self.asked
        if isinstance(asked.messages, str):
            asked.messages = [{"role": "user", "content": asked.messages}]
        llm._invoke_before_llm_call_hooks(asked.messages, asked.from_agent)
        tools = convert.tools_of(asked.tools)
        check_tools(tools)
        messages = convert.messages_of(asked.messages)
        request = llm.request(messages, tools, self.facts.response_format, asked.from_agent)
        if not tools:
            request = replace(request, react_tools=convert.react_tools_of(messages, request.stop))
        self.request = request
        if any(message.get("files") for message in asked.messages):
            raise UnsupportedContentError(
                f"a message holds files, and {llm.model_name} reads text only: remove "
                "input_files, or give the model a fallback=."
            )

    def routed(self, engine: ChatEngine) -> RoutedEngine:
        """The engine under this model's router, for this agent and run."""
        llm = self.llm
        return RoutedEngine(engine, llm.router, gives_way=llm.fallback is not None, **self._whose())

    def _whose(self) -> dict[str, str | None]:
        scope = current_scope()
        role = scope.role or getattr(self.asked.from_agent, "role", None)
        return {"role": role, "run": scope.run_id or run_id()}

    def show(self, chunk: Chunk) -> None:
        """Emit one piece of a streamed answer; of a tool call, all that is known of it so far."""
        delta, call, text = chunk.tool_call, None, chunk.text
        self.shown = self.shown or chunk.answers
        if chunk.reasoning:
            self._show_thought(chunk.reasoning)
        if not chunk.answers:
            return
        if delta is not None:
            # As CrewAI's own providers do it.
            text = delta.arguments
            call = self._calls.note(delta).to_openai() | {"index": delta.index}
        self.llm._emit_stream_chunk_event(
            chunk=text,
            from_task=self.asked.from_task,
            from_agent=self.asked.from_agent,
            tool_call=call,
            call_type=LLMCallType.TOOL_CALL if call else LLMCallType.LLM_CALL,
        )
        if self._call is not None:
            self._call.chunk(chunk.text)

    def _show_thought(self, text: str) -> None:
        self.llm._emit_thinking_chunk_event(
            chunk=text, from_task=self.asked.from_task, from_agent=self.asked.from_agent
        )
        if self._call is not None:
            self._call.chunk()

    # Answer

    def accept(self, completion: Completion) -> Any:
        """The answer as CrewAI takes it: tool calls, a model instance or text.

        Counts it and puts it on the span; raises ``GenerationError`` if it is not usable.
        """
        self._count(completion)
        value = self._value_of(completion.reply.message)
        self.facts.reply, self.facts.usage = completion.reply, completion.usage
        self.facts.response_model = completion.model
        return value

    def _count(self, completion: Completion) -> None:
        self.llm.count_usage(completion.usage)
        self.facts.attributes.update(span_facts(completion))

    def _value_of(self, message: Message) -> Any:
        if message.tool_calls:
            functions = self.asked.available_functions or {}
            self.to_execute = next((c for c in message.tool_calls if c.name in functions), None)
            return convert.openai_tool_calls(message.tool_calls)
        if self.asked.response_model is not None:
            return validated(self.asked.response_model, message.text)
        return message.text

    def finish(self, value: Any) -> None:
        """Emit the completed event of an answer, the model's own or the fallback's."""
        is_calls = bool(convert.tool_calls_of(value))
        response = value.model_dump_json() if isinstance(value, BaseModel) else value
        self._completed(response, LLMCallType.TOOL_CALL if is_calls else LLMCallType.LLM_CALL)

    def after_hooks(self, value: Any) -> Any:
        """What ``after_llm_call`` hooks make of a text answer."""
        if not isinstance(value, str):
            return value
        return self.llm._invoke_after_llm_call_hooks(
            self.asked.messages, value, self.asked.from_agent
        )

    # Executed tools

    @contextmanager
    def executing(self, call: ToolCall) -> Iterator[Executed]:
        """The tool's events around running it; ``run.result`` is what it returned."""
        run = Executed(call.parsed(), (self.asked.available_functions or {})[call.name])
        started = datetime.now()
        self._emit_tool(ToolUsageStartedEvent, call)
        try:
            yield run
        except Exception as error:
            self._emit_tool(ToolUsageErrorEvent, call, error=error)
            raise
        times = {"started_at": started, "finished_at": datetime.now()}
        self._emit_tool(ToolUsageFinishedEvent, call, output=run.result, **times)
        self._completed(run.result, LLMCallType.TOOL_CALL)

    def _emit_tool(self, kind: type[Any], call: ToolCall, **fields: Any) -> None:
        event = kind(
            tool_name=call.name,
            tool_args=call.parsed(),
            from_task=self.asked.from_task,
            from_agent=self.asked.from_agent,
            **fields,
        )
        crewai_event_bus.emit(self.llm, event)

    # Fallback

    def falls_back(self, error: Exception) -> bool:
        """Whether the fallback answers after ``error``; counts it and says so on the span."""
        llm = self.llm
        completion = getattr(error, "completion", None)
        if completion is not None:
            # Turned down, and paid for all the same.
            self._count(completion)
        if llm.fallback is None or self.shown or not should_fall_back(error):
            return False
        if reason_of(error) == "deadline" and llm.agent_is_out_of_time(self.request):
            return False
        llm._fallbacks.add(error)
        llm.router.gave_way(**self._whose())
        fallback = llm.fallback_llm()
        self.facts.reply = self.facts.usage = None
        self.facts.attributes.update(
            {
                semconv.FALLBACK_REASON: reason_of(error),
                semconv.FALLBACK_MODEL: getattr(fallback, "model", None),
            }
        )
        return True

    @contextmanager
    def asking_fallback(self) -> Iterator[Any]:
        """The fallback LLM with this call's stop words and streaming, hooks not run twice."""
        from crewai.events.stream_context import add_stream_sink, reset_stream_sinks
        from crewai.hooks.llm_hooks import model_call_hooks_dispatched
        from crewai.llms.base_llm import call_stop_override, call_stream_override

        fallback = self.llm.fallback_llm()
        extra = [word for word in self.llm.stop_sequences if word not in self.llm.stop]

        def count(source: Any, event: Any) -> None:
            if source is fallback and event.type == "llm_call_completed":
                self.llm.count_fallback_usage(event.usage)

        with ExitStack() as stack:
            stack.enter_context(model_call_hooks_dispatched())
            stack.enter_context(call_stream_override(fallback, self.streams))
            if extra:
                stops = [*fallback.stop, *(w for w in extra if w not in fallback.stop)]
                stack.enter_context(call_stop_override(fallback, stops))
            token = add_stream_sink(count)
            stack.callback(reset_stream_sinks, token)
            yield fallback
