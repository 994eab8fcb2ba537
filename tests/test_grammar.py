"""Constrained decoding: whatever the weights, what was asked for comes out well formed."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from call_families import FAMILIES, family_model, random_weights

from slm_adapters.calls import Message, Reply, Tool, Usage
from slm_adapters.engine import loader
from slm_adapters.engine.constraint import Constraint, Plan, Thinking
from slm_adapters.engine.engine import ChatEngine, ChatRequest, Completion
from slm_adapters.engine.tool_formats import read_calls
from slm_adapters.routing.verify import check

SEARCH = Tool(
    "search",
    "Search.",
    {
        "type": "object",
        "properties": {
            "q": {"type": "string", "maxLength": 8},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
            "kind": {"enum": ["tea", 'café "x"', 7, None]},
            "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            "place": {"$ref": "#/$defs/Place"},
            "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
        },
        "required": ["q", "kind", "place"],
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 5},
                    "near": {"type": "boolean"},
                },
                "required": ["near"],
            }
        },
    },
)
PING = Tool("ping", "No arguments.")
SEEDS, WALKS = 6, 20


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights(tmp_path_factory.mktemp("random") / "weights")


@pytest.fixture(scope="session")
def family_engine(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random model of a family, on the CPU."""
    engines: dict[str, ChatEngine] = {}

    def engine(name: str) -> ChatEngine:
        if name not in engines:
            folder = family_model(tmp_path_factory.mktemp(name) / name, weights, FAMILIES[name])
            engines[name] = loader.load_engine(folder, device="cpu")
        return engines[name]

    return engine


def ask(**options: Any) -> ChatRequest:
    return ChatRequest((Message("user", "Find tea"),), **options)


def walked(engine: Any, request: ChatRequest, seed: int) -> str:
    """A reply made by chance alone: any token the grammar allows, until it is over."""
    loaded, rng = engine._handle.loaded(), random.Random(seed)
    plan = Plan.of(request, loaded.chat_format.calls)
    constraint = Constraint.of(loaded.grammars, plan, Thinking())
    assert constraint is not None
    tokens: list[int] = []
    while not constraint.is_over:
        token = rng.choice(constraint.allowed().nonzero()[:, 0].tolist())
        if token in loaded.end_ids:
            break
        tokens.append(token)
        constraint.accept(token)
    return str(loaded.decode(tokens))


@pytest.mark.parametrize("name", FAMILIES)
def test_chance_calls_well_formed(family_engine: Any, name: str) -> None:
    """Every family: whatever tokens the grammar lets through, they are calls of these tools."""
    engine = family_engine(name)
    form = engine._handle.loaded().chat_format.calls
    assert form.name == ("hermes" if name == "generic" else name)
    request = ask(tools=(SEARCH, PING), tool_choice="required")
    schemas = {tool.name: tool.parameters for tool in request.tools}
    for seed in range(WALKS):
        text = walked(engine, request, seed)
        parsed = read_calls(text, schemas, schemas=schemas, form=form)
        assert parsed.calls, text
        assert not parsed.content.strip(), text
        message = Message("assistant", None, tool_calls=parsed.calls)
        check(request, Completion(Reply(message), Usage(1, 1), "chance"))


@pytest.mark.parametrize("name", FAMILIES)
def test_random_weights_call_well_formed(family_engine: Any, name: str) -> None:
    """The same through the engine, several replies in one batch, each with a mask of its own."""
    engine = family_engine(name)
    requests = [
        ask(tools=(SEARCH, PING), tool_choice="search", temperature=1.0, seed=seed, max_tokens=900)
        for seed in range(SEEDS)
    ]
    requests.append(ask(tools=(SEARCH, PING), tool_choice="ping", max_tokens=400))
    with ThreadPoolExecutor(len(requests)) as pool:
        completions = list(pool.map(engine.complete, requests))
    for request, completion in zip(requests, completions, strict=True):
        message = completion.reply.message
        assert [call.name for call in message.tool_calls] == [request.tool_choice], message.text
        assert not message.text
        assert completion.reply.finish_reason == "tool_call"
        check(request, completion)
