"""``CallRecorder`` on real crews: one correct tree of spans, and nothing changed for the crew."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import logging
import threading
from collections import Counter

import pytest
from crewai import Crew, Process
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMCallCompletedEvent, LLMCallStartedEvent
from crewai.flow.flow import Flow, listen, start
from crewai_cases import WHOLE, HostedLLM, SilentLLM, agent, asks, crew, task, tool, untappable
from opentelemetry.trace import SpanKind, StatusCode

from slm_adapters.calls import Call, Message, run
from slm_adapters.crewai import SLM, CallRecorder, traced
from slm_adapters.store.database import CallStore
from slm_adapters.telemetry.harmless import failure_counts
from slm_adapters.testing import ScriptedModel

SECRET = "swordfish-4711"


@pytest.fixture(autouse=True)
def _nothing_failed(caplog):
    """Neither we nor OpenTelemetry may have had anything to complain about."""
    before = failure_counts()
    with caplog.at_level(logging.WARNING):
        yield
    assert "Failed to detach context" not in caplog.text
    ours = Counter(failure_counts()) - Counter(before)
    assert not [place for place in ours if place.startswith(("recording a CrewAI", "ending"))]


def test_a_crew_makes_one_tree_with_names_usage_and_reasons(spans, recorder):
    """Workflow, task, agent and chat, with the response's own facts."""
    crew(HostedLLM()).kickoff()
    assert set(spans.tree()) == WHOLE
    chat = spans.one("chat")
    assert chat.kind is SpanKind.CLIENT
    assert chat.attributes["gen_ai.provider.name"] == "anthropic"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 11
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert chat.attributes["gen_ai.response.id"] == "r-1"
    assert spans.one("invoke_agent").attributes["gen_ai.agent.name"] == "Researcher"
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all())


def test_t4_the_caller_s_trace_is_joined(spans, recorder):
    """A crew started inside a request's span belongs to it."""
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        crew(HostedLLM()).kickoff()
    assert ("invoke_workflow crew", "request") in spans.tree()
    assert len({span.context.trace_id for span in spans.all()}) == 1


async def _kickoff_async(made: Crew) -> None:
    await made.kickoff_async()


async def _akickoff(made: Crew) -> None:
    await made.akickoff()


@pytest.mark.parametrize("entry", [_kickoff_async, _akickoff])
async def test_t4_asynchronous_entry_points_make_the_same_tree(spans, recorder, entry):
    """kickoff_async and akickoff are traced like kickoff."""
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        await entry(crew(HostedLLM()))
    assert set(spans.tree()) >= WHOLE - {("invoke_workflow crew", None)}
    assert ("invoke_workflow crew", "request") in spans.tree()


def test_t4_kickoff_for_each_makes_one_trace_per_input(spans, recorder):
    """Copies of the crew are traced too, each on its own."""
    made = crew(HostedLLM(), before_kickoff_callbacks=[recorder])
    made.kickoff_for_each([{"topic": "a"}, {"topic": "b"}])
    assert len(spans.named("invoke_workflow")) == len(spans.named("chat")) == 2
    assert len({span.context.trace_id for span in spans.all()}) == 2


def test_t4_an_agent_and_a_bare_llm_outside_a_crew(spans, recorder):
    """Agent.kickoff gives agent and chat, LLM.call a chat alone."""
    agent(HostedLLM()).kickoff("Say it.")
    assert set(spans.tree()) == {
        ("invoke_agent Researcher", None),
        ("chat hosted", "invoke_agent Researcher"),
    }
    HostedLLM(model="bare").call("Say it.")
    assert ("chat bare", None) in spans.tree()


def test_t3_a_flow_is_a_workflow_and_internal_flows_are_not(spans, recorder):
    """The crew nests under the user's flow; CrewAI's own flows make no span."""

    class Outer(Flow):
        @start()
        def first(self) -> str:
            return crew(HostedLLM()).kickoff().raw

        @listen(first)
        def second(self, text: str) -> str:
            return HostedLLM(model="after").call(text)

    Outer().kickoff()
    tree = spans.tree()
    assert ("invoke_workflow crew", "invoke_workflow Outer") in tree
    assert ("chat after", "invoke_workflow Outer") in tree
    assert ("chat hosted", "invoke_agent Researcher") in tree
    assert len(tree) == 6


def test_a_tool_span_carries_the_id_of_the_call_that_asked_for_it(spans, recorder):
    """The id comes from the preceding answer; the chat says why it stopped."""
    crew(HostedLLM(asks(), "cat found"), tools=[tool()]).kickoff()
    used = spans.one("execute_tool")
    assert used.attributes["gen_ai.tool.call.id"] == "call-7"
    assert spans.parent_name(used) == "invoke_agent Researcher"
    assert len(spans.named("chat")) == 2


def test_t6_parallel_tool_calls_keep_their_parent_and_ids(spans, recorder):
    """Two calls in one answer run on threads; each span has its own id."""
    crew(HostedLLM([*asks("a", "1"), *asks("b", "2")], "both"), tools=[tool()]).kickoff()
    used = spans.named("execute_tool")
    assert {span.attributes["gen_ai.tool.call.id"] for span in used} == {"1", "2"}
    assert {spans.parent_name(span) for span in used} == {"invoke_agent Researcher"}


def test_t7_client_spans_nest_under_the_model_call_and_the_tool(spans, recorder):
    """The call's span is the current one while it runs, on whatever thread."""
    tracer = spans.provider.get_tracer("http")

    def get(name: str):
        def request():
            tracer.start_span(name).end()
            return "done" if name == "POST model" else None

        return request

    llm = HostedLLM(asks(), get("POST model"))
    crew(llm, tools=[tool(get("GET tool"))]).kickoff()
    assert ("POST model", "chat hosted") in spans.tree()
    assert ("GET tool", "execute_tool look_up") in spans.tree()


def test_spans_of_the_program_between_ours_are_kept(spans, recorder):
    """A span a tool opens around a model call stays its parent."""
    tracer = spans.provider.get_tracer("app")

    def during() -> None:
        with tracer.start_as_current_span("my step"):
            HostedLLM(model="inner").call("x")

    crew(HostedLLM(asks(), "ok"), tools=[tool(during)]).kickoff()
    assert ("chat inner", "my step") in spans.tree()
    assert ("my step", "execute_tool look_up") in spans.tree()


def test_t6_an_async_task_and_a_manager_keep_their_parents(spans, recorder):
    """Tasks on threads and a hierarchical manager belong to their crew."""
    first, last = agent(HostedLLM(), "Researcher"), agent(HostedLLM(), "Writer")
    tasks = [task(first, "find", async_execution=True), task(last, "write")]
    Crew(agents=[first, last], tasks=tasks).kickoff()
    managed = Crew(
        agents=[agent(HostedLLM(), "Helper")],
        tasks=[task(None, "manage")],
        process=Process.hierarchical,
        manager_llm=HostedLLM(model="boss"),
    )
    managed.kickoff()
    tree = spans.tree()
    for name in ("find", "write", "manage"):
        assert (f"execute_task {name}", "invoke_workflow crew") in tree
    assert ("chat boss", "invoke_agent Crew Manager") in tree
    orphans = [name for name, parent in tree if parent is None]
    assert orphans == ["invoke_workflow crew"] * 2


def test_t5_twenty_crews_at_once_are_twenty_traces_without_orphans(spans, recorder):
    """Threads do not mix their trees."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            crew(HostedLLM(asks(), "ok"), HostedLLM(), tools=[tool()]).kickoff()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    finished = spans.all()
    assert len({span.context.trace_id for span in finished}) == 20
    assert len([span for span in finished if span.parent is None]) == 20
    assert len(spans.named("chat")) == 60
    assert len(finished) == 20 * (1 + 2 + 2 + 3 + 1)


def test_an_error_names_the_exception_class_on_every_level(spans, recorder):
    """error.type is the real class, and the exception itself reaches the caller."""
    with pytest.raises(ZeroDivisionError):
        crew(HostedLLM(ZeroDivisionError(SECRET))).kickoff()
    for name in ("chat", "invoke_agent", "execute_task", "invoke_workflow"):
        for span in spans.named(name):
            assert span.attributes["error.type"] == "ZeroDivisionError"
            assert span.status.status_code is StatusCode.ERROR
            assert SECRET not in str(span.status.description)


def test_a_tool_that_raises_is_an_error_of_the_tool_alone(spans, recorder):
    """The agent reads the error and goes on; its own span is not one."""

    def during() -> None:
        raise LookupError(SECRET)

    crew(HostedLLM(asks(), "sorry"), tools=[tool(during)]).kickoff()
    assert spans.one("execute_tool").attributes["error.type"] == "LookupError"
    assert spans.one("invoke_agent").status.status_code is StatusCode.UNSET


class _Leaky(HostedLLM):
    """Starts a call and raises without any end event, as a context-length error does."""

    error: BaseException | None = None

    def call(self, messages, *_, **arguments):
        if self._asked:
            return super().call(messages)
        self._asked.append(messages)
        from crewai.llms.base_llm import llm_call_context

        with llm_call_context():
            self._emit_call_started_event(messages)
            raise self.error


def test_t10_a_context_length_error_ends_its_span_and_the_tree_goes_on(spans, recorder):
    """CrewAI summarizes and asks again; the later calls have the right parent."""
    llm = _Leaky("fine", model="leaky")
    llm.error = RuntimeError("maximum context length is 10 tokens")
    crew(llm).kickoff()
    chats = spans.named("chat")
    assert len(chats) >= 2
    assert {spans.parent_name(span) for span in chats} == {"invoke_agent Researcher"}
    assert [span.attributes.get("error.type") for span in chats].count("RuntimeError") == 1
    assert spans.one("invoke_workflow").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_t10_an_interrupt_ends_every_span_with_its_class(spans, recorder, kind):
    """CrewAI emits no end events for these; the context is as before all the same."""
    llm = _Leaky(model="leaky")
    llm.error = kind()
    with pytest.raises(kind):
        llm.call("x")
    assert spans.one("chat").attributes["error.type"] == kind.__name__
    assert spans.one("chat").status.status_code is StatusCode.ERROR
    again = _Leaky(model="leaky")
    again.error = kind()
    with pytest.raises(kind):
        crew(again).kickoff()
    for span in spans.all():
        assert span.attributes["error.type"] == kind.__name__


async def test_t9_a_cancelled_akickoff_leaves_nothing_open(spans, recorder):
    """The crew's spans end with the cancellation; the model's thread may run on."""
    asked, release = threading.Event(), threading.Event()
    llm = HostedLLM(lambda: (asked.set(), release.wait(5)) and "late")
    running = asyncio.create_task(crew(llm).akickoff())
    await asyncio.to_thread(asked.wait, 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    workflow = spans.one("invoke_workflow")
    assert workflow.attributes["error.type"] == "asyncio.exceptions.CancelledError"
    assert workflow.status.status_code is StatusCode.ERROR
    assert "slm_adapters.usage.input_tokens" not in workflow.attributes
    assert len(recorder._events.scopes) == 0
    release.set()


def test_t11_every_attempt_of_a_retried_call_is_a_span_of_its_own(spans, recorder, monkeypatch):
    """Attempts are numbered, do not overlap, and tokens are counted once."""
    monkeypatch.setattr("crewai.llms.retry.get_retry_delay_seconds", lambda **_: 0.0)
    calls: list[Call] = []
    recorder.recorder.hooks.append(calls.append)
    HostedLLM(RuntimeError("too many requests"), "ok").call("x")
    first, second = spans.named("chat")
    assert first.attributes["error.type"] == "RuntimeError"
    assert "gen_ai.usage.input_tokens" not in first.attributes
    assert second.attributes["gen_ai.usage.input_tokens"] == 11
    assert first.end_time <= second.start_time
    assert [call.attempt for call in calls] == [1, 2]


def test_a_custom_llm_that_emits_no_events_is_traced_too(spans, recorder):
    """Every BaseLLM counts, with its error class and without invented tokens."""
    crew(SilentLLM(model="mine")).kickoff()
    chat = spans.one("chat mine")
    assert spans.parent_name(chat) == "invoke_agent Researcher"
    assert "gen_ai.usage.input_tokens" not in chat.attributes
    assert chat.attributes["gen_ai.provider.name"] == "unknown"
    with pytest.raises(KeyError):
        SilentLLM(model="broken", answer=KeyError("x")).call("x")
    assert spans.one("chat broken").attributes["error.type"] == "KeyError"


def test_an_llm_that_wraps_another_is_one_call(spans, recorder):
    """The inner model's span is the only one."""
    inner = HostedLLM()

    class Wrapper(SilentLLM):
        def call(self, messages, *_, **__):
            return inner.call(messages)

    calls: list[Call] = []
    recorder.recorder.hooks.append(calls.append)
    Wrapper(model="wrapper").call("x")
    assert [span.name for span in spans.all()] == ["chat hosted"]
    assert spans.one("chat hosted").attributes["gen_ai.usage.input_tokens"] == 11
    assert [call.model for call in calls] == ["hosted"]


def test_an_agent_s_llm_that_wraps_another_is_one_call(spans, recorder):
    """Also where CrewAI's own internal flow is around it, and with a model of ours inside."""

    class Wrapper(SilentLLM):
        def call(self, messages, *_, **__):
            return SLM(ScriptedModel(["in"])).call(messages)

    crew(Wrapper(model="wrapper")).kickoff()
    chat = spans.one("chat")
    assert chat.name == "chat scripted"
    assert spans.parent_name(chat) == "invoke_agent Researcher"
    assert spans.one("invoke_agent").attributes["gen_ai.usage.output_tokens"] == 1


def test_an_llm_that_asks_two_others_in_turn_is_two_calls(spans, recorder):
    """The second is no part of the first, which failed; both are the agent's."""

    class Wrapper(SilentLLM):
        def call(self, messages, *_, **__):
            with contextlib.suppress(RuntimeError):
                HostedLLM(RuntimeError("x"), model="first").call(messages)
            return SilentLLM(model="second").call(messages)

    crew(Wrapper(model="wrapper")).kickoff()
    chats = {span.name: spans.parent_name(span) for span in spans.named("chat")}
    assert chats == dict.fromkeys(("chat first", "chat second"), "invoke_agent Researcher")
    assert spans.one("chat first").attributes["error.type"] == "RuntimeError"


@pytest.mark.parametrize("asynchronously", [False, True])
def test_t7_what_a_silent_llm_s_client_does_nests_under_its_call(spans, recorder, asynchronously):
    """Its span is there and current while it runs, and nothing is afterwards."""

    class Asking(SilentLLM):
        def call(self, *_, **__):
            with spans.provider.get_tracer("http").start_as_current_span("POST"):
                return "answer"

        async def acall(self, *_, **__):
            return self.call()

    llm = Asking(model="mine")
    with spans.provider.get_tracer("app").start_as_current_span("request"):
        asyncio.run(llm.acall("x")) if asynchronously else llm.call("x")
        crew(llm).kickoff()
    # Its acall asks its own call: one call.
    assert [spans.parent_name(span) for span in spans.named("POST")] == ["chat mine"] * 2
    parents = [spans.parent_name(span) for span in spans.named("chat mine")]
    assert parents == ["request", "invoke_agent Researcher"]


def test_t10_a_silent_llm_that_is_interrupted_has_its_span(spans, recorder):
    """Also with a message list that CrewAI itself would not take."""
    with pytest.raises(KeyboardInterrupt):
        _Interrupted(model="mine").call(["text", None, {"role": None, "content": [None, 5, b"x"]}])
    assert spans.one("chat mine").attributes["error.type"] == "KeyboardInterrupt"


class _Interrupted(SilentLLM):
    def call(self, *_, **__):
        raise KeyboardInterrupt


def test_t17_the_same_recorder_twice_and_two_recorders(spans, recorder):
    """One recorder never doubles; a second one has spans of its own."""
    from conftest import Spans

    other = Spans()
    with CallRecorder(tracer_provider=other.provider):
        crew(HostedLLM(), before_kickoff_callbacks=[recorder, copy.deepcopy(recorder)]).kickoff()
    assert set(spans.tree()) == WHOLE
    assert set(other.tree()) == WHOLE


def test_t33_closing_restores_the_event_bus_and_the_classes():
    """After the last close nothing of ours is left in CrewAI."""
    from crewai.llms import base_llm

    before = (base_llm.run_with_rate_limit_retry, Crew.kickoff, Flow.kickoff_async)
    first, second = CallRecorder(), CallRecorder()
    assert "emit" in vars(crewai_event_bus)
    assert Crew.kickoff is not before[1]
    first.close()
    assert "emit" in vars(crewai_event_bus)
    second.close()
    second.close()
    assert "emit" not in vars(crewai_event_bus)
    assert before == (base_llm.run_with_rate_limit_retry, Crew.kickoff, Flow.kickoff_async)


def test_t33_a_wrapper_put_over_ours_survives_our_close(spans):
    """Somebody else's tap is theirs to remove."""
    recorder = CallRecorder(tracer_provider=spans.provider)
    ours, seen = crewai_event_bus.emit, []

    def theirs(source, event):
        seen.append(event.type)
        return ours(source, event)

    crewai_event_bus.emit = theirs
    try:
        recorder.close()
        HostedLLM().call("x")
        assert seen == ["llm_call_started", "llm_call_completed"]
        assert spans.all() == []
    finally:
        del crewai_event_bus.emit


def test_t1_without_the_tap_listeners_make_the_same_spans(spans, monkeypatch):
    """If emit cannot be replaced, one warning, and spans from events in any order."""
    untappable(monkeypatch)
    with CallRecorder(tracer_provider=spans.provider) as recorder:
        crew(HostedLLM(asks(), "ok"), tools=[tool()]).kickoff()
        crewai_event_bus.flush()
        assert len(recorder._events.scopes) == 0
    assert set(spans.tree()) == WHOLE | {("execute_tool look_up", "invoke_agent Researcher")}
    assert failure_counts()["the event bus tap"] >= 1
    HostedLLM().call("x")
    crewai_event_bus.flush()
    assert len(spans.named("chat")) == 2


def test_t35_scoped_handlers_and_replay_neither_break_nor_double(spans, recorder):
    """Handlers set aside for a while do not set us aside; replayed events make no second span."""
    events = []
    with crewai_event_bus.scoped_handlers():
        for kind in (LLMCallStartedEvent, LLMCallCompletedEvent):
            crewai_event_bus.on(kind)(lambda source, event: events.append(event))
        HostedLLM().call("x")
        crewai_event_bus.flush()
    assert len(spans.all()) == 1
    assert len(events) == 2
    for event in (*events, *events):
        crewai_event_bus.replay(None, event)
    crewai_event_bus.flush()
    assert len(spans.all()) == 1
    HostedLLM().call("x")
    assert len(spans.all()) == 2


def test_t25_no_content_on_spans_unless_asked(spans, recorder):
    """A planted secret in prompt, answer, tool and error is nowhere in the export."""
    llm = HostedLLM(asks(SECRET), SECRET)
    made = agent(llm, tools=[tool()])
    Crew(agents=[made], tasks=[task(made, None, f"Find {SECRET}.")]).kickoff({"x": SECRET})
    with pytest.raises(ValueError, match=SECRET):
        HostedLLM(ValueError(SECRET)).call(SECRET)
    assert len(spans.all()) > 5
    assert SECRET not in "".join(span.to_json() for span in spans.all())


def test_content_on_spans_when_the_switch_is_on(spans, monkeypatch):
    """The OpenTelemetry switch puts messages, arguments and results on the spans, redacted."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")

    def redact(messages):
        return [
            Message(m.role, m.text.replace(SECRET, "***"), m.tool_calls, m.tool_call_id)
            for m in messages
        ]

    with CallRecorder(tracer_provider=spans.provider, redact=redact):
        crew(HostedLLM(asks(SECRET), f"it is {SECRET}"), tools=[tool()]).kickoff()
    used = spans.one("execute_tool")
    assert used.attributes["gen_ai.tool.call.arguments"] == '{"word": "***"}'
    assert used.attributes["gen_ai.tool.call.result"] == "found ***"
    assert "it is ***" in spans.named("chat")[1].attributes["gen_ai.output.messages"]


def test_a_record_has_role_task_run_and_the_whole_conversation(spans, tmp_path):
    """One Call per model call in the store, ready for training."""
    path = tmp_path / "calls.db"
    with CallRecorder(store=path, tracer_provider=spans.provider, app="demo") as recorder:
        crew(HostedLLM(asks(), "cat found"), HostedLLM(), tools=[tool()]).kickoff()
        recorder.store.flush()
    first, second, third = list(CallStore(path))
    assert (first.role, first.task) == ("Researcher", "find")
    assert (third.role, third.task) == ("Writer", "write")
    assert len({call.run_id for call in (first, second, third)}) == 1
    assert first.parent_id == second.parent_id != third.parent_id
    assert first.replies[0].message.tool_calls[0].name == "look_up"
    assert first.tools[0].name == "look_up"
    assert [m.role for m in second.messages][-2:] == ["assistant", "tool"]
    assert second.messages[-1].text == "found cat"
    assert second.usage.input_tokens == 11
    assert first.app == "demo"
    assert first.span_id == f"{spans.named('chat')[0].context.span_id:016x}"


def test_an_ambient_run_wins_over_the_crew_s_id(recorder):
    """``with run(...)`` names the run in every record."""
    calls: list[Call] = []
    recorder.recorder.hooks.append(calls.append)
    with run("ticket-17"):
        crew(HostedLLM()).kickoff()
    assert [call.run_id for call in calls] == ["ticket-17"]


def test_t34_a_hook_that_raises_and_a_store_that_is_down_harm_nobody(spans, caplog):
    """The crew's answer is the same; the user hears of it once."""

    def broken(call: Call) -> None:
        raise RuntimeError("no")

    with CallRecorder(
        tracer_provider=spans.provider, hooks=[broken], store="/nowhere/at/all/calls.db"
    ) as recorder:
        assert recorder.store is None
        assert crew(HostedLLM("right")).kickoff().raw == "right"
    assert set(spans.tree()) == WHOLE
    assert caplog.text.count("calls.db") == 1


def test_t34_a_sink_that_raises_harms_nobody(recorder, monkeypatch, caplog):
    """Our own failure is counted, not raised."""
    before = failure_counts().get("recording a CrewAI event", 0)
    monkeypatch.setattr(recorder._events, "see", lambda *_: 1 / 0)
    assert crew(HostedLLM("right")).kickoff().raw == "right"
    assert failure_counts()["recording a CrewAI event"] > before
    from slm_adapters.telemetry import harmless

    harmless._counts["recording a CrewAI event"] = before


def test_t28_nothing_is_ended_by_the_clock(spans, recorder, monkeypatch):
    """A crew may run for hours; its spans stay open and end unset."""
    import time

    real, wall = time.time_ns, time.time
    open_then: list[int] = []

    def during() -> None:
        monkeypatch.setattr(time, "time_ns", lambda: real() + 4 * 3600 * 10**9)
        monkeypatch.setattr(time, "time", lambda: wall() + 4 * 3600)
        HostedLLM().call("one more call, so that whatever watches the clock would notice")
        open_then.extend(len(spans.named(name)) for name in ("invoke_", "execute_"))

    crew(HostedLLM(asks(), "ok"), tools=[tool(during)]).kickoff()
    assert open_then == [0, 0]
    workflow = spans.one("invoke_workflow")
    assert workflow.end_time - workflow.start_time > 3600 * 10**9
    assert workflow.status.status_code is StatusCode.UNSET


def test_t29_calls_that_never_end_are_bounded(spans, monkeypatch):
    """The oldest makes room: memory is bounded by count."""
    from slm_adapters._crewai import scopes

    monkeypatch.setattr(scopes, "LIVE_LIMIT", 5)
    with CallRecorder(tracer_provider=spans.provider) as recorder:
        for number in range(20):
            event = LLMCallStartedEvent(model="m", call_id=str(number), messages="x")
            event.parent_event_id = "unknown"
            contextvars.copy_context().run(crewai_event_bus.emit, None, event)
        assert len(recorder._events.scopes) == 5
    assert len(spans.named("chat")) == 20


def test_t38_only_names_that_stay_few_name_a_span(spans, recorder):
    """A description or an id is no span name; the role is the agent's name, not a hash."""
    made = agent(HostedLLM(), "Researcher for order 123456789")
    unnamed = task(made, None, "Find order 123456789.")
    Crew(name="crew-7d9f2c1e-4b5a", agents=[made], tasks=[unnamed]).kickoff()
    names = {span.name for span in spans.all()}
    assert names == {"invoke_workflow", "execute_task", "invoke_agent", "chat hosted"}
    assert spans.one("invoke_agent").attributes["gen_ai.agent.name"] == made.role
    assert not any("conversation" in key for span in spans.all() for key in span.attributes)


def test_t40_no_signal_handler_and_no_lasting_thread(spans):
    """Registering changes neither signals nor threads."""
    import signal

    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count()
    CallRecorder(tracer_provider=spans.provider).close()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == threads


def test_traced_records_one_llm_and_leaves_the_others_alone(spans):
    """Same object back; only its calls, and its copies', have spans."""
    calls: list[Call] = []
    llm = HostedLLM(model="watched")
    assert traced(llm, tracer_provider=spans.provider, hooks=[calls.append]) is llm
    crew(llm, HostedLLM(model="other")).kickoff()
    copy.copy(llm).call("x")
    assert spans.tree() == [("chat watched", None)] * 2
    assert [call.role for call in calls] == ["Researcher", None]
    assert traced(llm, tracer_provider=spans.provider) is llm
    llm.call("x")
    assert len(spans.all()) == 3


def test_a_traced_llm_that_is_gone_is_listened_to_no_more(spans):
    """Tracing an LLM per request does not add up."""
    import gc

    from slm_adapters._crewai import bus

    gc.collect()
    before = len(bus.sinks())
    for _ in range(5):
        traced(HostedLLM(), tracer_provider=spans.provider).call("x")
    gc.collect()
    assert len(bus.sinks()) == before
    assert len(spans.all()) == 5


def test_traced_beside_a_recorder_is_one_span(spans, recorder):
    """The recorder's span stands; the hooks given to traced() still get their record."""
    calls: list[Call] = []
    llm = traced(HostedLLM(), tracer_provider=spans.provider, hooks=[calls.append])
    crew(llm).kickoff()
    assert set(spans.tree()) == WHOLE
    assert len(spans.all()) == 4
    assert len(calls) == 1
    assert calls[0].trace_id == f"{spans.one('chat').context.trace_id:032x}"


def test_traced_takes_crewai_llms_only():
    """Anything else is refused with the remedy."""
    with pytest.raises(TypeError, match="CrewAI LLM"):
        traced("gpt-4.1-mini")


def test_an_slm_s_call_is_the_recorder_s_span_with_its_facts(spans, recorder):
    """INTERNAL, our provider, exact tokens: one span, not two."""
    SLM(ScriptedModel(["one two three"])).call("four five")
    chat = spans.one("chat scripted")
    assert chat.kind is SpanKind.INTERNAL
    assert chat.attributes["gen_ai.provider.name"] == "slm_adapters"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 2
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3


def test_a_streaming_crew_has_the_time_to_its_first_chunk(spans, recorder):
    """Chunk events are seen; a call that did not stream has no such attribute."""
    streaming = crew(SLM(ScriptedModel(["one two three"])), stream=True).kickoff()
    assert "".join(chunk.content for chunk in streaming)
    assert streaming.result.raw == "one two three"
    chat = spans.one("chat")
    assert chat.attributes["gen_ai.request.stream"] is True
    assert chat.attributes["gen_ai.response.time_to_first_chunk"] >= 0


def test_t2_slow_handlers_of_others_change_neither_parents_nor_speed(spans, recorder):
    """Spans are made and ended where the events are emitted, while handlers are still at it."""
    release, threads = threading.Event(), []
    recorder.recorder.hooks.append(lambda call: threads.append(threading.current_thread()))
    with crewai_event_bus.scoped_handlers():
        crewai_event_bus.on(LLMCallStartedEvent)(lambda source, event: release.wait(60))
        with spans.provider.get_tracer("app").start_as_current_span("request"):
            HostedLLM().call("x")
        made, waiting = spans.tree(), not release.is_set()
        release.set()
        crewai_event_bus.flush()
    assert waiting
    assert made == [("chat hosted", "request"), ("request", None)]
    assert threads == [threading.current_thread()]


def test_a_hosted_model_of_crewai_itself_is_recorded_with_its_own_facts(
    spans, recorder, monkeypatch
):
    """CrewAI's OpenAI class against a fake server: real client, real HTTP, real usage."""
    from crewai import LLM
    from fake_openai import fake_openai

    calls: list[Call] = []
    recorder.recorder.hooks.append(calls.append)
    with fake_openai("It is done.") as server:
        llm = LLM(model="openai/gpt-4.1-mini", base_url=server.base_url, api_key="none")
        assert crew(llm).kickoff().raw == "It is done."
    chat = spans.one("chat gpt-4.1-mini")
    assert chat.attributes["gen_ai.provider.name"] == "openai"
    assert chat.attributes["gen_ai.usage.input_tokens"] > 0
    assert chat.attributes["gen_ai.response.id"]
    assert calls[0].replies[0].message.text == "It is done."
    assert set(spans.tree()) == {
        (name.replace("hosted", "gpt-4.1-mini"), parent) for name, parent in WHOLE
    }


def test_t10_crewai_s_own_class_ends_no_scope_on_a_context_error(spans, recorder, monkeypatch):
    """CrewAI's OpenAI class raises without an end event; the span ends with the real class."""
    from crewai import LLM
    from crewai.utilities.exceptions.context_window_exceeding_exception import (
        LLMContextLengthExceededError,
    )

    llm = LLM(model="openai/gpt-4.1-mini", api_key="none")
    completions = llm._get_sync_client().chat.completions

    def too_long(*_, **__):
        raise RuntimeError("maximum context length is 10 tokens")

    monkeypatch.setattr(type(completions), "create", too_long)
    for _ in range(3):
        with pytest.raises(LLMContextLengthExceededError):
            llm.call("x")
    kinds = [span.attributes["error.type"] for span in spans.named("chat")]
    assert [kind.split(".")[-1] for kind in kinds] == ["LLMContextLengthExceededError"] * 3
    assert {spans.parent_name(span) for span in spans.all()} == {None}


def test_t12_the_litellm_path_makes_one_span_and_keeps_the_user_s_callbacks(spans, recorder):
    """CrewAI on LiteLLM, with a logger of the user's own: one chat."""
    import litellm
    from crewai import LLM
    from litellm.integrations.custom_logger import CustomLogger

    logged = threading.Event()

    class Mine(CustomLogger):
        def log_success_event(self, kwargs, response_obj, start_time, end_time):
            logged.set()

    mine = Mine()
    litellm.success_callback.append(mine)
    try:
        llm = LLM(model="gpt-4.1-mini", is_litellm=True, mock_response="fine", api_key="none")
        assert crew(llm).kickoff().raw == "fine"
        assert logged.wait(5)
    finally:
        litellm.success_callback.remove(mine)
    assert len(spans.named("chat")) == 1
    assert spans.one("chat").attributes["gen_ai.usage.output_tokens"] > 0
