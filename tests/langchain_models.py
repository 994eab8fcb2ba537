"""Stand-ins for hosted LangChain models: no key, no network, otherwise LangChain's own paths."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

USAGE = {"input_tokens": 11, "output_tokens": 3, "total_tokens": 14}


class HostedChat(BaseChatModel):
    """Answers ``replies`` in turn, as a provider would: id, model, usage, finish reason."""

    replies: list[Any] = Field(default_factory=lambda: ["a hosted answer"])
    model_name: str = "hosted-1"
    delay_s: float = 0.0
    turns: list[int] = Field(default_factory=list)
    #: One entry a call, made before the delay.
    asked: list[int] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "hosted"

    def _next(self) -> AIMessage:
        self.turns.append(1)
        reply = self.replies[(len(self.turns) - 1) % len(self.replies)]
        if isinstance(reply, Exception):
            raise reply
        message = reply if isinstance(reply, AIMessage) else AIMessage(reply)
        metadata = {
            "id": "resp-1",
            "model_name": f"{self.model_name}-2026",
            "finish_reason": "tool_calls" if message.tool_calls else "stop",
        }
        return message.model_copy(update={"usage_metadata": USAGE, "response_metadata": metadata})

    def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        self.asked.append(1)
        time.sleep(self.delay_s)
        return ChatResult(generations=[ChatGeneration(message=self._next())])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        self.asked.append(1)
        await asyncio.sleep(self.delay_s)
        return ChatResult(generations=[ChatGeneration(message=self._next())])

    def _chunks(self) -> list[ChatGenerationChunk]:
        message = self._next()
        words = str(message.content).split(" ")
        chunks = [AIMessageChunk(content=w if i == 0 else f" {w}") for i, w in enumerate(words)]
        last = AIMessageChunk(
            content="",
            tool_call_chunks=[
                {"name": c["name"], "args": "{}", "id": c["id"], "index": i}
                for i, c in enumerate(message.tool_calls)
            ],
            usage_metadata=USAGE,
            response_metadata=message.response_metadata,
        )
        return [ChatGenerationChunk(message=chunk) for chunk in (*chunks, last)]

    def _stream(self, messages, stop=None, run_manager=None, **kwargs) -> Iterator[Any]:
        for chunk in self._chunks():
            time.sleep(self.delay_s)
            yield chunk

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs) -> AsyncIterator[Any]:
        for chunk in self._chunks():
            await asyncio.sleep(self.delay_s)
            yield chunk

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        bound = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=bound, tool_choice=tool_choice, **kwargs)

    def _get_ls_params(self, stop=None, **kwargs):
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": "openai"}


class NamelessChat(HostedChat):
    """A home-made model that says nothing of a model name."""

    model_name: str = ""

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {}


class PlainLLM(BaseLLM):
    """A text-completion model; tokens only in ``llm_output``."""

    @property
    def _llm_type(self) -> str:
        return "plain"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": "plain-1"}

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs) -> LLMResult:
        return LLMResult(
            generations=[[Generation(text="plain text")] for _ in prompts],
            llm_output={"token_usage": {"prompt_tokens": 4, "completion_tokens": 2}},
        )
