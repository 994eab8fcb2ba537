"""LiteLLM: record every call, and serve small local models under ``slm/...``.

    import slm_adapters.litellm as slm

    slm.CallRecorder(store="calls.db")           # from now on; close() ends it
    slm.register()
    litellm.completion(model="slm/bundled", messages=[...])

Raises ``MissingExtraError`` on import when LiteLLM is not installed.
"""

from __future__ import annotations

from .errors import MissingExtraError

try:
    import litellm as _litellm  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "litellm":
        raise
    raise MissingExtraError("slm_adapters.litellm", "litellm", "litellm") from None

from ._litellm.everywhere import instrument, uninstrument
from ._litellm.provider import register, unregister
from ._litellm.recording import CallRecorder

__all__ = ["CallRecorder", "instrument", "register", "uninstrument", "unregister"]
