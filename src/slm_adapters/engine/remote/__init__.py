"""A model on a server that speaks OpenAI's protocol, asked like any other engine."""

from __future__ import annotations

from .engine import RemoteEngine

__all__ = ["RemoteEngine"]
