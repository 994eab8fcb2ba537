"""What the callbacks say about models, roles, graphs and tools, in the conventions' words."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..telemetry import semconv
from ..telemetry.recorder import Recorder
from .runs import Run

__all__ = [
    "conversation_of", "graph_span", "is_in_graph", "model_facts", "role_of", "tool_attributes",
]  # fmt: skip

_AGENT = "langchain_create_agent"
#: Node names LangChain's own agents use; they say nothing about the role.
_GENERIC_NODES = {"model", "agent", "call_model"}

_MODEL_KEYS = ("model", "model_name", "model_id", "deployment_name")

_promotion = threading.Lock()


def model_facts(
    serialized: Mapping[str, Any] | None, params: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Model name (at worst the class name: no call is dropped) and provider."""
    model = metadata.get("ls_model_name")
    if not model or not isinstance(model, str):
        named = (params.get(key) for key in _MODEL_KEYS)
        model = next((name for name in named if isinstance(name, str) and name), None)
    provider = metadata.get("ls_provider")
    return (
        model or _class_name(serialized, params),
        semconv.provider_name(provider if isinstance(provider, str) else None),
    )


def _class_name(serialized: Mapping[str, Any] | None, params: Mapping[str, Any]) -> str:
    serialized = serialized or {}
    path = serialized.get("id") or [params.get("_type") or "model"]
    return str(serialized.get("name") or path[-1])


def is_in_graph(run: Run) -> bool:
    """Whether its metadata may name a role or a conversation."""
    said = run.metadata
    return "langgraph_node" in said or "thread_id" in said or "lc_agent_name" in said


def role_of(run: Run) -> str | None:
    """The agent's name, else the graph node in which the model was called."""
    agent = run.metadata.get("lc_agent_name")
    if agent:
        return str(agent)
    node = run.metadata.get("langgraph_node")
    if node in _GENERIC_NODES and _inside_agent(run):
        return _outer_node(run.metadata.get("langgraph_checkpoint_ns"))
    return str(node) if node else None


def _inside_agent(run: Run) -> bool:
    # The model's own metadata names the model; the node around it names its graph.
    return run.parent is not None and run.parent.metadata.get("ls_integration") == _AGENT


def _outer_node(namespace: Any) -> str | None:
    """``triage:uuid|model:uuid`` -> ``triage``."""
    nodes = [part.partition(":")[0] for part in str(namespace or "").split("|")]
    return nodes[-2] if len(nodes) > 1 else None


def conversation_of(run: Run) -> str | None:
    """LangGraph's thread, if the program named one; never made up."""
    thread = run.metadata.get("thread_id")
    return str(thread) if thread else None


def graph_span(recorder: Recorder, run: Run) -> None:
    """Give a graph its span, as of when it started: an agent's or a workflow's."""
    with _promotion:
        if run.span is not None:
            return
        name = run.name
        agent = run.metadata.get("lc_agent_name") or name
        is_agent = run.metadata.get("ls_integration") == _AGENT and agent == name
        operation = semconv.INVOKE_AGENT if is_agent else semconv.INVOKE_WORKFLOW
        label = semconv.AGENT_NAME if is_agent else semconv.WORKFLOW_NAME
        attributes = {
            label: name,
            semconv.CONVERSATION_ID: conversation_of(run),
            semconv.RUN_ID: run.root_id,
        }
        run.span = recorder.span(
            operation,
            name,
            attributes=attributes,
            parent=run.parent_context(),
            start_ns=run.started_ns,
            beside=run.beside(),
        )


def tool_attributes(tool: Mapping[str, Any], name: str, call_id: Any) -> dict[str, Any]:
    """What a tool span says without content."""
    return {
        semconv.TOOL_NAME: name,
        semconv.TOOL_TYPE: "function",
        semconv.TOOL_CALL_ID: str(call_id) if call_id else None,
        semconv.TOOL_DESCRIPTION: tool.get("description"),
    }
