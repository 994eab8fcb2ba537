"""LangChain's old way: the callback handler its documentation leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_models import HostedChat
from opentelemetry.trace import StatusCode


class PlainHandler(BaseCallbackHandler):
    """A span a run, kept by run id; the model's name from where the documentation shows it."""

    run_inline = True

    def __init__(self, provider: Any) -> None:
        self.tracer, self.open = provider.get_tracer("plain"), {}

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs: Any) -> None:
        model = kwargs["invocation_params"]["model_name"]
        self.open[run_id] = self.tracer.start_span(f"chat {model}")

    def on_chain_start(self, serialized, inputs, *, run_id, **kwargs: Any) -> None:
        self.open[run_id] = self.tracer.start_span(f"chain {kwargs.get('name')}")

    def on_llm_end(self, response, *, run_id, **kwargs: Any) -> None:
        self.open.pop(run_id).end()

    def on_chain_end(self, outputs, *, run_id, **kwargs: Any) -> None:
        self.open.pop(run_id).end()

    def on_llm_error(self, error, *, run_id, **kwargs: Any) -> None:
        span = self.open.pop(run_id)
        span.set_status(StatusCode.ERROR)
        span.end()

    on_chain_error = on_llm_error


class TellingHandler(PlainHandler):
    """The same with what was asked, what came back, and what OpenTelemetry's guide says of errors.

    ``redact`` is asked for the messages; ``limit`` is what the backend takes.
    """

    def __init__(
        self, provider: Any, redact: Callable[[Any], Any] = list, limit: int = 64_000
    ) -> None:
        super().__init__(provider)
        self.redact, self.limit = redact, limit

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs: Any) -> None:
        asked = [{"role": m.type, "content": m.content} for m in self.redact(messages[0])]
        text = json.dumps(asked)[: self.limit]
        self.open[run_id] = self.tracer.start_span("chat", attributes={"input": text})

    def on_llm_new_token(self, token, *, run_id, **kwargs: Any) -> None:
        self.open[run_id].set_attribute("first_chunk", True)

    def on_llm_end(self, response, *, run_id, **kwargs: Any) -> None:
        usage = (response.llm_output or {}).get("token_usage", {})
        first = response.generations[0][0]
        reason = first.message.response_metadata.get("finish_reason", "stop")
        span = self.open.pop(run_id)
        span.set_attributes({
            "input_tokens": usage.get("prompt_tokens", 0),
            "output": first.text,
            "finish_reasons": [reason],
        })  # fmt: skip
        span.end()

    def on_llm_error(self, error, *, run_id, **kwargs: Any) -> None:
        span = self.open.pop(run_id)
        span.record_exception(error)
        span.set_status(StatusCode.ERROR, str(error))
        span.end()


class Hosted(HostedChat):
    """Says its name among the parameters, as the documented integrations do."""

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}
