"""Who answers: the small model first, the large one when needed.

    from slm_adapters.routing import Confident, Copied, Router

    SLM("Qwen/Qwen3-1.7B", fallback="gpt-4.1-mini", router=Router(Copied("order_id"), sticky=True))

The same ``Router`` serves ``SLM``, ``ChatSLM`` and, by ``Router.over(model)``, LiteLLM.
"""

from __future__ import annotations

from .answer import Answer, Check
from .breaker import Breaker
from .checks import Confident, Consistent, Copied, Within
from .routed import RoutedEngine
from .router import Router

__all__ = [
    "Answer",
    "Breaker",
    "Check",
    "Confident",
    "Consistent",
    "Copied",
    "RoutedEngine",
    "Router",
    "Within",
]
