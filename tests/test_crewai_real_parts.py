"""Knowledge on a real Chroma and tools of a real MCP server, traced; embeddings are made up."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from crewai import Crew
from crewai_cases import HostedLLM, agent, task

from slm_adapters.calls import ToolCall

np = pytest.importorskip("numpy")

SERVER = """
from mcp.server.fastmcp import FastMCP
server = FastMCP("shelf")

@server.tool()
def look_up(word: str) -> str:
    "Look a word up."
    return "found " + word

@server.tool()
def refuse(word: str) -> str:
    "Refuse a word."
    raise LookupError(word)

server.run()
"""


@pytest.fixture
def embedder(tmp_path, monkeypatch):
    """CrewAI's files in a folder of this test."""
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "crew"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    from crewai.rag.embeddings.providers.custom.custom_provider import CustomProvider
    from crewai.rag.embeddings.providers.custom.embedding_callable import CustomEmbeddingFunction

    class Lengths(CustomEmbeddingFunction):
        def __init__(self, **_: Any) -> None: ...

        def __call__(self, input: Any) -> Any:  # noqa: A002 - Chroma passes it by name
            return [np.array([len(text) % 7, 1, 2], dtype=np.float32) for text in input]

        @staticmethod
        def name() -> str:
            return "lengths"

    return CustomProvider(embedding_callable=Lengths)


@pytest.mark.parametrize("owner", ["agent", "crew"])
def test_knowledge_in_a_real_chroma_is_a_retrieval(spans, recorder, embedder, owner) -> None:
    """The question's rewriting is inside the retrieval, and what was found reaches the agent."""
    from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource

    known = {
        "knowledge_sources": [StringKnowledgeSource(content="The drawer is blue.")],
        "embedder": embedder,
    }
    llm = HostedLLM("drawer colour", "it is blue")
    made = agent(llm, **(known if owner == "agent" else {}))
    crew = Crew(agents=[made], tasks=[task(made)], **(known if owner == "crew" else {}))
    assert str(crew.kickoff()) == "it is blue"
    assert "The drawer is blue." in str(llm.asked[-1])
    (retrieval,) = spans.named("retrieval")
    parents = [spans.parent_name(chat) for chat in spans.named("chat")]
    assert parents == [retrieval.name, "invoke_agent Researcher"]


@pytest.mark.parametrize("refused", [False, True], ids=["answers", "refuses"])
def test_a_tool_of_a_real_mcp_server_is_one_span(spans, recorder, tmp_path, refused) -> None:
    """Over stdio; MCP's facts are on the tool's own span, and an error of the server's too."""
    from crewai.mcp import MCPServerStdio

    (tmp_path / "shelf.py").write_text(SERVER, encoding="utf-8")
    offered: list[str] = []

    class Asking(HostedLLM):
        def call(self, messages: Any, tools: Any = None, **arguments: Any) -> Any:
            if tools and not offered:
                offered.extend(item["function"]["name"] for item in tools)
                wanted = "refuse" if refused else "look_up"
                (name,) = [name for name in offered if name.endswith(wanted)]
                self._answers[0] = [ToolCall("c1", name, '{"word": "cat"}').to_openai()]
            return super().call(messages, tools, **arguments)

    # CrewAI names the tools after the command, and cuts long names.
    folder, python = os.path.split(sys.executable)
    environment = {"PATH": folder, "PYTHONPATH": str(tmp_path)}
    server = MCPServerStdio(command=python, args=["-m", "shelf"], env=environment)
    llm = Asking("to be replaced", "done")
    made = agent(llm, mcps=[server])
    assert str(Crew(agents=[made], tasks=[task(made)]).kickoff()) == "done"
    used = spans.one("execute_tool")
    assert spans.parent_name(used) == "invoke_agent Researcher"
    assert used.attributes["mcp.method.name"] == "tools/call"
    assert used.attributes["network.transport"] == "pipe"
    assert ("error.type" in used.attributes) is refused
    assert ("found cat" in str(llm.asked[-1])) is not refused
