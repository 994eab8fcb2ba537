"""The ``slm`` provider: ``litellm.completion(model="slm/bundled", ...)`` on a small model."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, cast

import litellm
from litellm.llms.custom_llm import CustomLLM

from ..engine.engine import ChatEngine
from ..engine.loader import load_engine
from ..errors import SLMAdaptersError
from . import served
from .answer import answering, response

__all__ = ["SLMProvider", "register", "unregister"]

_LOAD_OPTIONS = (
    "quantization", "device", "dtype", "revision", "context_window", "trust_remote_code",
    "adapter", "keep_alive", "tokenizer",
)  # fmt: skip

_provider: SLMProvider | None = None
_lock = threading.Lock()


def register(
    models: Mapping[str, str | os.PathLike[str] | ChatEngine] | None = None,
) -> SLMProvider:
    """Serve ``slm/<hub id>``, ``slm/bundled`` and, under names of your own, ``models``.

    ``slm/<model>:<adapter>`` is the model with a LoRA adapter, by path, hub id or name. Other
    custom providers stay. Calling it again adds names. Named models and ``bundled`` are
    known to ``litellm.supports_function_calling`` at once, any other with its first call::

        register({"triage": "Qwen/Qwen3-1.7B"})
        litellm.completion(model="slm/triage", messages=[...])

    With ``api_base=`` the model is one on an OpenAI-compatible server. Import CrewAI before this,
    so that it learns the windows too.
    """
    global _provider
    with _lock:
        if _provider is None:
            _provider = SLMProvider()
        items = litellm.custom_provider_map
        if not any(item["custom_handler"] is _provider for item in items):
            items.append({"provider": served.PROVIDER, "custom_handler": _provider})
        litellm.utils.custom_llm_setup()
        _provider.models.update(models or {})
        for name in ("bundled", *(models or {})):
            with contextlib.suppress(SLMAdaptersError):
                _provider.announce(name, _provider.engine(name, {}))
        return _provider


def unregister() -> None:
    """Take the provider and everything it told LiteLLM back."""
    global _provider
    with _lock:
        provider, _provider = _provider, None
        items = litellm.custom_provider_map
        items[:] = [item for item in items if item["custom_handler"] is not provider]
        if any(item["provider"] == served.PROVIDER for item in items):
            return
        for names in (litellm.provider_list, litellm._custom_providers):
            while served.PROVIDER in names:
                names.remove(served.PROVIDER)
        for name in provider.announced if provider else ():
            for known in (litellm.model_cost, *_crewai_windows()):
                known.pop(name, None)


def _crewai_windows() -> list[dict[str, Any]]:
    """CrewAI's own table of windows, where CrewAI is: it does not ask LiteLLM for them."""
    module = sys.modules.get("crewai.llms.context_window")
    windows = getattr(module, "LLM_CONTEXT_WINDOW_SIZES", None)
    return [windows] if isinstance(windows, dict) else []


class SLMProvider(CustomLLM):  # type: ignore[misc]
    """LiteLLM's custom-provider interface over engines, one per model and load options."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, str | os.PathLike[str] | ChatEngine] = {}
        self.announced: set[str] = set()
        self._engines: dict[tuple[Any, ...], ChatEngine] = {}

    def engine(
        self,
        name: str,
        params: Mapping[str, Any],
        api_base: str | None = None,
        api_key: str | None = None,
    ) -> ChatEngine:
        """The engine for a model name; load options may come with the call."""
        model = self.models.get(name, name)
        if isinstance(model, ChatEngine):
            return model
        options = {key: params[key] for key in _LOAD_OPTIONS if params.get(key) is not None}
        if api_base:
            options |= {"base_url": api_base, "api_key": api_key}
        key = (os.fspath(model), *sorted(options.items()))
        if key not in self._engines:
            self._engines[key] = load_engine(model, **options)
        return self._engines[key]

    def announce(self, name: str, engine: ChatEngine) -> None:
        """Tell LiteLLM what the model can do, so that its callers may use it."""
        full, window = f"{served.PROVIDER}/{name}", engine.context_window
        known = litellm.model_cost.get(full)
        if known is not None and known.get("max_input_tokens") == window:
            return
        facts = {
            "litellm_provider": served.PROVIDER,
            "mode": "chat",
            "max_tokens": window,
            "max_input_tokens": window,
            "max_output_tokens": window,
            "supports_function_calling": True,
            "supports_tool_choice": True,
            "supports_response_schema": True,
            "supports_system_messages": True,
        }
        litellm.register_model({full: facts})
        for windows in _crewai_windows():
            windows[full] = window
        self.announced.add(full)

    # LiteLLM passes everything by keyword

    def completion(self, *args: Any, **given: Any) -> Any:
        with answering(given, self._find) as answer, answer.current():
            completion = answer.engine.complete(answer.request)
            answer.finish(completion)
            return response(given, completion)

    async def acompletion(self, *args: Any, **given: Any) -> Any:
        with answering(given, self._find) as answer, answer.current():
            completion = await answer.engine.acomplete(answer.request)
            answer.finish(completion)
            return response(given, completion)

    def streaming(self, *args: Any, **given: Any) -> Iterator[Any]:
        cancel = threading.Event()
        with answering(given, self._find, stream=True) as answer:
            try:
                events = iter(answer.engine.stream(answer.request, cancel))
                with answer.current():  # a server is asked before the first event
                    event = next(events, None)
                while event is not None:
                    yield from answer.chunks(event)
                    event = next(events, None)
            finally:
                cancel.set()

    async def astreaming(self, *args: Any, **given: Any) -> AsyncIterator[Any]:
        with answering(given, self._find, stream=True) as answer:
            source = cast("AsyncGenerator[Any]", answer.engine.astream(answer.request))
            async with aclosing(source) as events:
                with answer.current():
                    event = await anext(events, None)
                while event is not None:
                    for chunk in answer.chunks(event):
                        yield chunk
                    event = await anext(events, None)

    def _find(self, given: Mapping[str, Any]) -> ChatEngine:
        """The engine that LiteLLM's arguments name; ``api_base`` is a server's address."""
        engine = self.engine(
            given["model"], given["optional_params"], given.get("api_base"), given.get("api_key")
        )
        self.announce(given["model"], engine)
        return engine
