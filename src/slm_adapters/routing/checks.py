"""Checks on an answer that is well formed already: is it also right?

Each is a callable like those you write yourself; pass them to ``Router``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..engine.engine import Completion
from ..telemetry import semconv
from ..telemetry.harmless import warn_once
from .answer import Answer

__all__ = ["Confident", "Consistent", "Copied", "Within"]

#: Allowed values of a field: a set, a (least, most) pair, a regular expression or a predicate.
Limit: TypeAlias = Set[Any] | tuple[float, float] | str | re.Pattern[str] | Callable[[Any], bool]


class Copied:
    """These fields' values stand in the prompt: nothing made up, nothing from an example.

    Without names, every text or number that the schema does not list as an enum. ``roles``: whose
    messages count; not the system's, where examples live.

        Router(Copied("order_id", "email"))
    """

    def __init__(self, *names: str, roles: Iterable[str] = ("user", "tool")) -> None:
        self.names, self.roles = names, tuple(roles)

    def __call__(self, answer: Answer) -> str | None:
        listed = frozenset() if self.names else frozenset(_enums(answer))
        prompt: str | None = None
        for name, value in answer.values():
            if self.names and name not in self.names:
                continue
            if isinstance(value, bool) or value is None or value == "" or value in listed:
                continue
            if prompt is None:
                messages = (m.text for m in answer.request.messages if m.role in self.roles)
                prompt = _plain("\n".join(messages))
            if not any(_stands_in(text, prompt) for text in _spellings(value)):
                return "not_copied"
        return None

    def __repr__(self) -> str:
        return f"Copied({', '.join(map(repr, self.names))})"


class Within:
    """Fields keep to what is allowed, beyond what the schema says.

    A limit is a set of values, a ``(least, most)`` pair, a regular expression for the whole text,
    or a function of the value.

        Router(Within(priority={"low", "high"}, amount=(0, 500), order_id=r"[A-Z]{2}-\\d+"))
    """

    def __init__(self, **limits: Limit) -> None:
        self.limits = limits
        for name, limit in limits.items():
            pair = isinstance(limit, tuple) and len(limit) == 2
            if not (pair or isinstance(limit, Set | str | re.Pattern) or callable(limit)):
                raise TypeError(
                    f"Within({name}={limit!r:.60}) is no limit: pass a set, a (least, most) pair, "
                    "a regular expression or a function."
                )
            if isinstance(limit, str):
                re.compile(limit)

    def __call__(self, answer: Answer) -> str | None:
        for name, value in answer.values():
            if name in self.limits and not _allows(self.limits[name], value):
                return "out_of_range"
        return None

    def __repr__(self) -> str:
        return f"Within({', '.join(f'{n}={limit!r}' for n, limit in self.limits.items())})"


@dataclass(frozen=True, slots=True)
class Confident:
    """The model was sure: geometric mean of its tokens' probabilities, and the lowest of them.

    The lowest is the sharper test of a tool call, whose braces and names are all but certain.
    """

    mean: float = 0.7
    lowest: float = 0.0

    @property
    def logprobs(self) -> bool:
        """Ask the engine for them."""
        return True

    def __call__(self, answer: Answer) -> str | None:
        mean = answer.attributes.get(semconv.CONFIDENCE)
        lowest = answer.attributes.get(semconv.CONFIDENCE_LOWEST, mean)
        if not isinstance(mean, int | float) or not isinstance(lowest, int | float):
            warn_once(
                "no confidence",
                f"{answer.completion.model} does not say how sure it is: every answer is turned "
                "down by Confident(). Use another check or engine.",
            )
            return "no_confidence"
        return None if mean >= self.mean and lowest >= self.lowest else "low_confidence"


@dataclass(frozen=True, slots=True)
class Consistent:
    """The answer is what the model mostly says: ``samples`` answers, the one given included.

    The further ones are drawn at ``temperature``, side by side, and cost their tokens.
    ``agreement``: the share that must be the same call, JSON value or text.
    """

    samples: int = 3
    agreement: float = 0.6
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.agreement <= 1 or self.temperature <= 0:
            raise ValueError(
                f"{self} decides nothing: pass samples >= 2, 0 < agreement <= 1, temperature > 0."
            )

    def __call__(self, answer: Answer) -> str | None:
        given = _meaning(answer.completion)
        drawn = answer.samples[: self.samples - 1]
        same = 1 + sum(_meaning(sample) == given for sample in drawn if sample is not None)
        return None if same / (1 + len(drawn)) >= self.agreement else "inconsistent"


def _meaning(completion: Completion) -> Any:
    """What two answers have in common when they say the same."""
    message = completion.reply.message
    if message.tool_calls:
        return [(c.name, json.dumps(c.parsed(), sort_keys=True)) for c in message.tool_calls]
    try:
        return json.dumps(json.loads(message.text), sort_keys=True)
    except ValueError:
        return _plain(message.text).strip()


def _allows(limit: Limit, value: Any) -> bool:
    if isinstance(limit, Set):
        return value in limit
    if isinstance(limit, tuple):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return limit[0] <= value <= limit[1]
    if isinstance(limit, str | re.Pattern):
        return isinstance(value, str) and re.fullmatch(limit, value) is not None
    return bool(limit(value))


# --- copied values --------------------------------------------------------------------------


def _plain(text: str) -> str:
    """One spelling for widths, cases, spaces and thousands: what a reader would call the same."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return re.sub(r"\s+", " ", text)


def _spellings(value: Any) -> Iterator[str]:
    text = _plain(str(value)).strip()
    yield text
    if isinstance(value, float) and value.is_integer():
        yield str(int(value))
    elif isinstance(value, float):
        # 12.5 may be written 12.50.
        yield f"{value:.2f}"


def _stands_in(text: str, prompt: str) -> bool:
    """Whole, not inside a longer word or number; scripts without spaces have no such borders."""
    before = r"(?<![a-z0-9])(?<!\d[.,])" if re.match(r"[a-z0-9]", text) else ""
    after = r"(?![a-z0-9]|[.,]\d)" if re.search(r"[a-z0-9]$", text) else ""
    return re.search(before + re.escape(text) + after, prompt) is not None


def _enums(answer: Answer) -> Iterator[str]:
    """The texts a schema lists: chosen, not copied."""
    schemas: list[Any] = [tool.parameters for tool in answer.request.tools]
    schemas.append(answer.request.response_format)
    while schemas:
        schema = schemas.pop()
        if isinstance(schema, dict):
            listed = [*_list(schema.get("enum")), schema.get("const"), schema.get("default")]
            yield from (item for item in listed if isinstance(item, str))
            schemas.extend(schema.values())
        elif isinstance(schema, list):
            schemas.extend(schema)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
