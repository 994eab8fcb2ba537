"""``SLM`` as the LLM of real agents: CrewAI's contract, the fallback, nothing worse silently."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading

import pytest
from crewai import Agent, Crew, Process
from crewai.hooks import (
    register_after_llm_call_hook,
    register_before_llm_call_hook,
    unregister_after_llm_call_hook,
    unregister_before_llm_call_hook,
)
from crewai.llms.base_llm import LLMCallBlockedError, call_stop_override
from crewai.llms.retry import _RETRYABLE_MESSAGE_MARKERS
from crewai.utilities.agent_utils import is_context_length_exceeded
from crewai_cases import CALL, LOOK_UP, USAGE, Animal, HostedLLM, agent, crew, task, tool

from slm_adapters import errors
from slm_adapters.calls import Message, ToolCall
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.engine.engine import ChatEngine, Completion
from slm_adapters.errors import (
    ContextOverflowError,
    EmptyReplyError,
    InvalidFallbackError,
    InvalidReplyError,
    InvalidToolError,
    ModelLoadError,
)
from slm_adapters.testing import ScriptedModel, captured_calls


def kinds(events: list, prefix: str = "llm_call") -> list[str]:
    return [event.type for event in events if event.type.startswith(prefix)]


def test_a_call_returns_text_and_counts_tokens(events):
    """Text in, text out; usage and finish reason are on the completed event."""
    slm = SLM(ScriptedModel(["one two three"]))
    assert slm.call("four five") == "one two three"
    assert kinds(events) == ["llm_call_started", "llm_call_completed"]
    done = events[-1]
    assert (done.usage["prompt_tokens"], done.usage["completion_tokens"]) == (2, 3)
    assert done.finish_reason == "stop"
    usage = slm.get_token_usage_summary()
    assert (usage.total_tokens, usage.successful_requests) == (5, 1)


def test_t10_tools_come_back_as_calls_when_no_functions_are_given(events):
    """The native protocol: OpenAI dicts with JSON text as arguments."""
    engine = ScriptedModel([CALL])
    assert SLM(engine).call("x", tools=[LOOK_UP]) == [CALL.to_openai()]
    assert engine.requests[0].tools[0].parameters["required"] == ["word"]
    assert events[-1].call_type.value == "tool_call"


def test_t8_functions_given_are_executed_with_tool_events(events):
    """The function's result is the answer; its events are inside the call's."""
    answer = SLM(ScriptedModel([CALL])).call(
        "x", tools=[LOOK_UP], available_functions={"look_up": lambda word: f"found {word}"}
    )
    assert answer == "found cat"
    assert [event.type for event in events] == [
        "llm_call_started",
        "tool_usage_started",
        "tool_usage_finished",
        "llm_call_completed",
    ]


async def test_t8_a_coroutine_function_is_awaited_by_acall():
    """acall also takes asynchronous functions."""

    async def look_up(word: str) -> str:
        return f"found {word}"

    slm = SLM(ScriptedModel([CALL]))
    functions = {"look_up": look_up}
    assert await slm.acall("x", tools=[LOOK_UP], available_functions=functions) == "found cat"


def test_t8_a_function_that_raises_surfaces(events):
    """The tool's own exception, with one error event and one failed event."""

    def look_up(word: str) -> str:
        raise LookupError("no such word")

    with pytest.raises(LookupError, match="no such word"):
        SLM(ScriptedModel([CALL])).call(
            "x", tools=[LOOK_UP], available_functions={"look_up": look_up}
        )
    assert [event.type for event in events][-2:] == ["tool_usage_error", "llm_call_failed"]


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("1", "look_up", "{broken"),
        ToolCall("1", "unknown_tool", "{}"),
        ToolCall("1", "look_up", '{"word": 3}'),
        ToolCall("1", "look_up", "{}"),
    ],
)
def test_t7_a_broken_tool_call_is_a_typed_error(call):
    """Bad JSON, unknown tool, wrong type, missing argument: never handed to the agent."""
    with pytest.raises(InvalidReplyError):
        SLM(ScriptedModel([call])).call("x", tools=[LOOK_UP])


def test_a_tool_that_is_no_tool_is_refused_before_any_compute():
    """The caller's mistake is named, and no fallback is asked."""
    engine, hosted = ScriptedModel(["x"]), HostedLLM()
    with pytest.raises(InvalidToolError):
        SLM(engine, fallback=hosted).call("x", tools=[LOOK_UP, LOOK_UP])
    assert engine.requests == hosted.asked == []


def test_a_response_model_is_asked_for_and_returned():
    """The schema reaches the engine; the answer is an instance."""
    engine = ScriptedModel(['{"name": "cat", "legs": 4}'])
    answer = SLM(engine).call("x", response_model=Animal)
    assert answer == Animal(name="cat", legs=4)
    asked = engine.requests[0].response_format
    assert asked["json_schema"]["schema"]["required"] == ["name", "legs"]
    with pytest.raises(InvalidReplyError):
        SLM(ScriptedModel(['{"name": "cat"}'])).call("x", response_model=Animal)


def test_t1_a_made_up_observation_never_survives():
    """Text after a stop word is cut, from the agent's override too."""
    text = "Thought: look\nAction: look_up\nObservation: a lie\nFinal Answer: a lie"
    engine = ScriptedModel([text])
    slm = SLM(engine, stop=["END"])
    with call_stop_override(slm, ["END", "\nObservation:"]):
        assert slm.call("x").endswith("Action: look_up")
    assert engine.requests[0].stop == ("END", "\nObservation:")
    assert slm.call("x") == text


def test_t5_an_empty_answer_is_a_typed_error(events):
    """Neither "" nor None, also when a stop word left nothing."""
    with pytest.raises(EmptyReplyError):
        SLM(ScriptedModel([""])).call("x")
    with pytest.raises(EmptyReplyError):
        SLM(ScriptedModel(["STOP and more"]), stop="STOP").call("x")
    assert kinds(events) == ["llm_call_started", "llm_call_failed"] * 2


def test_t9_histories_of_any_shape_reach_the_engine_as_messages():
    """None content, JSON-text arguments, tool results, repeated users, CrewAI's own keys."""
    engine = ScriptedModel(["ok"])
    SLM(engine).call(
        [
            {"role": "system", "content": "Be brief.", "cache_breakpoint": True},
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL.to_openai()]},
            {"role": "tool", "tool_call_id": "c1", "name": "look_up", "content": "found"},
            {"role": "system", "content": "Go on."},
            {"role": "assistant", "content": "so"},
        ]
    )
    messages = engine.requests[0].messages
    assert [m.role for m in messages] == [
        "system", "user", "user", "assistant", "tool", "system", "assistant",
    ]  # fmt: skip
    assert messages[2].text == "b"
    assert messages[3] == Message("assistant", None, tool_calls=(CALL,))
    assert messages[4].tool_call_id == "c1"


def test_t11_overflow_is_an_error_crewai_knows():
    """Its text makes an agent summarize instead of giving up."""
    overflow = ContextOverflowError("m", 5000, 100, 4096)
    with pytest.raises(ContextOverflowError) as caught:
        SLM(ScriptedModel([overflow])).call("x")
    assert is_context_length_exceeded(caught.value)


def test_t11_an_agent_summarizes_after_an_overflow_and_finishes():
    """The loop ends with an answer: overflow, summary, answer."""
    answers = iter([CALL, ContextOverflowError("m", 5000, 100, 4096), "<summary>s</summary>"])
    engine = ScriptedModel(lambda request: next(answers, "short answer"))
    assert crew(SLM(engine), tools=[tool()]).kickoff().raw == "short answer"
    assert len(engine.requests) == 4


def test_t12_no_error_of_ours_looks_like_a_throttled_provider():
    """CrewAI repeats calls whose error text says so; ours must not."""
    text = " ".join(
        [
            str(ContextOverflowError("m", 1, 2, 3)),
            *(str(kind.__doc__) for kind in vars(errors).values() if isinstance(kind, type)),
        ]
    ).lower()
    engine = ScriptedModel([""])
    with pytest.raises(EmptyReplyError) as caught:
        SLM(engine).call("x")
    text += str(caught.value).lower()
    assert not [marker for marker in _RETRYABLE_MESSAGE_MARKERS if marker in text]
    assert len(engine.requests) == 1


def test_t13_agents_sharing_one_model_are_counted_once():
    """Two agents on one object: the crew's total is the true one."""
    slm = SLM(ScriptedModel(["one two"]))
    shared = crew(slm, slm)
    total = shared.kickoff().token_usage
    assert total.successful_requests == 2
    assert total.total_tokens == slm.get_token_usage_summary().total_tokens
    assert shared.calculate_usage_metrics() == total


def test_t14_copies_share_the_weights_and_not_the_counters():
    """kickoff_for_each copies the LLM of every agent; each run counts its own."""
    engine = ScriptedModel(["one two"])
    slm = SLM(engine)
    slm.call("x")
    for copied in (copy.copy(slm), copy.deepcopy(slm), slm.model_copy()):
        assert copied.engine is engine
        assert copied.get_token_usage_summary().total_tokens == 0
        copied.call("x")
        assert copied.get_token_usage_summary().successful_requests == 1
    assert slm.get_token_usage_summary().successful_requests == 1
    runs = crew(slm).kickoff_for_each([{}, {}])
    assert [run.token_usage.successful_requests for run in runs] == [1, 1]


def test_t14_a_dump_has_no_handles_and_builds_the_same_model():
    """model_dump and pickle carry settings only; a fallback object's keys are not written."""
    slm = SLM("org/model", temperature=0.5, stop=["x"], fallback=HostedLLM(), top_k=4)
    dumped = slm.model_dump()
    assert dumped["fallback"] is None
    assert "engine" not in str(dumped).lower()
    again = SLM(**dumped)
    assert (again.model, again.temperature, again.stop, again.top_k) == ("org/model", 0.5, ["x"], 4)
    named = pickle.loads(pickle.dumps(SLM("org/model", fallback="gpt-4.1-mini")))
    assert (named.model, named.fallback, named.fallback_count) == ("org/model", "gpt-4.1-mini", 0)


def test_t14_an_agent_whose_helper_llm_is_an_slm_can_be_copied():
    """CrewAI rebuilds that field from its dump."""
    made = agent(SLM(ScriptedModel(["x"])), function_calling_llm=SLM("org/model"))
    assert made.copy().function_calling_llm.model == "org/model"


def test_construction_loads_nothing_and_refuses_what_it_cannot_do():
    """Unknown and unsupported options are named."""
    assert SLM("no/such-model").model == "no/such-model"
    with pytest.raises(TypeError, match="temprature"):
        SLM("m", temprature=1)
    with pytest.raises(TypeError, match="api_key"):
        SLM("m", api_key="k")


@pytest.mark.parametrize("wrong", [3, object(), "", ["gpt"]])
def test_a_fallback_that_is_no_llm_is_refused_at_construction(wrong):
    """Not at the first overflow in production."""
    with pytest.raises(InvalidFallbackError, match=r"crewai\.LLM"):
        SLM("m", fallback=wrong)


FAILURES = [
    (ContextOverflowError("m", 5000, 100, 4096), "overflow"),
    (InvalidReplyError("broken"), "invalid_reply"),
    (errors.DeadlineExceededError("late"), "deadline"),
    (ModelLoadError("no memory"), "model_load"),
    ("", "empty_reply"),
]


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
def test_the_fallback_answers_with_the_reason_on_the_span(spans, failure, reason):
    """One outer span with the reason, the fallback's own inside, tokens once."""
    hosted = HostedLLM("hosted answer")
    slm = SLM(ScriptedModel([failure]), fallback=hosted)
    with CallRecorder(tracer_provider=spans.provider):
        assert slm.call("x") == "hosted answer"
    outer, inner = spans.one("chat scripted"), spans.one("chat hosted")
    assert spans.parent_name(inner) == "chat scripted"
    assert outer.attributes["slm_adapters.fallback.reason"] == reason
    assert outer.attributes["slm_adapters.fallback.model"] == "hosted"
    assert "gen_ai.usage.input_tokens" not in outer.attributes
    assert inner.attributes["gen_ai.usage.input_tokens"] == USAGE["prompt_tokens"]
    assert (slm.fallback_count, slm.fallback_reasons) == (1, {reason: 1})


@pytest.mark.parametrize(("failure", "reason"), FAILURES)
async def test_the_fallback_answers_asynchronously_too(failure, reason):
    """The same through acall."""
    slm = SLM(ScriptedModel([failure]), fallback=HostedLLM("hosted answer"))
    assert await slm.acall("x") == "hosted answer"
    assert slm.fallback_reasons == {reason: 1}


def test_t16_the_fallback_gets_the_same_arguments_and_stop_words():
    """Tools, response model, agent and the agent's stop words all arrive."""
    got: dict = {}

    class Listening(HostedLLM):
        def call(self, messages, **arguments):
            got.update(arguments, messages=messages, stop=self.stop_sequences)
            return super().call(messages, **arguments)

    slm = SLM(ScriptedModel([InvalidReplyError("x")]), fallback=Listening(stop=["MINE"]))
    with call_stop_override(slm, ["\nObservation:"]):
        slm.call("x", tools=[LOOK_UP], response_model=Animal, from_agent=None)
    assert got["tools"] == [LOOK_UP]
    assert got["response_model"] is Animal
    assert got["stop"] == ["MINE", "\nObservation:"]


def test_the_fallback_s_tokens_are_in_the_total_once():
    """Also when the fallback is another agent's LLM in the same crew."""
    hosted = HostedLLM()
    slm = SLM(ScriptedModel([InvalidReplyError("x")]), fallback=hosted)
    assert crew(slm).kickoff().token_usage.total_tokens == USAGE["total_tokens"]
    slm = SLM(ScriptedModel([InvalidReplyError("x")]), fallback=(hosted := HostedLLM()))
    assert crew(slm, hosted).kickoff().token_usage.total_tokens == 2 * USAGE["total_tokens"]


def test_hooks_run_once_around_a_fallback():
    """before and after hooks see one logical call."""
    seen: list[str] = []

    def before(context) -> None:
        seen.append("before")

    def after(context) -> str:
        seen.append("after")
        return context.response + "!"

    register_before_llm_call_hook(before)
    register_after_llm_call_hook(after)
    try:
        slm = SLM(ScriptedModel([InvalidReplyError("x")]), fallback=HostedLLM("hosted"))
        assert slm.call("x") == "hosted!"
    finally:
        unregister_before_llm_call_hook(before)
        unregister_after_llm_call_hook(after)
    assert seen == ["before", "after"]


def test_t22_hooks_edit_and_block(events):
    """A hook's edit reaches the engine; a block is an error with one failed event."""
    engine = ScriptedModel(["ok"])

    def edit(context) -> None:
        context.messages.append({"role": "user", "content": "added"})

    def block(context) -> bool:
        return False

    register_before_llm_call_hook(edit)
    try:
        SLM(engine).call("x")
    finally:
        unregister_before_llm_call_hook(edit)
    assert engine.requests[0].messages[-1].text == "added"
    register_before_llm_call_hook(block)
    try:
        with pytest.raises(LLMCallBlockedError):
            SLM(engine).call("x")
    finally:
        unregister_before_llm_call_hook(block)
    assert len(engine.requests) == 1
    assert kinds(events)[-2:] == ["llm_call_started", "llm_call_failed"]


def test_without_a_fallback_the_typed_error_surfaces(events):
    """From an agent too, after CrewAI's own retries."""
    with pytest.raises(InvalidReplyError):
        crew(SLM(ScriptedModel([InvalidReplyError("broken")]))).kickoff()
    assert kinds(events)[:2] == ["llm_call_started", "llm_call_failed"]


def test_the_caller_s_own_cancellation_asks_no_fallback():
    """Nobody wants an answer any more."""
    hosted = HostedLLM()
    slm = SLM(ScriptedModel([errors.CancelledGenerationError("gone")]), fallback=hosted)
    with pytest.raises(errors.CancelledGenerationError):
        slm.call("x")
    assert hosted.asked == []


def test_a_fallback_by_name_is_made_on_first_use(monkeypatch):
    """A missing key of the hosted model is no reason not to start."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    slm = SLM(ScriptedModel(["ok"]), fallback="openai/gpt-4.1-mini")
    assert slm.call("x") == "ok"
    assert slm._fallback_llm is None


def test_the_window_is_the_larger_one_so_that_nothing_is_summarized_needlessly():
    """With a fallback, a long prompt goes there whole."""
    engine = ScriptedModel(["x"], context_window=1000)
    assert SLM(engine).get_context_window_size() == 850
    assert SLM(engine, fallback=HostedLLM()).get_context_window_size() == 100_000
    assert SLM(engine).get_input_tokens_count("three words here") == 3


def test_t17_a_stream_shows_its_chunks_in_order_and_ends_the_same(events):
    """Chunk events carry text and tool calls; the value is that of a plain call."""
    slm = SLM(ScriptedModel(["one two three", CALL]), stream=True)
    assert slm.call("x") == "one two three"
    chunks = [event.chunk for event in events if event.type == "llm_stream_chunk"]
    assert chunks == ["one", " two", " three"]
    assert slm.call("x", tools=[LOOK_UP]) == [CALL.to_openai()]
    pieces = [event for event in events if event.type == "llm_stream_chunk" and event.tool_call]
    assert len(pieces) > 2
    assert {piece.tool_call.function.name for piece in pieces} == {"look_up"}
    assert {piece.tool_call.id for piece in pieces} == {CALL.id}
    # As CrewAI's own providers tell it: the piece is the chunk, the call is what is known by now.
    assert "".join(piece.chunk for piece in pieces) == CALL.arguments
    so_far = [piece.tool_call.function.arguments for piece in pieces]
    assert so_far == sorted(so_far, key=len)
    assert (so_far[0], so_far[-1]) == ("", CALL.arguments)


async def test_t6_thoughts_are_events_of_their_own(events):
    """CrewAI's thinking chunks, in streams; never a part of the answer."""
    engine = ScriptedModel(["<think>two and two</think>Four."])
    slm = SLM(engine, stream=True)
    with captured_calls() as calls:
        assert slm.call("x") == await slm.acall("x") == "Four."
        assert SLM(engine).call("x") == "Four."
    told = [event.chunk for event in events if event.type == "llm_thinking_chunk"]
    assert told == ["two", " and", " two"] * 2
    said = [event.chunk for event in events if event.type == "llm_stream_chunk"]
    assert said == ["Four."] * 2
    assert [call.replies[0].message.reasoning for call in calls] == ["two and two"] * 3
    ended = [event for event in events if event.type == "llm_call_completed"]
    assert [event.usage["reasoning_tokens"] for event in ended] == [3, 3, 3]


def test_t6_after_a_thought_another_model_may_answer():
    """Nothing of an answer was shown yet."""
    slm = SLM(ScriptedModel(["<think>hm</think>"]), fallback=HostedLLM(), stream=True)
    assert slm.call("x") == "hosted answer"


async def test_t17_an_asynchronous_stream_does_the_same(events):
    """acall with stream on."""
    assert await SLM(ScriptedModel(["one two"]), stream=True).acall("x") == "one two"
    assert [event.chunk for event in events if event.type == "llm_stream_chunk"] == ["one", " two"]


def test_after_a_chunk_was_shown_no_other_model_answers():
    """Half an answer of one model and half of another is worse than an error."""

    class Breaks(ScriptedModel):
        def stream(self, request, cancel=None):
            yield from list(super().stream(request, cancel))[:1]
            raise InvalidReplyError("broke off")

    hosted = HostedLLM()
    with pytest.raises(InvalidReplyError):
        SLM(Breaks(["one two"]), fallback=hosted, stream=True).call("x")
    assert hosted.asked == []
    assert SLM(Breaks(["one two"]), fallback=hosted).call("x") == "hosted answer"


class Slow(ScriptedModel):
    """Takes until it is cancelled."""

    def stream(self, request, cancel=None):
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.started.set()
        if cancel.wait(5):
            self.stopped.set()
        raise errors.CancelledGenerationError("gone")
        yield


async def _by_task(slm):
    running = asyncio.create_task(slm.acall("x"))
    await asyncio.sleep(0.005)
    running.cancel()
    await running


async def _by_wait_for(slm):
    await asyncio.wait_for(slm.acall("x"), 0.005)


async def _by_timeout(slm):
    async with asyncio.timeout(0.005):
        await slm.acall("x")


@pytest.mark.parametrize("way", [_by_task, _by_wait_for, _by_timeout])
async def test_t9_cancelled_acalls_stop_the_model_and_close_their_scope(spans, way):
    """150 cancellations in one context: no StackDepthExceededError, nothing live."""
    engine = Slow(["x"])
    slm = SLM(engine)
    with CallRecorder(tracer_provider=spans.provider) as recorder:
        for _ in range(150):
            with pytest.raises((asyncio.TimeoutError, asyncio.CancelledError)):
                await way(slm)
        assert len(recorder._events.scopes) == 0
    assert engine.stopped.wait(1)
    kinds = [span.attributes["error.type"] for span in spans.named("chat")]
    assert kinds == ["asyncio.exceptions.CancelledError"] * 150


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_t9_an_interrupt_closes_the_call_once(events, kind):
    """Exactly one end event, and CrewAI's scope stack is as before."""
    from crewai.events.event_context import get_current_parent_id

    class Interrupted(ScriptedModel):
        def stream(self, request, cancel=None):
            raise kind
            yield

    before = get_current_parent_id()
    with pytest.raises(kind):
        SLM(Interrupted(["x"])).call("x")
    assert kinds(events) == ["llm_call_started", "llm_call_failed"]
    assert get_current_parent_id() == before


def test_t15_an_agent_s_time_limit_is_the_call_s_deadline():
    """The engine is told, and the fallback is not asked for what nobody waits for."""
    engine = ScriptedModel([errors.DeadlineExceededError("late")])
    hosted = HostedLLM()
    slm = SLM(engine, timeout=60, fallback=hosted)
    with pytest.raises(errors.DeadlineExceededError):
        slm.call("x", from_agent=agent(slm, max_execution_time=2))
    assert engine.requests[0].timeout == 2
    assert hosted.asked == []
    assert slm.call("x") == "hosted answer"


@pytest.mark.parametrize("field", ["output_json", "output_pydantic"])
@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_t19_t20_structured_output_never_leaves_the_machine(
    no_network, monkeypatch, field, with_tools, asynchronous
):
    """With sockets blocked and a cloud key set, conversion comes back to the same model."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://198.51.100.7/v1")

    def script(request):
        if request.response_format:
            return '{"name": "cat", "legs": 4}'
        return "It is a cat with four legs." if with_tools else "unused"

    made = agent(SLM(ScriptedModel(script)), tools=[tool()] if with_tools else [])
    of = Crew(agents=[made], tasks=[task(made, **{field: Animal})])
    output = asyncio.run(of.akickoff()) if asynchronous else of.kickoff()
    if field == "output_json":
        assert output.json_dict == {"name": "cat", "legs": 4}
    else:
        assert output.pydantic == Animal(name="cat", legs=4)


def test_a_whole_crew_runs_with_the_network_blocked(no_network):
    """Tools and all: rule one of a local model."""
    slm = SLM(ScriptedModel([CALL, "cat found"]))
    assert crew(slm, SLM(ScriptedModel(["written"])), tools=[tool()]).kickoff().raw == "written"


def test_t21_planning_reasoning_and_a_manager_run_on_slms():
    """The other places a crew puts an LLM."""
    plan = '{"list_of_plans_per_task": [{"task_number": 1, "task": "find", "plan": "look"}]}'

    def script(request):
        return plan if request.response_format else "done"

    planner = ScriptedModel(script)
    planned = crew(SLM(ScriptedModel(["ok"])), planning=True, planning_llm=SLM(planner))
    assert planned.kickoff().raw == "ok"
    assert planner.requests
    managed = Crew(
        agents=[agent(SLM(ScriptedModel(["helped"])), "Helper")],
        tasks=[task(None)],
        process=Process.hierarchical,
        manager_llm=SLM(ScriptedModel(["managed"])),
    )
    assert managed.kickoff().raw == "managed"


def test_without_a_recorder_an_slm_records_itself():
    """Hooks of the process see every call, with role and facts; nested fallbacks too."""
    slm = SLM(ScriptedModel(["one two"]), max_tokens=9)
    with captured_calls() as calls:
        crew(slm).kickoff()
        with pytest.raises(EmptyReplyError):
            SLM(ScriptedModel([""])).call("x")
    assert [(call.role, call.outcome) for call in calls] == [
        ("Researcher", "finished"),
        (None, "failed"),
    ]
    assert calls[0].params["max_tokens"] == 9
    assert calls[0].usage.source == "tokenizer"


def test_a_recorder_and_a_process_hook_see_one_call(spans):
    """Never two records of one call."""
    with captured_calls() as calls, CallRecorder(tracer_provider=spans.provider):
        SLM(ScriptedModel(["x"])).call("y")
    assert len(calls) == len(spans.all()) == 1


def test_the_engine_s_facts_are_on_the_span(spans):
    """Device, quantization and decode rate, from the completion."""
    from slm_adapters.engine.engine import Timings

    class Measured(ScriptedModel):
        def stream(self, request, cancel=None):
            *chunks, last = super().stream(request, cancel)
            yield from chunks
            facts = {"slm_adapters.device": "cpu", "slm_adapters.quantization": "nf4"}
            yield Completion(last.reply, last.usage, "m", Timings(0.5, 0.1, 2.0), facts)

    with CallRecorder(tracer_provider=spans.provider):
        SLM(Measured(["one two"])).call("x")
    attributes = spans.one("chat").attributes
    assert attributes["slm_adapters.device"] == "cpu"
    assert attributes["slm_adapters.decode.tokens_per_second"] == 1.0
    assert attributes["slm_adapters.queue.seconds"] == 0.5


def test_files_go_to_the_fallback_or_are_refused():
    """A text model does not drop them silently."""
    messages = [{"role": "user", "content": "x", "files": {"a": b""}}]
    with pytest.raises(errors.UnsupportedContentError, match="text only"):
        SLM(ScriptedModel(["x"])).call(messages)
    slm = SLM(ScriptedModel(["x"]), fallback=HostedLLM())
    assert slm.call(messages) == "hosted answer"
    assert slm.fallback_reasons == {"unsupported_content": 1}


def test_twenty_threads_on_one_slm_count_every_call():
    """Counters are exact under concurrency."""
    slm = SLM(ScriptedModel(["one two"]))
    threads = [
        threading.Thread(target=lambda: [slm.call("a b c") for _ in range(20)]) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    usage = slm.get_token_usage_summary()
    assert (usage.successful_requests, usage.total_tokens) == (400, 2000)


def test_an_agent_takes_an_slm_and_keeps_it():
    """Same object, and no warning about an unknown model."""
    slm = SLM(ScriptedModel(["x"]))
    made = Agent(role="r", goal="g", backstory="b", llm=slm)
    assert made.llm is slm
    assert isinstance(slm.engine, ChatEngine)


def test_a_model_that_is_not_there_is_the_fallback_s_turn(tmp_path):
    """Also for the questions CrewAI asks before the call; without a fallback, a typed error."""
    slm = SLM(tmp_path / "gone", fallback=HostedLLM())
    assert crew(slm).kickoff().raw == "hosted answer"
    assert slm.fallback_reasons == {"model_not_found": 1}
    with pytest.raises(errors.ModelNotFoundError):
        SLM(tmp_path / "gone").call("x")


def test_crewai_absent_is_one_readable_sentence(monkeypatch):
    """T36: the import says what to type."""
    import sys

    for name in [name for name in sys.modules if name == "slm_adapters.crewai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "crewai", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'slm-adapters\[crewai\]'"):
        import slm_adapters.crewai  # noqa: F401


def _as_template_input(message: Message) -> dict:
    data = message.to_openai()
    for call in data.get("tool_calls", []):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return data | {"content": data["content"] or ""}


def test_a_real_model_calls_a_real_tool_in_a_real_crew(tmp_path, spans, no_network):
    """A tiny transformers model, taught this conversation, does it end to end."""
    pytest.importorskip("torch")
    from tiny_models import teach, tiny_model

    watched = ScriptedModel([CALL, "cat found"])
    crew(SLM(watched), tools=[tool()]).kickoff()
    texts = [
        '<tool_call>\n{"name": "look_up", "arguments": {"word": "cat"}}\n</tool_call>',
        "cat found",
    ]
    rows = [
        ([_as_template_input(message) for message in request.messages], text)
        for request, text in zip(watched.requests, texts, strict=True)
    ]
    folder = tiny_model(tmp_path / "tiny", window=4096)
    teach(folder, rows, tools=[t.to_openai() for t in watched.requests[0].tools], steps=400)
    slm = SLM(folder, fallback=HostedLLM())
    with CallRecorder(tracer_provider=spans.provider):
        result = crew(slm, tools=[tool()]).kickoff()
    assert result.raw == "cat found"
    assert slm.fallback_count == 0
    first, second = spans.named("chat tiny")
    assert first.attributes["gen_ai.response.finish_reasons"] == ("tool_call",)
    assert first.attributes["slm_adapters.device"] == "cpu"
    assert second.attributes["slm_adapters.decode.tokens_per_second"] > 0
    assert second.attributes["slm_adapters.queue.seconds"] >= 0
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] > 0
    total = sum(span.attributes["gen_ai.usage.output_tokens"] for span in (first, second))
    assert result.token_usage.completion_tokens == total
    assert str(tmp_path) not in "".join(span.to_json() for span in spans.all())
