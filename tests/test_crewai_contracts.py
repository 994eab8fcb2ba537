"""CrewAI's contracts by trap number, each in a real crew.

Engines are scripted where a test is about what CrewAI makes of an answer; where it is about
computing (T14, T15) the model is a real, tiny one.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from crewai import Crew, Process
from crewai.hooks import register_after_llm_call_hook, unregister_after_llm_call_hook
from crewai.llms.base_llm import call_stop_override
from crewai.utilities.converter import Converter
from crewai_cases import CALL, LOOK_UP, Animal, HostedLLM, TextSLM, agent, crew, task, tool

from slm_adapters.calls import ToolCall
from slm_adapters.crewai import SLM
from slm_adapters.engine.loader import load_engine, loaded_models
from slm_adapters.errors import ContextOverflowError, DeadlineExceededError, InvalidReplyError
from slm_adapters.testing import ScriptedModel


def said_to(engine: ScriptedModel, turn: int) -> str:
    return "\n".join(message.text for message in engine.requests[turn].messages)


def test_t1_a_whole_play_in_one_answer_runs_the_tool_once() -> None:
    """Action, made-up observation and final answer in one text: only the action counts."""
    ran: list[int] = []
    engine = ScriptedModel(
        [
            'Thought: I look.\nAction: look_up\nAction Input: {"word": "cat"}\n'
            "Observation: invented\nThought: I know.\nFinal Answer: invented",
            "Thought: I know.\nFinal Answer: cat found",
        ]
    )
    done = crew(TextSLM(engine), tools=[tool(lambda: ran.append(1))]).kickoff()
    assert done.raw == "cat found"
    assert ran == [1]
    assert "found cat" in said_to(engine, 1)
    assert "invented" not in said_to(engine, 1)


def test_t10_conversion_and_summarizing_ask_the_same_model() -> None:
    """No method that CrewAI's base class lacks is missed; long histories go in parts, at once."""
    engine = ScriptedModel(['{"name": "cat", "legs": 4}'])
    made = Converter(llm=SLM(engine), text="A cat.", model=Animal, instructions="As JSON.")
    assert made.to_pydantic() == Animal(name="cat", legs=4)
    assert json.loads(made.to_json()) == {"name": "cat", "legs": 4}

    class Watched(ScriptedModel):
        """Notes how many ask at once."""

        now = most = 0

        def stream(self, request, cancel=None):
            self.now += 1
            self.most = max(self.most, self.now)
            time.sleep(0.3)
            self.now -= 1
            yield from super().stream(request, cancel)

    engine = Watched(["<summary>short</summary>"], context_window=1000)
    history = [{"role": "user", "content": f"{number} " * 500} for number in range(4)]
    SLM(engine).summarize_messages(history, callbacks=[])
    assert len(engine.requests) == 4
    assert engine.most > 1
    assert str(history).count("short") == 4


def test_t11_a_prompt_no_summary_can_save_ends_in_the_typed_error() -> None:
    """The loop of overflow and summary is finite."""

    def script(request):
        summarizing = "summar" in request.messages[0].text.lower()
        return "<summary>s</summary>" if summarizing else ContextOverflowError("m", 9, 1, 8)

    engine = ScriptedModel(script)
    with pytest.raises(ContextOverflowError):
        crew(SLM(engine), tools=[tool()]).kickoff()
    assert len(engine.requests) < 200


def test_t14_runs_of_a_copied_crew_share_one_load(tmp_path) -> None:
    """kickoff_for_each on real weights: loaded once, counted apart."""
    tiny_model = pytest.importorskip("tiny_models").tiny_model
    folder = tiny_model(tmp_path / "tiny", window=2048)
    slm = SLM(folder, max_tokens=8, device="cpu", quantization="none")
    runs = crew(slm).kickoff_for_each([{}, {}, {}])
    (load,) = [load for load in loaded_models() if load.model == str(folder)]
    assert load.users >= 1
    assert [run.token_usage.successful_requests for run in runs] == [1, 1, 1]
    assert {run.raw for run in runs} == {runs[0].raw}


@pytest.fixture
def slow_engine(tmp_path, monkeypatch):
    """A tiny model at 20 ms a step, and the list of its steps."""
    tiny_model = pytest.importorskip("tiny_models").tiny_model
    engine = load_engine(tiny_model(tmp_path / "slow"), device="cpu", quantization="none")
    engine.warm_up()
    steps: list[float] = []
    network = engine._handle.loaded().decoder.network
    decode = network.decode

    def slowly(tokens: Any, caches: Any) -> Any:
        time.sleep(0.02)
        steps.append(time.monotonic())
        return decode(tokens, caches)

    monkeypatch.setattr(network, "decode", slowly, raising=False)
    return engine, steps


@pytest.mark.parametrize("asynchronous", [False, True])
def test_t15_an_agent_s_time_limit_stops_the_model(slow_engine, asynchronous) -> None:
    """After a second and not after the reply, which would take half a minute; nothing goes on."""
    engine, steps = slow_engine
    slm = SLM(engine, max_tokens=1500)
    limited = agent(slm, max_execution_time=1)
    of = Crew(agents=[limited], tasks=[task(limited)])
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(of.akickoff()) if asynchronous else of.kickoff()
    assert time.monotonic() - started < 10
    counted = len(steps)
    time.sleep(0.2)
    assert len(steps) <= counted + 1
    assert counted < 100
    assert engine._handle.loaded().scheduler.load == (0, 0)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_t15_the_limit_is_the_execution_s_and_not_each_call_s(asynchronous) -> None:
    """Every call gets what the calls and tools before it have left."""

    class Looks(ScriptedModel):
        def stream(self, request, cancel=None):
            time.sleep(0.2)
            yield from super().stream(request, cancel)

    engine = Looks([CALL, CALL, "done"])
    limited = agent(SLM(engine, timeout=60), tools=[tool()], max_execution_time=30)
    of = Crew(agents=[limited], tasks=[task(limited)])
    assert (asyncio.run(of.akickoff()) if asynchronous else of.kickoff()).raw == "done"
    first, *_, last = [request.timeout for request in engine.requests]
    assert 29 < first <= 30
    assert last < first - 0.3


def test_t15_an_inner_agent_keeps_the_outer_one_s_limit() -> None:
    """Delegation does not buy time; when none is left the call says so before any compute."""
    from slm_adapters._crewai.limits import _until_then, time_left

    inner = agent(SLM(ScriptedModel(["x"])), max_execution_time=500)
    assert time_left(inner) == 500
    with _until_then(2), _until_then(500):
        assert time_left(inner) <= 2
    with _until_then(0):
        assert 0 < time_left(inner) < 0.01
    assert time_left(inner) == 500


def test_t16_parallel_tasks_have_their_own_stop_words() -> None:
    """On one shared SLM: overrides of one thread are not seen in another."""
    engine = ScriptedModel(lambda request: f"{request.messages[-1].text} STOP-A x STOP-B y")
    slm, barrier = SLM(engine, stop=["NEVER"]), threading.Barrier(2, timeout=10)
    said: dict[str, str] = {}

    def ask(word: str) -> None:
        with call_stop_override(slm, [word]):
            barrier.wait()
            said[word] = slm.call("ask")

    threads = [threading.Thread(target=ask, args=(word,)) for word in ("STOP-A", "STOP-B")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {"STOP-A": "ask", "STOP-B": "ask STOP-A x"}
    assert slm.stop == ["NEVER"]


def test_t16_a_crew_with_parallel_react_tasks_stops_at_observations() -> None:
    """CrewAI sets the stop word per execution; both tasks get it."""
    answer = "Thought: ok\nFinal Answer: one\nObservation: more"
    engine = ScriptedModel([answer])
    one, two = agent(TextSLM(engine), tools=[tool()]), agent(TextSLM(engine), "Writer", [tool()])
    last = agent(SLM(ScriptedModel(["end"])), "Editor")
    tasks = [task(one, async_execution=True), task(two, async_execution=True), task(last)]
    done = Crew(agents=[one, two, last], tasks=tasks).kickoff()
    assert [output.raw for output in done.tasks_output] == ["one", "one", "end"]
    assert all("\nObservation:" in request.stop for request in engine.requests)


def test_t17_a_streaming_crew_shows_chunks_in_order_and_ends_the_same() -> None:
    """Text and tool-call chunks; the value is that of a crew that does not stream."""
    plain = crew(SLM(ScriptedModel([CALL, "cat found here"])), tools=[tool()]).kickoff()
    streaming = crew(SLM(ScriptedModel([CALL, "cat found here"])), tools=[tool()], stream=True)
    stream = streaming.kickoff()
    chunks = list(stream)
    assert stream.result.raw == plain.raw == "cat found here"
    texts = [chunk.content for chunk in chunks if chunk.chunk_type.value == "text"]
    assert "".join(texts) == "cat found here"
    calls = [chunk for chunk in chunks if chunk.chunk_type.value == "tool_call"]
    assert {chunk.tool_call.tool_name for chunk in calls} == {"look_up"}
    assert "".join(chunk.content for chunk in calls) == CALL.arguments
    assert calls[-1].tool_call.arguments == CALL.arguments
    assert chunks.index(calls[0]) < len(chunks) - len([text for text in texts if text])


WAYS = {
    "text": ({}, ["one two"]),
    "stream": ({"stream": True}, ["one two"]),
    "tools": ({}, [CALL]),
    "fallback": ({"fallback": True}, [InvalidReplyError("x")]),
    "error": ({}, [InvalidReplyError("x")]),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_t18_one_start_and_one_end_with_usage(events, way, asynchronous) -> None:
    """However a call goes: started once, completed or failed once, usage and reason on the end."""
    options, answers = WAYS[way]
    hosted = HostedLLM() if options.get("fallback") else None
    slm = SLM(ScriptedModel(answers), **{**options, "fallback": hosted})
    arguments: dict[str, Any] = {"tools": [LOOK_UP]} if way == "tools" else {}
    try:
        if asynchronous:
            asyncio.run(slm.acall("three words here", **arguments))
        else:
            slm.call("three words here", **arguments)
    except InvalidReplyError:
        assert way == "error"
    ends = ("llm_call_completed", "llm_call_failed")
    mine = [e for e in events if e.type in ("llm_call_started", *ends) and e.model == "scripted"]
    assert len(mine) == 2
    first, last = mine
    assert first.type == "llm_call_started"
    assert last.type == ("llm_call_failed" if way == "error" else "llm_call_completed")
    assert first.call_id == last.call_id
    if way in ("text", "stream", "tools"):
        assert last.usage["total_tokens"] > 0
        assert last.finish_reason == ("tool_call" if way == "tools" else "stop")


def test_t21_a_guardrail_in_words_is_judged_by_the_slm() -> None:
    """Turned down once with its feedback, then accepted."""
    verdicts = iter(['{"valid": false, "feedback": "too long"}', '{"valid": true, "feedback": ""}'])

    def script(request):
        return next(verdicts) if request.response_format else f"answer {len(engine.requests)}"

    engine = ScriptedModel(script)
    of = agent(SLM(engine))
    guarded = task(of, guardrail="One word only.", guardrail_max_retries=2)
    done = Crew(agents=[of], tasks=[guarded]).kickoff()
    assert done.raw.startswith("answer")
    assert "too long" in "".join(said_to(engine, turn) for turn in range(len(engine.requests)))


def test_t21_agents_delegate_to_each_other_on_slms() -> None:
    """The delegation tool is a tool like others; the other agent's answer comes back."""
    asked = {"task": "look", "context": "a cat", "coworker": "Helper"}
    delegate = ToolCall("d1", "delegate_work_to_coworker", json.dumps(asked))
    boss = ScriptedModel([delegate, "as Helper says"])
    leader = agent(SLM(boss), "Leader", allow_delegation=True)
    helper = agent(SLM(ScriptedModel(["helped well"])), "Helper")
    done = Crew(agents=[leader, helper], tasks=[task(leader)]).kickoff()
    assert done.raw == "as Helper says"
    assert "helped well" in said_to(boss, 1)


def test_t21_a_manager_delegates_in_a_hierarchical_crew() -> None:
    """manager_llm on an SLM hands the work out and reports."""
    asked = {"task": "look", "context": "a cat", "coworker": "Helper"}
    delegate = ToolCall("d1", "delegate_work_to_coworker", json.dumps(asked))
    manager = ScriptedModel([delegate, "managed"])
    done = Crew(
        agents=[agent(SLM(ScriptedModel(["helped well"])), "Helper")],
        tasks=[task(None)],
        process=Process.hierarchical,
        manager_llm=SLM(manager),
    ).kickoff()
    assert done.raw == "managed"
    assert "helped well" in said_to(manager, 1)


def test_t22_an_after_hook_edits_a_crew_s_answer_once() -> None:
    """Around the whole call; tool calls are no text and are left alone."""

    def after(context) -> str:
        return context.response + "!"

    register_after_llm_call_hook(after)
    try:
        done = crew(SLM(ScriptedModel([CALL, "found"])), tools=[tool()]).kickoff()
    finally:
        unregister_after_llm_call_hook(after)
    assert done.raw == "found!"


def test_t8_planning_s_functions_run_inside_the_call() -> None:
    """available_functions as the planner of an agent hands them over: executed, result returned."""
    got: list[str] = []

    def look_up(word: str) -> str:
        got.append(word)
        return "found"

    slm = SLM(ScriptedModel([CALL]))
    assert slm.call("x", tools=[LOOK_UP], available_functions={"look_up": look_up}) == "found"
    assert got == ["cat"]
    # A function nobody handed over is not ours to run: the caller gets the call.
    assert SLM(ScriptedModel([CALL])).call("x", tools=[LOOK_UP], available_functions={}) == [
        CALL.to_openai()
    ]


def test_t12_a_time_limit_s_text_is_not_taken_for_throttling() -> None:
    """One attempt, not three."""
    engine = ScriptedModel([DeadlineExceededError("the local model did not finish within 1 s.")])
    with pytest.raises(DeadlineExceededError):
        SLM(engine).call("x")
    assert len(engine.requests) == 1
