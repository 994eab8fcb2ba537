"""Calls that have their answer and that LiteLLM has not reported yet.

It reports successes from a queue that its event loop empties. A loop that ends leaves them there
until the next one runs, or until the program ends: by then span exporters and stores may be shut.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping
from typing import Any

from litellm.litellm_core_utils import logging_worker

from ..telemetry.harmless import harmless

__all__ = [
    "ANSWERED", "ASKED", "has_answer", "is_answered", "tell_before_exit", "tell_what_is_stranded",
]  # fmt: skip

ASKED, ANSWERED = "pre_api_call", "post_api_call"
#: While a thread of LiteLLM's is about to report it.
_REPORTED = "successful_api_call"


def has_answer(details: Mapping[str, Any]) -> bool:
    """Whether the provider answered, or began to; ``details``: LiteLLM's own dict of the call."""
    return details.get("log_event_type") in (ANSWERED, _REPORTED)


def is_answered(details: Mapping[str, Any]) -> bool:
    """Whether the answer is there; a stream that nobody reported is not known to be at its end."""
    return not details.get("stream") and has_answer(details)


@harmless("LiteLLM's queue of a loop that ended")
def tell_what_is_stranded() -> None:
    """Have LiteLLM report now what a loop that ended left in its queue."""
    loop = getattr(logging_worker.GLOBAL_LOGGING_WORKER, "_bound_loop", None)
    if loop is not None and loop.is_closed():
        # It takes a loop of its own, so a thread whose current loop is nobody else's.
        thread = threading.Thread(target=_tell, name="slm-adapters-litellm", daemon=True)
        thread.start()
        thread.join()


def tell_before_exit() -> None:
    """At exit, have LiteLLM empty its queue before all that was registered until now is shut."""
    atexit.unregister(_tell)
    atexit.register(_tell)


@harmless("LiteLLM's queue")
def _tell() -> None:
    # What LiteLLM does at exit; it registered that earlier, and so would do it later.
    logging_worker.GLOBAL_LOGGING_WORKER._flush_on_exit()
