"""One policy behind all three faces: reasons on spans, sticky runs, the fallback's own errors."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest
from crewai import Crew
from crewai_cases import CALL, LOOK_UP, USAGE, HostedLLM, agent, crew, task, tool
from langchain_core.messages import AIMessage
from langchain_models import HostedChat

import slm_adapters.langchain
import slm_adapters.litellm
from slm_adapters import run
from slm_adapters.crewai import SLM, CallRecorder
from slm_adapters.errors import InvalidReplyError, ModelLoadError, RejectedReplyError
from slm_adapters.langchain import ChatSLM
from slm_adapters.routing import Breaker, Consistent, Copied, Router
from slm_adapters.testing import ScriptedModel


def no(answer: Any) -> str:
    return "no_good"


# CrewAI


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_answer_goes_to_crewai_s_fallback_with_the_reason(
    spans, events, asynchronous, stream
) -> None:
    """Not a word of it is shown; its tokens are counted; the span says why."""
    slm = SLM(ScriptedModel(["one two"]), fallback=HostedLLM(), router=Router(no), stream=stream)
    with CallRecorder(tracer_provider=spans.provider):
        said = asyncio.run(slm.acall("x")) if asynchronous else slm.call("x")
    assert said == "hosted answer"
    assert spans.one("chat scripted").attributes["slm_adapters.fallback.reason"] == "no_good"
    assert slm.fallback_reasons == {"no_good": 1}
    assert slm.get_token_usage_summary().total_tokens == 3 + USAGE["total_tokens"]
    assert not [event for event in events if event.type == "llm_stream_chunk"]


def test_without_a_fallback_a_refused_answer_is_a_typed_error() -> None:
    """In the call, and after CrewAI's own retries of the task."""
    with pytest.raises(RejectedReplyError, match="no_good"):
        SLM(ScriptedModel(["x"]), router=Router(no)).call("x")


def test_a_tool_runs_only_after_its_call_was_accepted() -> None:
    """A value that nobody said never reaches the function."""
    ran: list[str] = []
    functions = {"look_up": lambda word: ran.append(word) or f"found {word}"}
    slm = SLM(ScriptedModel([CALL]), fallback=HostedLLM(), router=Router(Copied("word")))
    assert slm.call("the dog", [LOOK_UP], available_functions=functions) == "hosted answer"
    assert ran == []
    assert slm.call("the cat", [LOOK_UP], available_functions=functions) == "found cat"
    assert ran == ["cat"]
    assert slm.fallback_reasons == {"not_copied": 1}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("429: rate limit exceeded, too many requests"),
        InvalidReplyError("from a crew inside the tool"),
    ],
)
def test_a_call_whose_tool_ran_is_never_made_again(failure, asynchronous) -> None:
    """Neither by CrewAI, which repeats calls that look throttled, nor on the fallback."""
    ran: list[str] = []

    def look_up(word: str) -> str:
        ran.append(word)
        raise failure

    engine, hosted = ScriptedModel([CALL]), HostedLLM()
    slm = SLM(engine, fallback=hosted)
    asked = {"tools": [LOOK_UP], "available_functions": {"look_up": look_up}}
    with pytest.raises(type(failure)) as caught:
        asyncio.run(slm.acall("x", **asked)) if asynchronous else slm.call("x", **asked)
    assert caught.value is failure
    assert (ran, len(engine.requests), hosted.asked) == (["cat"], 1, [])


class Throttled(Exception):
    status_code = 429


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_fallback_s_errors_are_what_they_would_be_without_us(monkeypatch, asynchronous) -> None:
    """The same object, nothing chained to it, CrewAI's three attempts, and the SLM asked once."""

    monkeypatch.setattr("crewai.llms.retry.get_retry_delay_seconds", lambda **_: 0.0)
    failure = Throttled("slow down")
    alone, behind = HostedLLM(failure), HostedLLM(failure)
    engine = ScriptedModel([InvalidReplyError("x")])
    caught = []
    for llm in (alone, SLM(engine, fallback=behind)):
        with pytest.raises(Throttled) as info:
            asyncio.run(llm.acall("x")) if asynchronous else llm.call("x")
        caught.append(info.value)
    assert caught[0] is caught[1] is failure
    assert failure.__cause__ is failure.__context__ is None
    assert len(alone.asked) == len(behind.asked) == 3
    assert len(engine.requests) == 1


def test_sticky_keeps_a_crew_s_role_on_the_llm_until_the_kickoff_ends() -> None:
    """Two tasks of one agent: the second goes there at once; the next kickoff starts afresh."""
    engine = ScriptedModel([InvalidReplyError("x"), "local"])
    slm = SLM(engine, fallback=HostedLLM(), router=Router(sticky=True))
    worker = agent(slm)
    both = Crew(agents=[worker], tasks=[task(worker, "one"), task(worker, "two")])
    both.kickoff()
    assert slm.fallback_reasons == {"invalid_reply": 1, "sticky": 1}
    assert len(engine.requests) == 1
    slm.router = Router(sticky=True)
    engine.requests.clear()
    both.kickoff()
    assert len(engine.requests) == 1
    engine._answers = ["local"]
    assert both.kickoff().raw == "local"


def test_sticky_holds_for_one_role_only() -> None:
    """Another agent of the crew on the same model stays with it."""
    engine = ScriptedModel([InvalidReplyError("x"), "local"])
    slm = SLM(engine, fallback=HostedLLM(), router=Router(sticky=True))
    assert crew(slm, slm).kickoff().raw == "local"
    assert slm.fallback_reasons == {"invalid_reply": 1}


def test_a_model_that_keeps_failing_rests_and_the_llm_answers_at_once() -> None:
    """After five failures in a row nobody waits for the sixth."""
    engine = ScriptedModel([ModelLoadError("x")])
    slm = SLM(engine, fallback=HostedLLM())
    for _ in range(8):
        assert slm.call("x") == "hosted answer"
    assert len(engine.requests) == 5
    assert slm.fallback_reasons == {"model_load": 5, "circuit_open": 3}
    always = SLM(engine, fallback=HostedLLM(), router=Router(breaker=None))
    for _ in range(8):
        always.call("x")
    assert always.fallback_reasons == {"model_load": 8}


def test_copies_share_the_router_and_dumps_have_none() -> None:
    """What one copy learns of the model holds for all; a policy is no JSON."""
    slm = SLM(ScriptedModel([ModelLoadError("x")]), fallback=HostedLLM(), router=Router(no))
    assert slm.model_copy().router is slm.router
    assert "router" not in slm.model_dump()
    with pytest.raises(TypeError, match="Router"):
        SLM("m", router=[no])


# LangChain


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_refused_answer_goes_to_langchain_s_fallback(spans, way) -> None:
    """All four ways; no piece of it is shown."""
    recorder = slm_adapters.langchain.CallRecorder(tracer_provider=spans.provider)
    model = ChatSLM(ScriptedModel(["one two"]), fallback=HostedChat(), router=Router(no))
    config: dict[str, Any] = {"callbacks": [recorder]}
    if way == "invoke":
        said = model.invoke("q", config).text
    elif way == "ainvoke":
        said = (await model.ainvoke("q", config)).text
    elif way == "stream":
        said = "".join(chunk.text for chunk in model.stream("q", config))
    else:
        said = "".join([chunk.text async for chunk in model.astream("q", config)])
    assert said == "a hosted answer"
    assert model.fallbacks.reasons == {"no_good": 1}
    assert spans.one("chat scripted").attributes["slm_adapters.fallback.reason"] == "no_good"


def test_an_accepted_answer_says_how_many_samples_it_took(spans) -> None:
    """On the span, with all the tokens they cost."""
    recorder = slm_adapters.langchain.CallRecorder(tracer_provider=spans.provider)
    model = ChatSLM(ScriptedModel(["one two"]), router=Router(Consistent(3)))
    answer = model.invoke("q", {"callbacks": [recorder]})
    assert answer.usage_metadata["output_tokens"] == 6
    assert spans.one("chat").attributes["slm_adapters.samples"] == 3


def test_a_sampling_chat_model_tries_again_before_it_gives_way() -> None:
    """With temperature and no seed the next answer may pass; greedy would only repeat itself."""
    engine = ScriptedModel(["bad", "good"])
    router = Router(lambda answer: answer.text == "good")
    assert ChatSLM(engine, temperature=0.5, router=router).invoke("q").text == "good"
    with pytest.raises(RejectedReplyError):
        ChatSLM(ScriptedModel(["bad", "good"]), router=router).invoke("q")


def test_langchain_s_sticky_run_is_the_program_s_or_the_recorder_s(spans) -> None:
    """``run(...)`` names it; in a graph under a recorder the outermost run is it."""
    engine = ScriptedModel([InvalidReplyError("x"), "local"])
    model = ChatSLM(engine, fallback=HostedChat(), router=Router(sticky=True))
    with run("ticket-1"):
        assert [model.invoke("q").text for _ in range(2)] == ["a hosted answer"] * 2
    with run("ticket-2"):
        assert model.invoke("q").text == "local"
    assert model.fallbacks.reasons == {"invalid_reply": 1, "sticky": 1}
    recorder = slm_adapters.langchain.CallRecorder(tracer_provider=spans.provider)
    engine = ScriptedModel([InvalidReplyError("x"), "local"])
    model = ChatSLM(engine, fallback=HostedChat(), router=Router(sticky=True))
    twice = model | (lambda message: message.text) | model
    assert twice.invoke("q", {"callbacks": [recorder]}).text == "a hosted answer"
    assert model.fallbacks.reasons == {"invalid_reply": 1, "sticky": 1}
    engine._answers = ["local"]
    assert twice.invoke("q", {"callbacks": [recorder]}).text == "local"


def test_langgraph_s_thread_is_a_run_without_a_recorder() -> None:
    """A conversation that moved to the LLM stays there."""
    from langchain.agents import create_agent

    engine = ScriptedModel([InvalidReplyError("x"), "local"])
    model = ChatSLM(engine, fallback=HostedChat(), router=Router(sticky=True))
    made = create_agent(model, tools=[])
    ask = {"messages": [{"role": "user", "content": "q"}]}
    for thread, said in [("1", "a hosted answer"), ("1", "a hosted answer"), ("2", "local")]:
        answer = made.invoke(ask, {"configurable": {"thread_id": thread}})
        assert answer["messages"][-1].text == said


def test_the_chat_fallback_s_error_has_none_of_ours_behind_it() -> None:
    """Same object, nothing chained."""
    failure = ConnectionError("gone")
    model = ChatSLM(ScriptedModel([InvalidReplyError("x")]), fallback=HostedChat(replies=[failure]))
    with pytest.raises(ConnectionError) as caught:
        model.invoke("q")
    assert caught.value is failure
    assert failure.__cause__ is failure.__context__ is None


def test_langchain_s_cache_knows_two_policies_apart() -> None:
    """An answer that one router accepted is not the other's."""
    from langchain_core.caches import InMemoryCache

    engine, cache = ScriptedModel(["x"]), InMemoryCache()
    assert [ChatSLM(engine, cache=cache).invoke("q").text for _ in range(2)] == ["x", "x"]
    assert len(engine.requests) == 1
    with pytest.raises(RejectedReplyError):
        ChatSLM(engine, cache=cache, router=Router(no)).invoke("q")


# LiteLLM


@pytest.fixture
def litellm_quiet():
    yield
    slm_adapters.litellm.unregister()


def test_litellm_s_own_fallback_answers_what_the_router_refused(litellm_quiet) -> None:
    """``Router.over(model)`` is an engine for ``register``; ``fallbacks=`` does the rest."""
    engine, other = ScriptedModel([CALL]), ScriptedModel(["from the fallback"])
    slm_adapters.litellm.register(
        {"triage": Router(Copied("word")).over(engine), "other": other},
    )
    asked: dict[str, Any] = {"model": "slm/triage", "tools": [LOOK_UP]}
    cat = litellm.completion(messages=[{"role": "user", "content": "the cat"}], **asked)
    assert cat.choices[0].message.tool_calls[0].function.name == "look_up"
    dog = litellm.completion(
        messages=[{"role": "user", "content": "the dog"}], fallbacks=["slm/other"], **asked
    )
    assert dog.choices[0].message.content == "from the fallback"
    with pytest.raises(litellm.InternalServerError, match="not_copied"):
        litellm.completion(messages=[{"role": "user", "content": "the dog"}], **asked)


# Nothing leaves the machine


def test_checks_and_samples_need_no_network(no_network) -> None:
    """Every check on every face works with sockets blocked."""
    router = Router(Copied(), Consistent(3), breaker=Breaker(1))
    assert SLM(ScriptedModel(["x"]), router=router).call("x") == "x"
    assert isinstance(ChatSLM(ScriptedModel(["x"]), router=router).invoke("x"), AIMessage)
    assert crew(SLM(ScriptedModel([CALL, "cat found"])), tools=[tool()]).kickoff().raw
