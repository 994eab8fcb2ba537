"""SLM first, LLM when needed: which answers count, and when the small model is not asked."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Literal

from ..engine.engine import ChatEngine, ChatRequest
from ..errors import NotAskedError, RejectedReplyError
from ..telemetry.harmless import warn_once
from .answer import Answer, Check
from .breaker import Breaker, Circuit, is_a_failure

if TYPE_CHECKING:
    from .routed import RoutedEngine

__all__ = ["Router"]

#: Runs remembered as the LLM's; the oldest is forgotten first.
_RUNS_KEPT = 10_000
_LONGEST_REASON = 64


class Router:
    """The policy of a swapped role: checks of your own beside those on form, which always run.

    ``checks``: callables that get an ``Answer`` and return why not (None or True accepts); an
    answer they turn down is never shown and its tool calls never run. ``before``: a callable that
    gets the ``ChatRequest`` and returns why the fallback should answer at once. ``sticky``: once a
    run's role fell back, the rest of that run stays with the fallback. ``breaker``: when the small
    model rests after failures in a row; None never. The last three need a fallback.

        SLM("Qwen/Qwen3-1.7B", fallback="gpt-4.1-mini", router=Router(Copied("order_id")))
    """

    def __init__(
        self,
        *checks: Check,
        before: Callable[[ChatRequest], str | bool | None] | None = None,
        sticky: bool = False,
        breaker: Breaker | None = Breaker(),  # noqa: B008 (frozen)
    ) -> None:
        for item in (*checks, *([before] if before is not None else [])):
            # What a coroutine function returns is true before anybody has looked at the answer.
            if not callable(item) or inspect.iscoroutinefunction(item):
                raise TypeError(
                    f"Router() takes plain callables, not {item!r:.60}: pass functions of an "
                    "Answer, or Copied(...), Within(...), Confident(...), Consistent(...)."
                )
        self.checks, self.before, self.sticky, self.breaker = checks, before, sticky, breaker
        self._circuits: dict[Hashable, Circuit] = {}
        self._left: OrderedDict[tuple[str, str | None], None] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        # With a function's address: part of LangChain's cache key, and no two policies are one.
        parts = [*map(repr, self.checks), f"before={self.before!r}", f"sticky={self.sticky}"]
        return f"Router({', '.join([*parts, f'breaker={self.breaker}'])})"

    def __reduce__(self) -> Any:
        options: dict[str, Any] = {
            "before": self.before,
            "sticky": self.sticky,
            "breaker": self.breaker,
        }
        return functools.partial(Router, *self.checks, **options), ()

    def over(self, model: str | os.PathLike[str] | ChatEngine, **options: Any) -> RoutedEngine:
        """An engine that answers like ``model`` and passes only what this router accepts.

        For places that take an engine and have a fallback of their own, such as LiteLLM::

            slm_adapters.litellm.register({"triage": Router(Copied("id")).over("bundled")})
        """
        from ..engine.loader import load_engine
        from .routed import RoutedEngine

        return RoutedEngine(load_engine(model, **options), self)

    # Before the answer

    def admit(
        self, engine: ChatEngine, request: ChatRequest, role: str | None, run: str | None
    ) -> None:
        """Raise ``NotAskedError`` when the fallback is to answer without asking ``engine``."""
        if self.sticky and run is not None and (run, role) in self._left:
            raise NotAskedError(engine.name, "sticky")
        if self.before is not None:
            reason = _why_not(self.before, request, refusal=True)
            if reason:
                raise NotAskedError(engine.name, reason)
        # Last: a probe that it lets through must also take place.
        if not self._circuit(engine).admits():
            raise NotAskedError(engine.name, "circuit_open")

    # After it

    def judge(self, answer: Answer, phase: Literal["alone", "sampled"] = "alone") -> None:
        """Raise ``RejectedReplyError`` if a check turns the answer down.

        ``phase``: the checks that need one answer, or those that compare samples of it.
        """
        for check in self.checks:
            if (samples_of(check) > 1) is (phase == "sampled"):
                reason = _why_not(check, answer, refusal=False)
                if reason:
                    error = RejectedReplyError(answer.completion.model, reason)
                    error.completion = answer.completion
                    raise error

    def ended(self, engine: ChatEngine, error: BaseException | None) -> None:
        """Tell the breaker how a call of ``engine`` ended."""
        circuit = self._circuit(engine)
        if error is None or isinstance(error, RejectedReplyError):
            circuit.succeeded()
        elif is_a_failure(error):
            circuit.failed()
        else:
            circuit.undecided()

    def gave_way(self, role: str | None, run: str | None) -> None:
        """The fallback answers for this role of this run; with ``sticky`` it goes on doing so."""
        if not self.sticky or run is None:
            return
        with self._lock:
            self._left[run, role] = None
            self._left.move_to_end((run, role))
            while len(self._left) > _RUNS_KEPT:
                self._left.popitem(last=False)

    # What the checks need

    @property
    def decides(self) -> bool:
        """Whether checks demand the whole answer before a piece of it is shown."""
        return bool(self.checks)

    @property
    def logprobs(self) -> bool:
        """Whether a check asks for the tokens' probability."""
        return any(getattr(check, "logprobs", False) for check in self.checks)

    @property
    def sampling(self) -> tuple[int, float]:
        """How many further answers the checks compare, and their temperature."""
        samplers = [check for check in self.checks if samples_of(check) > 1]
        temperatures = [float(getattr(check, "temperature", 0.7)) for check in samplers]
        return max(map(samples_of, samplers), default=1) - 1, max(temperatures, default=0.0)

    def _circuit(self, engine: ChatEngine) -> Circuit | _AlwaysClosed:
        if self.breaker is None:
            return _ALWAYS_CLOSED
        key = engine.identity
        with self._lock:
            if key not in self._circuits:
                self._circuits[key] = Circuit(self.breaker)
            return self._circuits[key]


class _AlwaysClosed:
    def admits(self) -> bool:
        return True

    def succeeded(self) -> None: ...
    def failed(self) -> None: ...
    def undecided(self) -> None: ...


_ALWAYS_CLOSED = _AlwaysClosed()


def _why_not(ask: Callable[[Any], str | bool | None], about: Any, *, refusal: bool) -> str | None:
    """The reason ``ask`` gives, if any. One that raises has not accepted anything."""
    try:
        said = ask(about)
    except Exception as error:
        warn_once(
            f"routing {_name_of(ask)}",
            f"the router's {_name_of(ask)} raised {type(error).__name__}: that counts as a "
            'refusal ("check_error"). Correct it, or let it return a reason.',
        )
        return "check_error"
    if isinstance(said, str):
        return said.strip()[:_LONGEST_REASON] or None
    if said is None or isinstance(said, bool):
        return _name_of(ask)[:_LONGEST_REASON] if said is refusal else None
    warn_once(
        f"routing {_name_of(ask)} said",
        f"the router's {_name_of(ask)} returned {type(said).__name__}: that counts as a refusal "
        '("check_error"). Let it return None, True, False or a reason.',
    )
    return "check_error"


def samples_of(check: Any) -> int:
    return int(getattr(check, "samples", 1))


def _name_of(check: Any) -> str:
    name = getattr(check, "__name__", None)
    return repr(check) if name is None else "check" if name == "<lambda>" else str(name)
