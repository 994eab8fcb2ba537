"""What the checks of vLLM, Ollama and llama.cpp ask, through the real classes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from slm_adapters.calls import Message, Tool
from slm_adapters.engine.engine import ChatRequest, Completion
from slm_adapters.errors import ContextOverflowError, SLMAdaptersError, UnreachableServerError
from slm_adapters.routing import Router

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "Get the weather in a city.", SCHEMA)


def run(script: str, about: str | None, server: str, base_url: str, model: str, names: str) -> int:
    """The check ``script`` as a command; ``names``: what its help says of model names."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("models", nargs="*", default=[model], help=names)
    parser.add_argument("--base-url", default=base_url)
    options = parser.parse_args()
    start = f"docker compose -f integrations/{Path(script).parent.name}/compose.yaml up -d"
    return check(server, start, options.base_url, options.models)


def check(name: str, start: str, base_url: str, models: list[str]) -> int:
    """Run every question on every model; print one line for each."""
    problems = 0
    for model in models:
        engine = Router().over(model, base_url=base_url)
        try:
            engine.warm_up()
        except UnreachableServerError as error:
            print(f"skipped: no {name} answers at {base_url} ({error}) Start one with `{start}`.")
            return 0
        print(f"{model}: {engine.engine.provider}, window {engine.context_window} tokens")
        for question, ask in QUESTIONS.items():
            try:
                print(f"  {question}: {ask(engine)}")
            except (SLMAdaptersError, AssertionError) as error:
                problems += 1
                print(f"  wrong: {question}: {type(error).__name__}: {error}")
    return 1 if problems else 0


def text(engine) -> str:
    return engine.complete(request("Name the capital of France.")).reply.message.text.strip()[:60]


def stream(engine) -> str:
    *pieces, last = engine.stream(request("Count from one to five."))
    assert isinstance(last, Completion)
    return f"{len(pieces)} pieces, {last.usage.output_tokens} tokens ({last.usage.source})"


def tool_call(engine) -> str:
    asked = request("What is the weather in Paris?", tools=(WEATHER,), tool_choice="required")
    (call, *_) = engine.complete(asked).reply.message.tool_calls
    return f"{call.name}({call.arguments})"


def structure(engine) -> str:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    return engine.complete(
        request("Where is the Louvre?", response_format=wanted)
    ).reply.message.text


def overflow(engine) -> str:
    lines = (f"Order {number} came in on day {number % 31}." for number in range(200_000))
    try:
        engine.complete(request("\n".join(lines)))
    except ContextOverflowError as error:
        return f"refused: {str(error)[:90]}"
    raise AssertionError("an oversized prompt was answered")


def request(words: str, **options) -> ChatRequest:
    return ChatRequest((Message("user", words),), max_tokens=512, timeout=120, **options)


QUESTIONS: dict[str, Callable] = {
    "text": text,
    "stream": stream,
    "tool call": tool_call,
    "JSON": structure,
    "oversized prompt": overflow,
}
