"""A started event on its way to a span, and what every opener needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context

from ..messages import as_json
from ..telemetry.recorder import OpenSpan, Recorder
from .scopes import Scope

__all__ = ["Start", "as_text", "redacted"]


@dataclass(slots=True)
class Start:
    """A started event and where its span goes."""

    recorder: Recorder
    source: Any
    event: Any
    scope: Scope
    context: Context
    at_ns: int

    def span(self, operation: str, target: str | None, attributes: Mapping[str, Any]) -> OpenSpan:
        return self.recorder.span(
            operation, target, attributes=attributes, parent=self.context, start_ns=self.at_ns
        )


def as_text(value: Any) -> str | None:
    """``value`` as text, or None when there is nothing to say."""
    text = str(value).strip() if value else ""
    return text or None


def redacted(recorder: Recorder, value: Any) -> str:
    """Content for a span, through the one redactor."""
    text = value if isinstance(value, str) else as_json(value)
    return recorder.redaction.apply_to_text(text)
