"""A tiny Llama that knows its answers: for servers whose replies are compared word by word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import tiny_models
from crewai_cases import crew, tool

from slm_adapters.calls import Message, Tool, ToolCall
from slm_adapters.crewai import SLM
from slm_adapters.engine.chat_format import ChatFormat, shaped_messages
from slm_adapters.testing import ScriptedModel

__all__ = ["ANSWER", "CALL", "FORCED", "JSON", "LOOK_UP", "QUESTION", "taught_model", "teach_all"]

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"word": "cat"}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
JSON = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
LOOK_UP = Tool(
    "look_up",
    "Look a word up.",
    {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
)
QUESTION = (Message("user", "Where is my order?"),)
ANSWER = "It should have been here on Monday."
#: Answered with ``CALL`` where a call is asked for in words.
FORCED = (Message("user", "look cat up"),)


def taught_model(folder: Path, **config: int) -> Path:
    """Taught a question, a schema, a forced call and, with a crew's tool, a crew's two turns."""
    place = tiny_models.tiny_model(folder, window=4096, **config)
    must = "Answer with a call of look_up and nothing else."
    forced = shaped_messages(ChatFormat(), FORCED, (), None, must)
    plain = [
        ([m.to_openai() for m in QUESTION], ANSWER),
        (shaped_messages(ChatFormat(), QUESTION, (), JSON), '{"a": 1}'),
    ]
    return teach_all(place, plain, [(forced, CALL, [LOOK_UP.to_openai()]), *_crew_rows()])


def _crew_rows() -> Iterator[tuple[list, str, list]]:
    """What a crew with a tool asks, as the server's template reads it, and what to answer."""
    watched = ScriptedModel([ToolCall("c1", "look_up", '{"word": "cat"}'), "cat found"])
    crew(SLM(watched), tools=[tool()]).kickoff()
    for request, text in zip(watched.requests, [CALL, "cat found"], strict=True):
        messages = shaped_messages(ChatFormat(), request.messages)
        for call in (c for m in messages for c in m.get("tool_calls", ())):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        yield messages, text, [t.to_openai() for t in request.tools]


def teach_all(place: Path, plain: list, rows: list) -> Path:
    """Teach (messages, answer) pairs, and (messages, answer, tools) where tools are offered."""
    # teach takes one set of tools, and these have several: rendered here, it takes them as text.
    tokenizer = tiny_models.tiny_tokenizer()
    rendered = [
        ([{"role": "raw", "content": tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False)}], text)
        for messages, text, tools in rows
    ]  # fmt: skip
    raw = "{%- if messages[0].role == 'raw' %}{{- messages[0].content }}{%- else %}"
    tokenizer.chat_template = raw + tiny_models.CHATML + "{%- endif %}"
    tokenizer.save_pretrained(place)
    tiny_models.teach(place, [*plain, *rendered], steps=500)
    tokenizer.chat_template = tiny_models.CHATML
    tokenizer.save_pretrained(place)
    return place
