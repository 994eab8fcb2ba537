"""``swap``: a finished crew on other models and exactly back."""

from __future__ import annotations

import inspect

import pytest
from crewai import Crew, Process
from crewai_cases import HostedLLM, agent, crew, task, tool

from slm_adapters.crewai import SLM, CallRecorder, swap
from slm_adapters.testing import ScriptedModel


def test_a_swap_moves_one_role_and_puts_the_same_object_back():
    """The other role keeps its LLM; afterwards everything is as before."""
    researcher, writer = HostedLLM("r"), HostedLLM("w")
    made = crew(researcher, writer)
    local = SLM(ScriptedModel(["local"]))
    with swap(made, {"Writer": local}):
        assert made.agents[1].llm is local
        assert made.kickoff().raw == "local"
    assert made.agents[1].llm is writer
    assert made.agents[0].llm is researcher
    assert (len(researcher.asked), len(writer.asked)) == (1, 0)


def test_a_swap_works_on_an_executor_that_exists_already():
    """A crew that has run before holds its LLM in the executor, too."""
    hosted = HostedLLM("hosted")
    made = crew(hosted)
    made.kickoff()
    executor = made.agents[0].agent_executor
    with swap(made, {"Researcher": SLM(ScriptedModel(["local"]))}) as swapped:
        assert executor.llm is made.agents[0].llm
        assert made.kickoff().raw == "local"
    assert executor.llm is hosted
    assert made.kickoff().raw == "hosted"
    swapped.undo()
    assert made.agents[0].llm is hosted


def test_a_swap_without_with_lasts_until_undo():
    """Applied at once."""
    hosted = HostedLLM("hosted")
    made = crew(hosted)
    swapped = swap(made, {" Researcher ": ScriptedModel(["local"])})
    assert isinstance(made.agents[0].llm, SLM)
    swapped.undo()
    assert made.agents[0].llm is hosted


def test_an_exception_restores_too():
    """The crew is never left half swapped."""
    hosted = HostedLLM()
    made = crew(hosted)
    with pytest.raises(ZeroDivisionError), swap(made, {"Researcher": SLM("m")}):
        raise ZeroDivisionError
    assert made.agents[0].llm is hosted


@pytest.mark.parametrize("entry", ["kickoff_async", "akickoff"])
async def test_a_swap_holds_for_asynchronous_runs(entry):
    """Await the run inside the block."""
    made = crew(HostedLLM("hosted"))
    with swap(made, {"Researcher": SLM(ScriptedModel(["local"]))}):
        assert (await getattr(made, entry)()).raw == "local"
    assert (await getattr(made, entry)()).raw == "hosted"


def test_a_swap_holds_for_the_copies_of_kickoff_for_each():
    """Copies are made of the swapped crew."""
    made = crew(HostedLLM("hosted"))
    with swap(made, {"Researcher": SLM(ScriptedModel(["local"]))}):
        runs = made.kickoff_for_each([{}, {}])
    assert [run.raw for run in runs] == ["local", "local"]


def managed(boss):
    return Crew(
        agents=[agent(HostedLLM(), "Helper")],
        tasks=[task(None)],
        process=Process.hierarchical,
        manager_llm=boss,
    )


def test_a_manager_is_swapped_by_its_role():
    """Made by the kickoff from manager_llm; afterwards the crew is as it was."""
    boss = HostedLLM("boss")
    made = managed(boss)
    with swap(made, {"Crew Manager": SLM(ScriptedModel(["local boss"]))}):
        assert made.kickoff().raw == "local boss"
    assert made.manager_llm is boss
    assert made.manager_agent is None
    assert made.kickoff().raw == "boss"


@pytest.mark.skipif(
    "BaseAgentTool" not in inspect.getsource(Crew._create_manager_agent),
    reason="this CrewAI itself refuses a second kickoff of a crew whose manager it made",
)
def test_a_manager_that_an_earlier_kickoff_made_is_swapped_too():
    """Its LLM goes back to the manager, not only to the crew."""
    made = managed(HostedLLM("boss"))
    assert made.kickoff().raw == "boss"
    with swap(made, {"Crew Manager": SLM(ScriptedModel(["local boss"]))}):
        assert made.kickoff().raw == "local boss"
    assert made.kickoff().raw == "boss"


def test_a_role_template_is_found_by_its_text():
    """Before and after the inputs filled it."""
    made = agent(HostedLLM("hosted"), "Researcher for {topic}")
    of = Crew(agents=[made], tasks=[task(made)])
    local = SLM(ScriptedModel(["local"]))
    with swap(of, {"Researcher for {topic}": local}):
        assert of.kickoff({"topic": "cats"}).raw == "local"
    with swap(of, {"Researcher for cats": local}):
        assert of.kickoff({"topic": "cats"}).raw == "local"
    assert of.kickoff({"topic": "cats"}).raw == "hosted"


def test_an_agent_alone_can_be_swapped():
    """Agent.kickoff without a crew."""
    made = agent(HostedLLM("hosted"))
    with swap(made, {"Researcher": SLM(ScriptedModel(["local"]))}):
        assert made.kickoff("x").raw == "local"
    assert made.kickoff("x").raw == "hosted"


def test_what_cannot_be_swapped_says_what_can():
    """Unknown role, wrong target, wrong model; nothing is changed by the attempt."""
    hosted = HostedLLM()
    made = crew(hosted, HostedLLM())
    with pytest.raises(LookupError, match="'Researcher', 'Writer'"):
        swap(made, {"Reseacher": SLM("m"), "Writer": SLM("m")})
    with pytest.raises(TypeError, match="Crew or Agent"):
        swap([made], {"Researcher": SLM("m")})
    with pytest.raises(TypeError, match="SLM"):
        swap(made, {"Researcher": 3})
    assert made.agents[0].llm is hosted


def test_a_string_is_a_local_model_s_name():
    """As in SLM(model), whatever CrewAI would make of it."""
    made = crew(HostedLLM())
    with swap(made, {"Researcher": "gpt2"}):
        assert isinstance(made.agents[0].llm, SLM)
        assert made.agents[0].llm.model == "gpt2"


def test_a_recorder_sees_the_swapped_model(spans):
    """The span names who answered."""
    made = crew(HostedLLM(), HostedLLM(), tools=[tool()])
    with (
        CallRecorder(tracer_provider=spans.provider),
        swap(made, {"Writer": SLM(ScriptedModel(["w"], name="small"))}),
    ):
        made.kickoff()
    assert [span.name for span in spans.named("chat")] == ["chat hosted", "chat small"]
