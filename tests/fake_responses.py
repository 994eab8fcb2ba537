"""OpenAI's Responses API as it is on the wire, for the stand-in of ``fake_openai``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def response(request: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """A whole answer; ``message`` is a chat's, with text or tool calls."""
    return {
        "id": "resp_fake",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": f"fake-{request['model']}",
        "output": items(message),
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": request.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 14,
        },
        "user": None,
        "metadata": {},
    }


def items(message: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    if message.get("content"):
        part = {"type": "output_text", "text": message["content"], "annotations": []}
        found.append(
            {
                "id": "msg_fake",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    for number, call in enumerate(message.get("tool_calls") or ()):
        found.append(
            {
                "id": f"fc_fake{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
            }
        )
    return found


def events(whole: dict[str, Any]) -> str:
    """The stream of an answer: numbered server-sent events, with no marker at their end."""
    lines = []
    for number, event in enumerate(_events(whole)):
        data = json.dumps(event | {"sequence_number": number})
        lines.append(f"event: {event['type']}\ndata: {data}\n\n")
    return "".join(lines)


def _events(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    started = whole | {"status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": started}
    yield {"type": "response.in_progress", "response": started}
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index}
        begun = item | {"status": "in_progress"}
        if item["type"] == "message":
            yield {"type": "response.output_item.added", "item": begun | {"content": []}, **at}
            yield from _text(item, at)
        else:
            yield {"type": "response.output_item.added", "item": begun | {"arguments": ""}, **at}
            yield from _arguments(item, at)
        yield {"type": "response.output_item.done", "item": item, **at}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _text(item: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    (part,) = item["content"]
    at = at | {"item_id": item["id"], "content_index": 0}
    yield {"type": "response.content_part.added", "part": part | {"text": ""}, **at}
    for word in part["text"].split(" "):
        yield {"type": "response.output_text.delta", "delta": f"{word} ", "logprobs": [], **at}
    yield {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **at}
    yield {"type": "response.content_part.done", "part": part, **at}


def _arguments(item: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = at | {"item_id": item["id"]}
    given = item["arguments"]
    yield {"type": "response.function_call_arguments.delta", "delta": given, **at}
    yield {"type": "response.function_call_arguments.done", "arguments": given, **at}
