"""What every framework's ``CallRecorder`` is constructed with, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from .store.opening import StoreLike, open_store
from .telemetry.content import Redact
from .telemetry.recorder import CallHook, CompletionHook, Recorder
from .telemetry.spending import Prices

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider  # a whole package, for the type alone

__all__ = ["CallRecorderBase"]


class CallRecorderBase:
    """A framework's callbacks over ``recorder``; a ``with`` block closes it.

    What raises here is each framework's own part. No ``ABC``: the frameworks' base classes, which
    stand beside this one, choose their own metaclass.
    """

    recorder: Recorder

    # ``Recorder``'s options once more, so that help() of every recorder spells them out.

    def __init__(
        self,
        *,
        store: StoreLike | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        hooks: Sequence[CallHook | CompletionHook] = (),
        redact: Redact | None = None,
        app: str | None = None,
        prices: Prices | None = None,
        energy: bool = False,
    ) -> None:
        super().__init__()
        self.recorder = Recorder(
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            store=open_store(store),
            hooks=hooks,
            redact=redact,
            app=app,
            prices=prices,
            energy=energy,
        )
        self._begin()

    def _begin(self) -> None:
        """Listen to the framework; ``recorder`` is there."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is still open."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
