"""Text is all that a small model reads: whatever else a message holds is refused, never dropped."""

from __future__ import annotations

from collections.abc import Iterable

from ..calls import Message
from ..errors import UnsupportedContentError

__all__ = ["check_text_only"]


def check_text_only(
    messages: Iterable[Message],
    model: str = "this model",
    otherwise: str = "give the model a fallback=",
) -> None:
    """Raise ``UnsupportedContentError`` for images, audio and files.

    ``otherwise``: what a caller who needs them can do.
    """
    for message in messages:
        parts = message.content if isinstance(message.content, list) else ()
        found = (str(part.get("type", "untyped")) for part in parts if not isinstance(part, str))
        kinds = sorted(set(found) - {"text"})
        if kinds:
            raise UnsupportedContentError(
                f"a {message.role} message has {', '.join(kinds)} content, and {model} "
                f"reads text only: send text, or {otherwise}."
            )
