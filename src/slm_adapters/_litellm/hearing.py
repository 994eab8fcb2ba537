"""What LiteLLM was answered, told before the program has it.

It reports a success later, when the call around it, of another framework, may have ended already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..telemetry.harmless import harmless
from . import together, wrapping

__all__ = ["install"]

#: What every entry point does with a whole answer.
_ANSWERED = {
    "litellm_core_utils.llm_response_utils.response_metadata:ResponseMetadata": (
        "set_hidden_params",
    )
}


def install() -> Iterator[str]:
    """Wrap the place where an answer is made ready; yields it if this version has it not."""
    yield from wrapping.wrap(_ANSWERED, _before_return)


def _before_return(make_ready: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(make_ready)
    def made_ready(self: Any, logging_obj: Any, *args: Any, **kwargs: Any) -> Any:
        _tell(logging_obj, self)
        return make_ready(self, logging_obj, *args, **kwargs)

    return made_ready


@harmless("LiteLLM's answer")
def _tell(logging_obj: Any, metadata: Any) -> None:
    together.learned(str(logging_obj.litellm_call_id), metadata.result)
