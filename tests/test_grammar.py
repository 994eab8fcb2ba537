"""Constrained decoding: whatever the weights, what was asked for comes out well formed."""

from __future__ import annotations

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from call_families import FAMILIES, Family, family_model, random_weights, script
from crewai.agents.parser import AgentAction, AgentFinish, parse
from pydantic import BaseModel, Field, v1
from streams import calls_of
from tiny_models import CHATML

from slm_adapters.calls import Message, Reply, Tool, Usage
from slm_adapters.engine import loader
from slm_adapters.engine.call_formats import FAMILIES as KNOWN
from slm_adapters.engine.constraint import Constraint, Plan, Thinking
from slm_adapters.engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from slm_adapters.engine.tool_formats import find_marker, read_calls
from slm_adapters.errors import InvalidReplyError
from slm_adapters.routing.verify import check, usable

FAMILY_FORMS = {form.name: form for form in KNOWN}

SEARCH = Tool(
    "search",
    "Search.",
    {
        "type": "object",
        "properties": {
            "q": {"type": "string", "maxLength": 8},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
            "kind": {"enum": ["tea", 'café "🍵"', 7, None]},
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


def constraint_of(engine: Any, request: ChatRequest) -> Constraint:
    loaded = engine._handle.loaded()
    plan = Plan.of(request, loaded.chat_format.calls)
    constraint = Constraint.of(loaded.grammars, plan, Thinking())
    assert constraint is not None
    return constraint


def walked(engine: Any, request: ChatRequest, seed: int) -> str:
    """A reply made by chance alone: any token the grammar allows, until it is over."""
    loaded, rng = engine._handle.loaded(), random.Random(seed)
    constraint = constraint_of(engine, request)
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


# --- JSON that was asked for ------------------------------------------------------------------

PERSON = {
    "$defs": {"Tag": {"enum": ["a", "b"]}},
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/Tag"}, "maxItems": 3},
        "nick": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    },
    "required": ["name", "age"],
}


def json_of(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def streamed(engine: ChatEngine, request: ChatRequest) -> tuple[str, Completion]:
    *chunks, completion = engine.stream(request)
    assert isinstance(completion, Completion)
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)), completion


@pytest.mark.parametrize("seed", range(6))
def test_t3_json_comes_out_whole_and_streams(family_engine: Any, seed: int) -> None:
    """The stream is the JSON, piece by piece; stop strings inside it end nothing."""
    request = ask(
        response_format=json_of(PERSON),
        temperature=1.0,
        seed=seed,
        max_tokens=400,
        stop=('"', ",", "name", ":"),
    )
    engine = family_engine("hermes")
    shown, completion = streamed(engine, request)
    assert usable(request, completion) is completion
    assert shown == completion.reply.message.content
    assert completion.reply.finish_reason == "stop"
    assert {"name", "age"} <= set(json.loads(shown))


def test_t3_json_streams_before_it_is_complete(family_engine: Any) -> None:
    """Text that the grammar guarantees is not held back."""
    chunks = [*family_engine("hermes").stream(ask(response_format=json_of(PERSON), max_tokens=400))]
    assert len([c for c in chunks if isinstance(c, Chunk) and c.text]) > 3


class Money(BaseModel):
    amount: float
    currency: Literal["EUR", "JPY"] = "EUR"


class Order(BaseModel):
    id: Annotated[str, Field(max_length=6, pattern="^[A-Z]+-[0-9]+$")]
    lines: Annotated[list[Money], Field(max_length=2)]
    parent: Optional[Order] = None  # noqa: UP045
    when: Union[date, None] = None  # noqa: UP007


class OldOrder(v1.BaseModel):
    id: str = v1.Field(max_length=6)
    count: Optional[int] = v1.Field(ge=0, le=9)  # noqa: UP045


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        (Order.model_json_schema(), Order.model_validate_json),
        (Money.model_json_schema(), Money.model_validate_json),
        (OldOrder.schema(), OldOrder.parse_raw),
    ],
    ids=["references", "numbers", "pydantic 1"],
)
def test_t49_pydantic_schemas(family_engine: Any, schema: Any, read: Any) -> None:
    """References, recursion, patterns, dates and defaults of both pydantics."""
    engine = family_engine("hermes")
    request = ask(response_format=json_of(schema))
    for seed in range(10):
        read(walked(engine, request, seed))


def test_json_that_leaves_no_choice(family_engine: Any) -> None:
    """What is certain is read with the prompt, and is the reply all the same."""
    request = ask(response_format=json_of({"const": "This much is certain."}))
    shown, completion = streamed(family_engine("hermes"), request)
    assert json.loads(shown) == "This much is certain."
    assert completion.reply.message.content == shown
    assert completion.usage.output_tokens <= 2


TWO = {"enum": [1, 2]}
HARD: dict[str, Any] = {
    "not": {"properties": {"n": TWO}, "not": {"properties": {"n": {"const": 1}}}},
    "uniqueItems": {
        "properties": {"n": {"type": "array", "uniqueItems": True, "items": TWO, "maxItems": 2}}
    },
    "pattern": {"properties": {"n": {"type": "string", "pattern": "^(?=a)b*$", "maxLength": 2}}},
    "format": {"properties": {"n": {"type": "string", "format": "color", "maxLength": 3}}},
    "if": {"properties": {"n": TWO}, "if": {}, "then": {}},
    "dependentRequired": {"properties": {"n": TWO}, "dependentRequired": {}},
    "$ref": {
        "properties": {"n": {"$ref": "https://example.org/x"}, "m": TWO},
        "required": ["m"],
    },
}


@pytest.mark.parametrize("keyword", HARD)
def test_t49_what_cannot_be_enforced_is_said_and_checked(
    family_engine: Any, keyword: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the schema is enforced; one line says what is not; the check still sees it."""
    schema = {"type": "object", "title": f"by {keyword}", **HARD[keyword]}
    engine, request = family_engine("hermes"), ask(response_format=json_of(schema))
    engine.warm_up()
    with caplog.at_level("INFO", "slm_adapters"):
        texts = [walked(engine, request, seed) for seed in range(6)]
    assert [keyword in record.getMessage() for record in caplog.records] == [True]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    if keyword == "not":
        with pytest.raises(InvalidReplyError):
            check(request, Completion(Reply(Message("assistant", '{"n": 1}')), Usage(1, 1), "m"))


def test_t49_exactly_one_is_at_least_one(family_engine: Any) -> None:
    """oneOf is enforced as anyOf."""
    schema = {"oneOf": [{"type": "integer"}, {"enum": ["x"]}]}
    assert {
        walked(family_engine("hermes"), ask(response_format=json_of(schema)), s)[:1]
        for s in range(9)
    } >= {'"'}


def test_t49_a_schema_beyond_the_limits(
    family_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning says so; the reply is still JSON, or a call of the right tool, and checked."""
    names = {f"property_{n}": {"enum": [f"{n} {i}" for i in range(400)]} for n in range(300)}
    huge = {"type": "object", "properties": names}
    engine = family_engine("hermes")
    with caplog.at_level("WARNING", "slm_adapters"):
        constraint = constraint_of(engine, ask(response_format=json_of(huge)))
        call = constraint_of(engine, ask(tools=(Tool("big", "", huge),), tool_choice="big"))
    assert constraint.binds
    assert call.binds
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2
    assert all("simplify it" in text for text in said)


def test_a_large_schema_compiles_once(family_engine: Any, monkeypatch: Any) -> None:
    """Sixty tools of twenty parameters are one compilation for all calls that offer them."""
    tools = tuple(
        Tool(
            f"tool_{n}",
            "",
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20)}},
        )
        for n in range(60)
    )
    engine, made = family_engine("hermes"), []
    grammars = engine._handle.loaded().grammars
    original = grammars._compiled
    monkeypatch.setattr(grammars, "_compiled", lambda *a: made.append(1) or original(*a))
    for _ in range(3):
        assert constraint_of(engine, ask(tools=tools, tool_choice="required")).binds
    assert len(made) == 1


# --- auto, none, both -------------------------------------------------------------------------


CALL = FAMILY_FORMS["hermes"].write([("ping", {})])


def test_auto_is_free_until_a_call_begins(family_engine: Any, monkeypatch: Any) -> None:
    """Text stays as it is; from the marker on, only offered tools and their arguments."""
    engine = family_engine("hermes")
    request = ask(tools=(SEARCH, PING))
    script(engine, monkeypatch, "A < b, [1] and {2}.")
    assert engine.complete(request).reply.message.content == "A < b, [1] and {2}."
    script(engine, monkeypatch, "Look. " + CALL.replace("ping", "pong"))
    message = engine.complete(request).reply.message
    assert message.content == "Look. "
    assert [call.name for call in message.tool_calls] == ["ping"]


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("generic",)])
def test_auto_for_every_family(family_engine: Any, name: str, monkeypatch: Any) -> None:
    """A model that begins a call in its family's way cannot finish it wrongly."""
    engine = family_engine(name)
    form = engine._handle.loaded().chat_format.calls
    request = ask(tools=(SEARCH, PING), max_tokens=900, temperature=1.0, seed=1)
    whole = form.write([("search", {"q": "x"})])
    script(engine, monkeypatch, whole[: whole.index("search") + len("search") + len(form.between)])
    completion = engine.complete(request)
    assert completion.reply.message.tool_calls[0].name == "search"
    check(request, completion)


@pytest.mark.parametrize("name", [n for n, f in FAMILY_FORMS.items() if f.marker and n in FAMILIES])
def test_none_cannot_begin_a_call(family_engine: Any, name: str, monkeypatch: Any) -> None:
    """Also where the marker is several tokens: the last that would complete it is banned."""
    engine = family_engine(name)
    form = engine._handle.loaded().chat_format.calls
    request = ask(tools=(PING,), tool_choice="none", max_tokens=60)
    script(engine, monkeypatch, "So: " + form.write([("ping", {})]))
    text = engine.complete(request).reply.message.text
    assert text.startswith("So: ")
    assert find_marker(text) is None


def test_t31_tools_and_a_schema_together(family_engine: Any, monkeypatch: Any) -> None:
    """Either a call or the answer asked for; nothing else can be written."""
    engine = family_engine("hermes")
    request = ask(tools=(PING,), response_format=json_of(PERSON), max_tokens=200)
    script(engine, monkeypatch, CALL)
    assert [c.name for c in engine.complete(request).reply.message.tool_calls] == ["ping"]
    script(engine, monkeypatch, '{"name": "Ada", "age": 36}')
    completion = engine.complete(request)
    check(request, completion)
    assert completion.reply.message.content == '{"name": "Ada", "age": 36}'
    script(engine, monkeypatch, "Well, I think")
    completion = engine.complete(request)
    assert completion.reply.message.tool_calls or completion.reply.message.text.startswith("{")


def test_t4_two_calls_in_one_message(family_engine: Any, monkeypatch: Any) -> None:
    """One after the other, each with its id; nothing follows the last."""
    engine = family_engine("hermes")
    script(engine, monkeypatch, CALL + "\n" + CALL + "\nDone!")
    message = engine.complete(ask(tools=(PING,), max_tokens=300)).reply.message
    assert len({call.id for call in message.tool_calls}) >= 2
    assert message.content is None


@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("name", FAMILIES)
def test_constrained_calls_stream_as_the_reply_says(
    family_engine: Any, name: str, choice: str, monkeypatch: Any
) -> None:
    """Every family, forced and free: the name first, pieces that a grammar vouches for, and put
    together the calls of a plain reply."""
    engine = family_engine(name)
    form = engine._handle.loaded().chat_format.calls
    one = ("search", {"q": 'a "b"', "n": 7, "kind": 'café "🍵"', "place": {"near": True}})
    text = form.write([one] if form.separator is None else [one, ("ping", {})])
    request = ask(tools=(SEARCH, PING), max_tokens=900)
    if choice == "auto":
        script(engine, monkeypatch, text, text)
    else:
        request = dataclasses.replace(request, tool_choice=choice, temperature=1.0, seed=3)
    *chunks, last = engine.stream(request)
    message, plain = last.reply.message, engine.complete(request).reply.message
    check(request, last)
    assert message.tool_calls
    assert calls_of(chunks) == message.tool_calls
    assert [(c.name, c.arguments) for c in message.tool_calls] == [
        (c.name, c.arguments) for c in plain.tool_calls
    ]
    deltas = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert all(delta.certain for delta in deltas)
    if choice == "auto":
        assert len(deltas) >= 5


# --- ends -------------------------------------------------------------------------------------


def test_t38_max_tokens_inside_a_constrained_call(family_engine: Any, monkeypatch: Any) -> None:
    """Reason length, no call that could run, and the check says what happened."""
    engine = family_engine("hermes")
    request = ask(tools=(SEARCH,), tool_choice="search", max_tokens=6)
    completion = engine.complete(request)
    assert completion.reply.finish_reason == "length"
    assert completion.reply.message.tool_calls == ()
    with pytest.raises(InvalidReplyError):
        check(request, completion)


def test_t38_max_tokens_inside_json(family_engine: Any) -> None:
    """Half an object is not passed off as one."""
    request = ask(response_format=json_of(PERSON), max_tokens=5)
    completion = family_engine("hermes").complete(request)
    assert completion.reply.finish_reason == "length"
    with pytest.raises(InvalidReplyError):
        check(request, completion)


def test_stop_strings_end_text_and_not_a_call(family_engine: Any, monkeypatch: Any) -> None:
    """Before a call a stop string ends the reply, inside its arguments it is an argument."""
    engine = family_engine("hermes")
    form = FAMILY_FORMS["hermes"]
    call = form.write([("search", {"q": "a STOP b", "kind": 7, "place": {"near": True}})])
    request = ask(tools=(SEARCH,), stop=("STOP",))
    script(engine, monkeypatch, "Hm. " + call)
    (found,) = engine.complete(request).reply.message.tool_calls
    assert found.parsed()["q"] == "a STOP b"
    script(engine, monkeypatch, "Hm. STOP " + call)
    message = engine.complete(request).reply.message
    assert (message.content, message.tool_calls) == ("Hm. ", ())


def test_one_batch_many_grammars(family_engine: Any) -> None:
    """Replies that are written together are each bound by their own request."""
    engine = family_engine("hermes")
    sampled = {"temperature": 1.0, "max_tokens": 500}
    requests = [
        ask(tools=(SEARCH,), tool_choice="search", seed=1, **sampled),
        ask(response_format=json_of(PERSON), seed=2, **sampled),
        ask(response_format=json_of({"enum": ["yes", "no"]}), seed=3, **sampled),
        ask(seed=4, temperature=1.0, max_tokens=40),
        ask(tools=(PING,), tool_choice="none", seed=5, temperature=1.0, max_tokens=40),
        ask(tools=(PING,), tool_choice="required", seed=6, **sampled),
    ] * 2
    alone = [engine.complete(request).reply.message.text for request in requests[:6]]
    with ThreadPoolExecutor(len(requests)) as pool:
        completions = list(pool.map(engine.complete, requests))
    for request, completion in zip(requests, completions, strict=True):
        check(request, completion)
    assert completions[2].reply.message.text in ('"yes"', '"no"')
    assert len(alone) == 6


# --- thoughts ---------------------------------------------------------------------------------

THINKING = CHATML + "{#- </think> -#}"


@pytest.fixture(scope="session")
def thinker(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> ChatEngine:
    """A model whose template knows of thoughts."""
    folder = tmp_path_factory.mktemp("thinker") / "model"
    family = Family(THINKING, ("<tool_call>", "</tool_call>", "<think>", "</think>"))
    return loader.load_engine(family_model(folder, weights, family), device="cpu")


def test_a_thought_may_come_before_a_forced_call(thinker: Any, monkeypatch: Any) -> None:
    """Thoughts are free and not shown; then the grammar holds."""
    request = ask(tools=(PING,), tool_choice="required", max_tokens=400)
    script(thinker, monkeypatch, "<think>\nA call? <b>\n</think>\n\n" + CALL)
    completion = thinker.complete(request)
    check(request, completion)
    assert completion.reply.message.content is None
    assert completion.usage.reasoning_tokens
    script(thinker, monkeypatch, CALL)
    check(request, thinker.complete(request))


def test_a_thought_cannot_eat_the_answer(thinker: Any, monkeypatch: Any) -> None:
    """An endless thought is closed at half of max_tokens, so that the call still comes."""
    request = ask(response_format=json_of({"enum": ["yes", "no"]}), max_tokens=60)
    script(thinker, monkeypatch, "<think>" + "hm " * 400)
    completion = thinker.complete(request)
    assert completion.reply.message.text in ('"yes"', '"no"')
    assert completion.usage.reasoning_tokens == 31


# --- ReAct ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_t3_react_text_cannot_break_its_format(
    family_engine: Any, monkeypatch: Any, seed: int
) -> None:
    """A thought, then an action of an offered tool with JSON, or a final answer."""
    engine = family_engine("hermes")
    wanted = [
        ('Thought: look\nAction: search\nAction Input: {"q": 1}\nObservation: 3', AgentAction),
        ("Thought: look\nAction: seek\nAction Input: nothing", AgentAction),
        ("Thought: done\nFinal Answer: 42", AgentFinish),
        ("I do not know the format.\nFinal Answer: 42", AgentFinish),
    ][seed]
    script(engine, monkeypatch, wanted[0])
    request = ask(react_tools=("search", "look up"), stop=("\nObservation:",), max_tokens=200)
    text = engine.complete(request).reply.message.text
    step = parse(text)
    assert isinstance(step, wanted[1]), text
    if isinstance(step, AgentAction):
        assert step.tool in request.react_tools
        assert isinstance(json.loads(step.tool_input), dict)
    assert "Observation" not in text
