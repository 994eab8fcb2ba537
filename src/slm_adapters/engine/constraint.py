"""What one reply may say next: thoughts first, then a grammar, or free text up to a call.

``Plan`` is what a request asks for; ``Constraint`` follows one reply. The finished reply is
checked all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..calls import Tool
from ..telemetry.harmless import warn_once
from .call_formats import CallFormat
from .engine import ChatRequest
from .grammar import Grammars, Matcher
from .reply_grammar import asked_schema, reply_grammar
from .tool_formats import MARKERS

__all__ = ["Constraint", "Plan", "Thinking"]

_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Thinking:
    """``begun``: the prompt opened the thought; ``possible``: the model may open one itself."""

    begun: bool = False
    possible: bool = False

    def __bool__(self) -> bool:
        return self.begun or self.possible


@dataclass(frozen=True, slots=True)
class Plan:
    """``calls`` of these tools, JSON of ``schema`` or ReAct text with ``react`` tools.

    ``most_calls``: in one reply. ``at_once``: from the first word on; otherwise only after a
    trigger. ``banned``: texts that must not come up.
    """

    form: CallFormat
    calls: tuple[Tool, ...] = ()
    most_calls: int = 16
    schema: Any = None
    react: tuple[str, ...] = ()
    at_once: bool = False
    banned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.at_once or self.calls or self.banned)

    @classmethod
    def of(cls, request: ChatRequest, form: CallFormat) -> Plan:
        """What ``request`` asks of a model that calls tools in ``form``."""
        choice, schema = request.tool_choice, asked_schema(request.response_format)
        if choice == "none" or not request.tools:
            banned = MARKERS if request.tools and schema is None else ()
            react = request.react_tools if schema is None else ()
            at_once = schema is not None or bool(react)
            return cls(form, schema=schema, react=react, at_once=at_once, banned=banned)
        if choice == "auto":
            return cls(form, request.tools, schema=schema, at_once=schema is not None)
        if choice == "required":
            return cls(form, request.tools, at_once=True)
        named = tuple(tool for tool in request.tools if tool.name == choice)
        return cls(form, named, most_calls=1, at_once=True)

    @property
    def triggers(self) -> tuple[str, ...]:
        """Texts that begin a call in a reply of free text."""
        if self.at_once or not self.calls:
            return ()
        form = self.form
        if form.marker:
            return (form.marker,)
        # Nothing announces a call, so that only the whole beginning of one does.
        heads = [form.opening + form.before + tool.name + form.between for tool in self.calls]
        return tuple(head.rstrip() for head in heads)

    def matcher(self, grammars: Grammars, *, thought_before: bool) -> Matcher | None:
        """The grammar at its start; without the schemas where they are too much for it."""

        def make(loosely: bool) -> Any:
            tools = [Tool(t.name, "", {"type": "object"}) for t in self.calls]
            return lambda: reply_grammar(
                grammars.tokens,
                form=self.form,
                tools=tools if loosely else self.calls,
                most_calls=self.most_calls,
                schema={"type": "object"} if loosely and self.schema is not None else self.schema,
                react=self.react,
                thought_before=thought_before,
            )

        schemas = repr([(tool.name, tool.parameters) for tool in self.calls])
        key = (self.form, schemas, self.most_calls, repr(self.schema), self.react, thought_before)
        found = grammars.matcher(key, make(False))
        if found is None and self.form.arguments == "json":
            found = grammars.matcher((*key, "loose"), make(True))
            if found is not None:
                found.exact = False
        return found


class Constraint:
    """Follows one reply. The worker asks ``allowed`` and ``banned`` before each token."""

    def __init__(self, grammars: Grammars, plan: Plan, thinking: Thinking) -> None:
        #: Tokens of the reply; half of them are kept from the thoughts.
        self.limit = 1 << 30
        self._grammars, self._plan = grammars, plan
        self._thinking, self._in_thought = thinking, thinking.begun
        self._matcher = (
            plan.matcher(grammars, thought_before=bool(thinking)) if plan.at_once else None
        )
        self._pending = self._matcher is not None
        self._watched = plan.triggers + plan.banned
        self._longest = max(map(len, self._watched), default=1)
        self._tail, self._tokens = "", 0
        self._anywhere = bool(plan.form.marker) or bool(plan.banned)
        self._opening: Matcher | None = None
        self._verdicts: dict[tuple[str, bytes], bool] = {}

    @classmethod
    def of(cls, grammars: Grammars, plan: Plan, thinking: Thinking) -> Constraint | None:
        """None where nothing is asked for, or nothing can be enforced."""
        return cls(grammars, plan, thinking) if plan and grammars.usable else None

    @property
    def binds(self) -> bool:
        """Whether a grammar decides what is written, now or after the thoughts."""
        return self._matcher is not None

    @property
    def protects(self) -> bool:
        """Whether stop strings in what is written now are part of a structure."""
        return self._matcher is not None and not self._in_thought and not self._plan.react

    @property
    def holds_calls(self) -> bool:
        """Whether a call that is written now fits its tool, unless it is cut off."""
        return self._matcher is not None and self._matcher.exact and not self._in_thought

    @property
    def is_over(self) -> bool:
        """Whether the structure is complete and nothing can follow it."""
        return self._matcher is not None and not self._in_thought and self._matcher.is_over

    def opening(self) -> list[int]:
        """The tokens every reply begins with, for the prompt: reading is faster than writing."""
        if self._matcher is None or self._thinking:
            return []
        tokens = self._matcher.forced()
        return tokens if self._advance(tokens) else []

    def allowed(self) -> Any:
        """Bool ``[logits]``, or None for everything."""
        if self._matcher is None:
            return None
        if self._in_thought:
            return self._allowed_in_thought()
        row = self._matcher.allowed()
        if self._matcher.problem or not row.any():
            self._give_up(self._matcher.problem)
            return None
        if self._pending and self._thinking.possible and (token := self._id(_OPEN)) is not None:
            row[token] = True
        return row

    def banned(self) -> Collection[int]:
        """Ids not to choose now."""
        if self._in_thought:
            return self._grammars.ends if self._matcher is not None else ()
        if self._matcher is not None or not self._watched:
            return ()
        return self._completing()

    def accept(self, token: int) -> None:
        """A token was chosen."""
        self._tokens += 1
        if self._matcher is None or self._in_thought:
            return
        if self._pending and token == self._id(_OPEN):
            self._in_thought = True
            return
        if token not in self._grammars.ends:
            self._pending = False
            self._advance([token])

    def read(self, text: str, *, thinking: bool) -> None:
        """``text`` became visible; ``thinking``: a thought goes on behind it."""
        if self._in_thought and not thinking:
            self._in_thought = self._pending = False
            if self._matcher is not None and text.strip():
                self._advance(self._grammars.encode(text.lstrip()))
            return
        if self._matcher is not None or not self._watched or thinking:
            return
        self._tail += text
        self._look_for_trigger()
        if self._anywhere:
            self._tail = self._tail[-self._longest :]

    # --- thoughts -----------------------------------------------------------------------------

    def _allowed_in_thought(self) -> Any:
        """Everything; in the second half of the reply only its end, so that an answer fits."""
        close = self._id(_CLOSE)
        if close is None or self._tokens < self.limit // 2:
            return None
        import torch

        row = torch.zeros(self._grammars.size, dtype=torch.bool)
        row[close] = True
        return row

    def _id(self, text: str) -> int | None:
        return self._grammars.tokens.get(text)

    # --- triggers -----------------------------------------------------------------------------

    def _look_for_trigger(self) -> None:
        for trigger in self._plan.triggers:
            at = self._tail.find(trigger)
            if at >= 0 and (self._anywhere or not self._tail[:at].strip()):
                self._matcher = self._from_call()
                if self._matcher is not None:
                    self._advance(self._grammars.encode(self._tail[at:]))
                self._watched = ()
                return

    def _completing(self) -> Collection[int]:
        """Tokens that would complete a banned text, or a trigger with what cannot follow it."""
        if not self._anywhere and self._tail.strip() and not self._may_begin():
            self._watched = ()
            return ()
        found = self._grammars.vocabulary.completing(self._tail, self._watched)
        return {i for i, text, rest in found if self._forbids(text, rest)}

    def _may_begin(self) -> bool:
        begun = self._tail.lstrip()
        return any(t.startswith(begun) or begun.startswith(t) for t in self._watched)

    def _forbids(self, text: str, rest: bytes) -> bool:
        if text in self._plan.banned or not rest:
            return text in self._plan.banned
        if (text, rest) not in self._verdicts:
            start = self._from_call()
            tokens = self._grammars.encode(text + rest.decode(errors="replace"))
            self._verdicts[text, rest] = start is not None and not start.would_take(tokens)
        return self._verdicts[text, rest]

    def _from_call(self) -> Matcher | None:
        if self._opening is None:
            self._opening = self._plan.matcher(self._grammars, thought_before=False)
        return self._opening.copy() if self._opening else None

    # --- the matcher --------------------------------------------------------------------------

    def _advance(self, tokens: Sequence[int]) -> bool:
        assert self._matcher is not None
        if not tokens or self._matcher.take(list(tokens)):
            return True
        self._give_up(self._matcher.problem)
        return False

    def _give_up(self, problem: str) -> None:
        """Go on without the grammar; the check on the answer decides."""
        self._matcher, self._watched = None, ()
        warn_once(
            "grammar given up",
            "a reply went on without its grammar and is only checked when it is finished: "
            f"simplify the schema ({problem.splitlines()[0][:160] if problem else 'no way on'}).",
        )
