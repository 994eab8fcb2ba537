"""``ChatSLM``: a small model, here or on a server, as a LangChain chat model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr

from ..engine.checkpoint import configured_window, locate, split_adapter
from ..engine.engine import ChatEngine, ChatRequest
from ..engine.loader import Quantization, load_engine
from ..errors import ModelNotFoundError
from ..messages import Tool
from ..routing.fallback import Fallbacks
from ..routing.router import Router
from ..routing.verify import check_tools
from . import convert
from .answering import AnsweringModel
from .convert import LOCAL_PROVIDER
from .fallback import check_fallback, fallback_name
from .request import chat_request, distinct_tools, text_messages_from
from .turn import Turn, open_turn

__all__ = ["ChatSLM"]

_REQUEST_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "timeout", "stop")
#: Which model a deployment uses where the program names none.
_MODEL = "SLM_ADAPTERS_MODEL"
_LOAD_FIELDS = (
    "quantization", "device", "dtype", "revision", "context_window", "trust_remote_code",
    "adapter", "keep_alive", "base_url", "tokenizer",
)  # fmt: skip


class ChatSLM(AnsweringModel):
    """A small model in this process, or on a server, behind LangChain's own interface.

    Weights are loaded once per process, on the first call. With ``fallback=`` the calls this
    model cannot serve go to that LLM, with the reason on the span; without, they raise a typed
    error (``slm_adapters.errors``). ``router=`` says which answers count
    (``slm_adapters.routing``). With ``base_url=`` the model is one on an OpenAI-compatible server;
    ``api_key=`` is in no dump and no pickle::

        agent = create_agent(ChatSLM("bundled", fallback=ChatOpenAI(model="gpt-4.1")), tools)
    """

    #: Hugging Face id, local path, ``"bundled"``, or an engine object. Without one, what the
    #: environment variable SLM_ADAPTERS_MODEL names, else ``"bundled"``.
    model: str | ChatEngine = Field(default_factory=lambda: os.environ.get(_MODEL) or "bundled")
    #: The LLM asked instead: a chat model, any runnable over one, or a name for LangChain to find.
    fallback: Any = None
    quantization: Quantization | None = "auto"
    device: str | None = None
    dtype: str | None = None
    revision: str | None = None
    #: Tokens of prompt and reply together; default the model's own window.
    context_window: int | None = None
    trust_remote_code: bool = False
    #: A LoRA adapter on the model: a PEFT folder, a hub id, or a name given to its base.
    adapter: str | None = None
    #: Seconds after the last reply until the weights are given back; None: never.
    keep_alive: float | None = None
    #: An OpenAI-compatible server that has ``model``, and what to count its prompts with.
    base_url: str | None = None
    tokenizer: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    #: Seconds for one answer.
    timeout: float | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")

    _fallbacks: Fallbacks = PrivateAttr(default_factory=Fallbacks)
    _engines: dict[tuple[Any, ...], ChatEngine] = PrivateAttr(default_factory=dict)
    _api_key: str | None = PrivateAttr(default=None)

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    def __init__(
        self, model: str | os.PathLike[str] | ChatEngine | None = None, /, **kwargs: Any
    ) -> None:
        if model is not None:
            kwargs["model"] = model
        if isinstance(kwargs.get("model"), os.PathLike):
            kwargs["model"] = os.fspath(kwargs["model"])
        if isinstance(kwargs.get("adapter"), os.PathLike):
            kwargs["adapter"] = os.fspath(kwargs["adapter"])
        # Before pydantic, which would wrap the error.
        check_fallback(kwargs.get("fallback"))
        api_key = kwargs.pop("api_key", None)
        super().__init__(**kwargs)
        self._api_key = api_key

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ChatSLM:
        """A copy that shares the weights and counts its own fallbacks."""
        copy = self.model_copy()
        own = {"_fallbacks": Fallbacks(), "_engines": self._engines, "_api_key": self._api_key}
        copy.__pydantic_private__ = own
        return copy

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        fresh = {"_fallbacks": Fallbacks(), "_engines": {}, "_api_key": None}
        super().__setstate__({**state, "__pydantic_private__": fresh})

    # What LangChain asks a model about itself

    @property
    def _llm_type(self) -> str:
        return LOCAL_PROVIDER

    @property
    def model_name(self) -> str:
        """Name of the model, for people and spans."""
        return _name_of(self.model, self.adapter)

    @property
    def fallbacks(self) -> Fallbacks:
        """How often the fallback answered, by reason."""
        return self._fallbacks

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in (*_LOAD_FIELDS, *_REQUEST_FIELDS)}
        fallback = fallback_name(self.fallback) if self.fallback is not None else None
        router = repr(self.router)
        return {"model": self.model_name, "fallback": fallback, "router": router, **fields}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        return ["slm_adapters", "langchain"]

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Settings and the fallback, keys left out; ``langchain_core.load`` builds the same model.

        An engine object or a router of your own is no JSON: such a dump says so when it is loaded.
        """
        data = super().to_json()
        # The default policy needs no word, and must not keep a plain model from being loaded.
        if data["type"] == "constructor" and repr(self.router) == repr(Router()):
            data["kwargs"].pop("router", None)
        return data

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        # LangChain would put the call's stop, or None, over the model's own.
        return super()._get_invocation_params(stop if stop is not None else self.stop, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The cache key. LangChain's is a dump made once: it misses later changes and objects, and
        # two engines may share a name.
        params = {**self._get_invocation_params(stop=stop, **kwargs), **kwargs}
        key = str(sorted(params.items()))
        engine = kwargs.get("model", self.model)
        return f"{key}---{id(engine)}" if isinstance(engine, ChatEngine) else key

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_model_name"] = self._span_name(kwargs)
        params["ls_provider"] = self._for_spans(kwargs).provider
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        profile = ModelProfile(
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            pdf_inputs=False,
            video_inputs=False,
            text_outputs=True,
        )
        window = self._window()
        if window is not None:
            profile["max_input_tokens"] = window
        return profile

    def _window(self) -> int | None:
        """The window as far as it is known without loading or asking anything."""
        if self.base_url is not None:
            return self.context_window
        if isinstance(self.model, ChatEngine):
            return self.model.context_window
        try:
            known = configured_window(locate(split_adapter(self.model)[0]), self.revision)
        except ModelNotFoundError:
            # Said when the model is used; it may still be put there.
            known = None
        return min((w for w in (known, self.context_window) if w is not None), default=None)

    def get_num_tokens(self, text: str) -> int:
        """Tokens of ``text`` as one user message, by this model's own tokenizer."""
        return self.get_num_tokens_from_messages([HumanMessage(text)])

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Prompt tokens these messages take, by this model's own tokenizer and template."""
        bound = tuple(Tool.from_openai(convert_to_openai_tool(tool)) for tool in tools or ())
        return self._engine({}).count_tokens(text_messages_from(messages), bound)

    def warm_up(self) -> None:
        """Load the weights now instead of on the first call."""
        self._engine({}).warm_up()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools; ``tool_choice``: auto, none, any, or a tool's name.

        Raises ``InvalidToolError`` for a tool without a name or a proper schema.
        """
        bound = distinct_tools([convert_to_openai_tool(tool) for tool in tools])
        check_tools([Tool.from_openai(tool) for tool in bound])
        if tool_choice is not None:
            kwargs["tool_choice"] = convert.tool_choice_from(tool_choice)
        return self.bind(tools=bound, **kwargs)

    # What an answer is made of

    def _engine(self, kwargs: Mapping[str, Any]) -> ChatEngine:
        model, adapter = self._asked(kwargs)
        if isinstance(model, ChatEngine):
            return load_engine(model, adapter=adapter)
        options = {name: getattr(self, name) for name in _LOAD_FIELDS} | {"adapter": adapter}
        key = (model, *options.values())
        if key not in self._engines:
            # Kept: weights are given back when the last engine that used them is gone.
            self._engines[key] = load_engine(model, api_key=self._api_key, **options)
        return self._engines[key]

    def _asked(self, kwargs: Mapping[str, Any]) -> tuple[str | ChatEngine, str | None]:
        """Model and adapter of a call; another model does not get this one's adapter."""
        model = kwargs.get("model") or self.model
        own = self.adapter if model == self.model else None
        return model, kwargs.get("adapter", own)

    def _for_spans(self, kwargs: Mapping[str, Any]) -> ChatEngine:
        """Who answers, as far as a span tells, without loading anything."""
        model = kwargs.get("model") or self.model
        if isinstance(model, ChatEngine) or self.base_url is not None:
            return self._engine(kwargs)
        return ChatEngine()

    def _span_name(self, kwargs: Mapping[str, Any]) -> str:
        if self.base_url is not None:
            return self._engine(kwargs).name
        return _name_of(*self._asked(kwargs))

    def _request(
        self,
        messages: Sequence[BaseMessage],
        stop: Sequence[str] | None,
        kwargs: Mapping[str, Any],
    ) -> ChatRequest:
        defaults = {name: getattr(self, name) for name in _REQUEST_FIELDS}
        return chat_request(messages, stop, defaults, kwargs)

    def _turn(
        self,
        messages: Sequence[BaseMessage],
        run_manager: Any,
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
    ) -> Turn:
        defaults = {name: getattr(self, name) for name in _REQUEST_FIELDS}
        engine = self._for_spans(kwargs)
        turn = open_turn(
            run_manager,
            provider=engine.provider,
            model=self._span_name(kwargs),
            params=convert.params_from({**defaults, **kwargs}),
            messages=lambda: convert.messages_from(messages),
            tools=lambda: convert.tools_from(kwargs),
            response_format=kwargs.get("response_format"),
            streamed=stream,
            in_process=engine.local,
        )
        for call in turn.calls:
            call.note(**engine.facts)
        return turn


def _name_of(model: str | ChatEngine, adapter: str | None) -> str:
    name = model if isinstance(model, str) else model.name
    return f"{name}:{Path(adapter).name}" if adapter else name
