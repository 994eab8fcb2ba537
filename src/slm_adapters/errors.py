"""Every error this package raises on purpose; each message ends with what to do next.

    SLMAdaptersError
    ├── MissingExtraError      (ImportError)   an optional dependency is not installed
    ├── ModelError
    │   ├── ModelNotFoundError (LookupError)   no such model, path or specialist
    │   ├── ModelLoadError     (RuntimeError)  found, but it cannot be loaded here
    │   ├── ChatTemplateError  (ValueError)    the tokenizer cannot render a chat
    │   ├── AdapterError       (ValueError)    a LoRA adapter does not fit its base
    │   ├── ServerError        (RuntimeError)  a model server answers with an error
    │   ├── UnreachableServerError (ConnectionError)  no connection, or it broke
    │   └── NotAskedError                      the router sent the call straight to the fallback
    ├── RequestError           (ValueError)    the caller's arguments cannot be served
    │   ├── EmptyMessagesError
    │   ├── InvalidToolError
    │   ├── InvalidFallbackError (TypeError)
    │   ├── UnsupportedContentError            images, audio or files for a text model
    │   └── ContextOverflowError               prompt + reply do not fit the window
    ├── GenerationError        (RuntimeError)  the model answered, but not usably
    │   ├── EmptyReplyError
    │   ├── InvalidReplyError                  broken tool call or structured output
    │   ├── RejectedReplyError                 well formed, but a check turned it down
    │   ├── DeadlineExceededError (TimeoutError)
    │   ├── EngineBusyError                    too many calls wait for the model already
    │   └── CancelledGenerationError
    └── StoreError             (OSError)       calls cannot be written or read

``GenerationError``, ``ModelError`` and the last two request errors are what a fallback catches.
Messages avoid the words that make CrewAI retry a call as if a provider had throttled it.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AdapterError",
    "CancelledGenerationError",
    "ChatTemplateError",
    "ContextOverflowError",
    "DeadlineExceededError",
    "EmptyMessagesError",
    "EmptyReplyError",
    "EngineBusyError",
    "GenerationError",
    "InvalidFallbackError",
    "InvalidReplyError",
    "InvalidToolError",
    "MissingExtraError",
    "ModelError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NotAskedError",
    "RejectedReplyError",
    "RequestError",
    "SLMAdaptersError",
    "ServerError",
    "StoreError",
    "UnreachableServerError",
    "UnsupportedContentError",
]


class SLMAdaptersError(Exception):
    """Base of every error raised by slm-adapters."""

    #: Short, low-cardinality word for spans and tables ("overflow", "deadline", ...).
    reason: str = "error"


class MissingExtraError(SLMAdaptersError, ImportError):
    """An optional dependency is missing; the message names the command to type."""

    reason = "missing_extra"

    def __init__(self, used: str, package: str, extra: str) -> None:
        super().__init__(
            f"{used} needs {package}, which is not installed: "
            f"run `pip install 'slm-adapters[{extra}]'`."
        )
        self.extra = extra


class ModelError(SLMAdaptersError):
    """A model cannot be used."""

    reason = "model"


class ModelNotFoundError(ModelError, LookupError):
    """No model, local path or specialist has that name."""

    reason = "model_not_found"


class ModelLoadError(ModelError, RuntimeError):
    """The model exists but cannot be loaded on this machine."""

    reason = "model_load"


class ChatTemplateError(ModelError, ValueError):
    """The tokenizer has no usable chat template."""

    reason = "chat_template"


class AdapterError(ModelError, ValueError):
    """The adapter exists but is not one that this base can use."""

    reason = "adapter"


class ServerError(ModelError, RuntimeError):
    """A model server answered with an error that is no other class here; ``status``: HTTP's."""

    reason = "server"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnreachableServerError(ModelError, ConnectionError):
    """A model server cannot be reached, or the connection broke before the answer was whole."""

    reason = "unreachable"


class NotAskedError(ModelError):
    """The router did not ask the small model; ``reason`` is its own or the policy's."""

    reason = "not_asked"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"{model} was not asked ({reason}): the fallback answers.")
        self.reason = reason


class RequestError(SLMAdaptersError, ValueError):
    """The request cannot be served as written."""

    reason = "request"


class EmptyMessagesError(RequestError):
    """The message list is empty."""

    reason = "empty_messages"


class InvalidToolError(RequestError):
    """A tool definition is not a valid function with a JSON schema."""

    reason = "invalid_tool"


class InvalidFallbackError(RequestError, TypeError):
    """``fallback=`` is not an LLM of the framework in use."""

    reason = "invalid_fallback"


class UnsupportedContentError(RequestError):
    """A message holds images, audio or files, and the model reads text only."""

    reason = "unsupported_content"


class ContextOverflowError(RequestError):
    """Prompt and reply together exceed the model's window; raised before any compute."""

    reason = "overflow"

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        max_tokens: int,
        window: int,
        *,
        at_least: bool = False,
    ) -> None:
        counted = f"at least {prompt_tokens}" if at_least else f"{prompt_tokens}"
        # "maximum context length" is the phrase CrewAI and LangChain agents look for.
        super().__init__(
            f"{counted} prompt tokens and {max_tokens} reply tokens exceed the maximum "
            f"context length of {model} ({window} tokens): shorten the prompt, lower "
            "max_tokens, or give the model a fallback=."
        )
        self.prompt_tokens, self.max_tokens, self.window = prompt_tokens, max_tokens, window


class GenerationError(SLMAdaptersError, RuntimeError):
    """The model ran, but its answer cannot be used."""

    reason = "generation"
    #: The engine's ``Completion`` that was turned down, where there is one: it cost tokens.
    completion: Any = None


class EmptyReplyError(GenerationError):
    """The model ended without text or tool call."""

    reason = "empty_reply"


class InvalidReplyError(GenerationError):
    """A tool call or structured answer does not match what was asked for."""

    reason = "invalid_reply"


class RejectedReplyError(GenerationError):
    """A check turned the answer down; ``reason`` is what the check said."""

    reason = "rejected"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"the answer of {model} did not pass a check ({reason}): give the model a fallback=, "
            "or loosen the check."
        )
        self.reason = reason


class DeadlineExceededError(GenerationError, TimeoutError):
    """The call's time ran out."""

    reason = "deadline"


class EngineBusyError(GenerationError):
    """Too many calls wait for the model already; raised before any compute."""

    reason = "busy"


class CancelledGenerationError(GenerationError):
    """The caller gave the call up."""

    reason = "cancelled"


class StoreError(SLMAdaptersError, OSError):
    """The call store cannot be opened, written or read."""

    reason = "store"
