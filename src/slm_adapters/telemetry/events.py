"""The content event: one log record per call with its messages, linked to the span."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber, get_logger

from ..messages import Reply
from . import content, semconv
from .harmless import harmless

if TYPE_CHECKING:
    from .open_call import OpenCall

__all__ = ["Events"]


class Events:
    """Emits ``gen_ai.client.inference.operation.details`` to one logger provider."""

    def __init__(self, logger_provider: LoggerProvider | None = None) -> None:
        self._logger = get_logger("slm_adapters", logger_provider=logger_provider)

    @harmless("the content event")
    def record(
        self,
        call: OpenCall,
        attributes: Mapping[str, Any],
        replies: Sequence[Reply],
        error: str | None,
        ended_ns: int,
    ) -> LogRecord:
        """One event with the span's attributes and structured messages."""
        body = {key: value for key, value in attributes.items() if value is not None}
        body.pop(semconv.INPUT_MESSAGES, None)
        if call.messages:
            body[semconv.INPUT_MESSAGES] = json.loads(content.input_json(call.messages))
        if replies:
            body[semconv.OUTPUT_MESSAGES] = json.loads(content.output_json(replies))
        if call.tools:
            body[semconv.TOOL_DEFINITIONS] = content.tool_definitions(call.tools)
        if error is not None:
            body[semconv.ERROR_TYPE] = error
        return LogRecord(
            timestamp=ended_ns,
            context=call.context,
            severity_number=SeverityNumber.INFO,
            event_name=semconv.CONTENT_EVENT,
            attributes=body,
        )

    @harmless("the content event")
    def emit(self, record: LogRecord) -> None:
        """Send what :meth:`record` made; hooks may have changed it."""
        self._logger.emit(record)
