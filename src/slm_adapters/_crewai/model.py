"""``SLM``: a CrewAI LLM answered by a small model, in this process or on a server."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from os import PathLike, fspath
from os.path import isabs
from pathlib import Path
from typing import Any, cast

import crewai.agents.agent_builder.base_agent as _base_agent
from crewai.llms.base_llm import BaseLLM
from crewai.llms.context_window import CONTEXT_WINDOW_USAGE_RATIO
from pydantic import Field, PrivateAttr, field_serializer

from ..engine.engine import ChatEngine, ChatRequest, Completion
from ..errors import ModelError, SLMAdaptersError
from ..messages import Message, Tool
from ..routing.router import Router
from ..telemetry.harmless import shielded
from . import convert, patches
from .answers import Asked
from .counting import CountingLLM
from .limits import time_left
from .options import (
    ask_async,
    check_fallback,
    check_options,
    check_router,
    check_server,
    crewai_llm,
    unretried,
)
from .turn import Turn

__all__ = ["SLM"]


class SLM(CountingLLM):
    """A small language model as an agent's LLM.

    ``model``: a Hugging Face id or local path, ``"bundled"``, or an engine. ``fallback``: the LLM
    that answers what the small one cannot (a CrewAI LLM, or a model name for ``crewai.LLM``);
    ``fallback_count`` and ``fallback_reasons`` tell how often. Without one, the typed error of
    ``slm_adapters.errors`` surfaces. ``router``: which answers count (``slm_adapters.routing``).
    Weights are loaded on the first call and shared by every SLM of the same model. ``timeout``:
    seconds per call. ``adapter``: a LoRA adapter on the model, by path or name.
    ``keep_alive``: seconds after the last reply until the weights are given back; default never.
    ``base_url``: ask for ``model`` on an OpenAI-compatible server instead.

        Agent(role="Triage", ..., llm=SLM("Qwen/Qwen3-1.7B", fallback="gpt-4.1-mini"))
    """

    llm_type: str = "slm"
    provider: str = "slm_adapters"
    quantization: str = "auto"
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    context_window: int | None = None
    adapter: str | None = None
    keep_alive: float | None = None
    timeout: float | None = None
    top_k: int | None = None
    fallback: Any = Field(default=None, repr=False)
    #: Shared by copies: what one learns of the model holds for all.
    router: Any = Field(default_factory=Router, repr=False, exclude=True)

    #: What to count a server's prompts with, where it does not count.
    tokenizer: str | None = None

    _engine: ChatEngine | None = PrivateAttr(default=None)
    _fallback_llm: BaseLLM | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: str | PathLike[str] | ChatEngine,
        *,
        fallback: BaseLLM | str | None = None,
        router: Router | None = None,
        quantization: str = "auto",
        temperature: float | None = 0,
        max_tokens: int | None = None,
        stop: Sequence[str] | str | None = None,
        timeout: float | None = None,
        context_window: int | None = None,
        adapter: str | PathLike[str] | None = None,
        keep_alive: float | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        base_url: str | None = None,
        api_key: str | None = None,
        tokenizer: str | None = None,
        **options: Any,
    ) -> None:
        check_options(type(self), options)
        check_fallback(fallback)
        check_router(router)
        check_server(base_url, api_key=api_key, tokenizer=tokenizer)
        super().__init__(
            model=model.name if isinstance(model, ChatEngine) else fspath(model),
            fallback=fallback,
            router=router or Router(),
            quantization=quantization,
            temperature=temperature,
            max_tokens=max_tokens,
            stop=stop,
            timeout=timeout,
            context_window=context_window,
            adapter=fspath(adapter) if adapter is not None else None,
            keep_alive=keep_alive,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            base_url=base_url,
            tokenizer=tokenizer,
            **options,
        )
        self._source, self._api_key = model, api_key
        if isinstance(model, ChatEngine):
            from ..engine.loader import load_engine

            self._engine = load_engine(model, adapter=adapter)
        elif base_url is not None:
            self._engine = self.engine  # asks nobody yet, and says at once what cannot be

    # The engine

    @property
    def engine(self) -> ChatEngine:
        """The engine that answers; loads it if that has not happened yet."""
        if self._engine is None:
            from ..engine.loader import load_engine

            wanted: dict[str, Any] = {
                "quantization": self.quantization,
                "device": self.device,
                "dtype": self.dtype,
                "revision": self.revision,
                "context_window": self.context_window,
                "trust_remote_code": self.trust_remote_code,
                "adapter": self.adapter,
                "keep_alive": self.keep_alive,
                "base_url": self.base_url,
                "api_key": self._api_key,
                "tokenizer": self.tokenizer,
            }
            given = {name: value for name, value in wanted.items() if value is not None}
            source = self._source if self._source is not None else self.model
            self._engine = load_engine(source, **given)
        return self._engine

    def warm_up(self) -> SLM:
        """Load the weights now instead of on the first call."""
        self.engine.warm_up()
        return self

    @property
    def model_name(self) -> str:
        """The model's name on spans: an id or a folder's name, never a whole path."""
        if self._engine is not None:
            return self._engine.name
        name = Path(self.model).name if isabs(self.model) else str(self.model)
        return f"{name}:{Path(self.adapter).name}" if self.adapter else name

    @property
    def engine_provider(self) -> str:
        """``gen_ai.provider.name``; does not load anything."""
        return self._for_spans().provider

    @property
    def in_process(self) -> bool:
        """Whether the model runs in this process; does not load anything."""
        return self._for_spans().local

    @property
    def engine_facts(self) -> dict[str, Any]:
        """What a span says of the engine whatever the outcome; does not load anything."""
        return self._for_spans().facts

    def _for_spans(self) -> ChatEngine:
        # Only a server's engine is made for it: a local one may fail to be found.
        remote = self._engine is None and self.base_url is not None
        return self.engine if remote else self._engine or ChatEngine()

    def request(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        response_format: dict[str, Any] | None,
        agent: Any = None,
    ) -> ChatRequest:
        """The engine's request for these messages, with this model's settings."""
        limits = [self.timeout, time_left(agent)]
        return ChatRequest(
            tuple(messages),
            tuple(tools),
            response_format=response_format,
            max_tokens=int(self.max_tokens) if self.max_tokens else None,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple(self.stop_sequences),
            timeout=min((limit for limit in limits if limit), default=None),
        )

    def agent_is_out_of_time(self, request: ChatRequest) -> bool:
        """Whether the agent's own time limit ended ``request``, not this model's."""
        return request.timeout is not None and request.timeout != self.timeout

    # Calls

    @unretried
    def call(
        self,
        messages: Any,
        tools: list[dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        available_functions: dict[str, Any] | None = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: Any = None,
    ) -> Any:
        """Answer as CrewAI expects: text, OpenAI tool calls, a function's result or a model.

        Raises ``ContextOverflowError``, ``GenerationError`` or ``ModelError`` without a fallback.
        """
        asked = Asked(
            messages, tools, callbacks, available_functions, from_task, from_agent, response_model
        )
        turn = Turn(self, asked)
        with turn.recorded():
            gave_way = False
            try:
                turn.prepare()
                value = turn.accept(self._complete(turn))
            except SLMAdaptersError as error:
                gave_way = turn.falls_back(error)
                if not gave_way:
                    raise
            if gave_way:
                # Out of the handler: an error of the fallback is its own, not one during ours.
                with turn.asking_fallback() as fallback:
                    value = fallback.call(**asked.arguments())
            if turn.to_execute is None:
                turn.finish(value)
            else:
                with turn.executing(turn.to_execute) as run:
                    run.result = run.function(**run.arguments)
                value = str(run.result)
        return turn.after_hooks(value)

    def _complete(self, turn: Turn) -> Completion:
        cancel, engine = threading.Event(), turn.routed(self.engine)
        try:
            if not turn.streams:
                return engine.complete(turn.request, cancel)
            for event in engine.stream(turn.request, cancel):
                if isinstance(event, Completion):
                    return event
                turn.show(event)
        except BaseException:
            cancel.set()
            raise
        raise AssertionError("an engine's last event is its Completion")

    @unretried
    async def acall(
        self,
        messages: Any,
        tools: list[dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        available_functions: dict[str, Any] | None = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: Any = None,
    ) -> Any:
        """Like ``call``; cancelling the task stops the generation."""
        asked = Asked(
            messages, tools, callbacks, available_functions, from_task, from_agent, response_model
        )
        turn = Turn(self, asked)
        with turn.recorded():
            gave_way = False
            try:
                turn.prepare()
                value = turn.accept(await self._acomplete(turn))
            except SLMAdaptersError as error:
                gave_way = turn.falls_back(error)
                if not gave_way:
                    raise
            if gave_way:
                with turn.asking_fallback() as fallback:
                    value = await ask_async(fallback, asked.arguments())
            if turn.to_execute is None:
                turn.finish(value)
            else:
                with turn.executing(turn.to_execute) as run:
                    run.result = run.function(**run.arguments)
                    if inspect.isawaitable(run.result):
                        run.result = await run.result
                value = str(run.result)
        return turn.after_hooks(value)

    async def _acomplete(self, turn: Turn) -> Completion:
        engine = turn.routed(await asyncio.to_thread(lambda: self.engine))
        if not turn.streams:
            return await engine.acomplete(turn.request)
        async with aclosing(cast("AsyncGenerator[Any]", engine.astream(turn.request))) as events:
            async for event in events:
                if isinstance(event, Completion):
                    return event
                turn.show(event)
        raise AssertionError("an engine's last event is its Completion")

    # The fallback

    def fallback_llm(self) -> BaseLLM:
        """The fallback, made on first use if it was given by name."""
        if self._fallback_llm is None:
            self._fallback_llm = crewai_llm(self.fallback)
        return self._fallback_llm

    # What CrewAI asks of an LLM

    def supports_function_calling(self) -> bool:
        """True: every model gets its tools, in its own format or a general one."""
        return True

    def supports_stop_words(self) -> bool:
        """True: stop words end the generation."""
        return True

    def get_context_window_size(self) -> int:
        """Usable tokens: 85 % of the window, as CrewAI counts, of the larger of model and fallback.

        A prompt that only the fallback can hold goes there whole instead of being summarized.
        """
        windows: list[int] = []
        with shielded("asking the fallback for its window"):
            if self.fallback is not None:
                windows.append(self.fallback_llm().get_context_window_size())
        try:
            if self.base_url is not None:
                self.engine.warm_up()  # the server knows
            window = self.context_window or self.engine.context_window
            windows.append(int(window * CONTEXT_WINDOW_USAGE_RATIO))
        except ModelError:
            if not windows:
                raise
        return max(windows)

    def get_input_tokens_count(
        self, messages: Any, tools: Any = None, response_model: Any = None
    ) -> int:
        """Exact prompt tokens, by the model's own tokenizer and chat template."""
        try:
            return self.engine.count_tokens(convert.messages_of(messages), convert.tools_of(tools))
        except ModelError:
            # The call itself will tell, or ask the fallback.
            return int(super().get_input_tokens_count(messages, tools, response_model))

    @field_serializer("fallback")
    def _serialize_fallback(self, fallback: Any) -> str | None:
        # An LLM object holds keys; only a name is written.
        return fallback if isinstance(fallback, str) else None


# CrewAI rebuilds an LLM from its dump by this name, for instance in copies of an agent.
_base_agent._LLM_TYPE_REGISTRY.setdefault("slm", "slm_adapters.crewai.SLM")
patches.install(SLM)
