"""The grammar of a whole reply: calls in a family's format, JSON, or ReAct text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..calls import Tool
from .call_formats import CallFormat
from .lark_rules import Rules, alternatives
from .schema_grammar import ANY_OBJECT, enforceable
from .value_grammar import keyword_arguments, named_braces, xml_parameters

__all__ = ["asked_schema", "reply_grammar"]

_REACT = r"""
react: react_act REACT_NAME "\nAction Input: " react_input | react_end REACT_ANSWER
react_act[lazy]: REACT_ACT
react_end[lazy]: REACT_END
REACT_ACT: THOUGHT "\nAction: "
REACT_END: THOUGHT "\nFinal Answer: "
THOUGHT: /Thought:(?s:.{0,1200})/ & ~/(?s:.*)Observation(?s:.*)/
REACT_ANSWER: /(?s:.+)/
"""


def reply_grammar(
    tokens: Mapping[str, int],
    *,
    form: CallFormat | None = None,
    tools: Sequence[Tool] = (),
    most_calls: int = 16,
    schema: Any = None,
    react: Sequence[str] = (),
    thought_before: bool = False,
) -> tuple[str, frozenset[str]]:
    """Lark text of the replies allowed, and the schema keywords it does not enforce.

    Calls of ``tools``, JSON of ``schema``, ReAct text with tools named ``react``: any that is
    given. ``most_calls``: a model that repeats itself has to end. ``thought_before``: line
    breaks may come first.
    """
    rules, dropped, bodies = Rules(tokens), set[str](), []
    if form is not None and tools:
        bodies.append(_calls(rules, form, tools, most_calls, dropped))
    if schema is not None:
        simple = enforceable(schema)
        dropped |= simple.dropped
        bodies.append(rules.json(simple.schema))
    text = ""
    if react:
        rules.add("REACT_NAME", alternatives([rules.text(name) for name in react]))
        rules.add("react_input", rules.json(ANY_OBJECT))
        bodies.append("react")
        text = _REACT
    start = alternatives(bodies)
    if thought_before:
        start = r"/\n{0,2}/ " + start
    return f"start: {start}\n{rules}{text}", frozenset(dropped)


def _calls(
    rules: Rules, form: CallFormat, tools: Sequence[Tool], most: int, dropped: set[str]
) -> str:
    options = []
    for tool in tools:
        # A tool without a description of its parameters takes none.
        simple = enforceable({**(tool.parameters or {"properties": {}}), "type": "object"})
        dropped |= simple.dropped
        arguments = _arguments(rules, form, simple.schema)
        texts = rules.text(form.before + tool.name + form.between), arguments
        options.append(rules.new(f"{' '.join(texts)} {rules.text(form.after)}"))
    call = rules.new(alternatives(options))
    body = f"{rules.text(form.opening)} {call}"
    if form.separator is not None and most > 1:
        body += f" ({rules.text(form.separator)} {call}){{0,{most - 1}}}"
    return rules.new(f"{body} {rules.text(form.closing)}")


def _arguments(rules: Rules, form: CallFormat, schema: dict[str, Any]) -> str:
    if form.arguments == "xml":
        return xml_parameters(rules, schema)
    if form.arguments == "python":
        return keyword_arguments(rules, schema)
    if form.arguments == "braces":
        return named_braces(rules, schema, form)
    return rules.json(schema)


def asked_schema(response_format: Mapping[str, Any] | None) -> Any:
    """The schema of the JSON a reply is to be; None when it is to be text."""
    kind = (response_format or {}).get("type")
    if kind == "json_object":
        return ANY_OBJECT
    if kind == "json_schema" and response_format:
        return (response_format.get("json_schema") or {}).get("schema") or ANY_OBJECT
    return None
