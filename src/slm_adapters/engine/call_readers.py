"""Readers of tool-call bodies, one per way of writing; each raises ``ValueError`` for another's."""

from __future__ import annotations

import ast
import re
from typing import Any

from .json_repair import read_json

__all__ = [
    "NameAndArguments",
    "XmlText",
    "fenced_body",
    "json_body",
    "json_call",
    "mistral_body",
    "pythonic_body",
    "pythonic_or_json",
    "tool_call_body",
    "xml_body",
]

#: Name and arguments as written; the arguments of a well-formed call are a dict.
NameAndArguments = tuple[str, Any]


def json_body(body: str) -> list[NameAndArguments]:
    """One or more JSON calls: an object, an array, or objects one after the other."""
    calls: list[NameAndArguments] = []
    at = 0
    while body[at:].strip(" \t\r\n;,"):
        at += len(body[at:]) - len(body[at:].lstrip(" \t\r\n;,"))
        value, at = read_json(body, at)
        for item in value if isinstance(value, list) else [value]:
            calls.append(json_call(item))
    if not calls:
        raise ValueError("no call in an empty body")
    return calls


def json_call(item: Any) -> NameAndArguments:
    if not isinstance(item, dict):
        raise ValueError("a tool call is a JSON object")
    inner = item.get("function")
    if isinstance(inner, dict):
        item = inner
    name = item.get("name") or (inner if isinstance(inner, str) else None)
    if not isinstance(name, str):
        raise ValueError("a tool call has a name")
    for key in ("arguments", "parameters", "args"):
        if key in item:
            return name, _unquoted(item[key])
    if set(item) - {"name", "id", "type", "function"}:
        raise ValueError("a tool call has arguments")
    return name, {}


def _unquoted(arguments: Any) -> Any:
    """Arguments written as a JSON string are the object inside it."""
    if isinstance(arguments, str):
        try:
            return read_json(arguments)[0] if arguments.strip() else {}
        except ValueError:
            return arguments
    return {} if arguments is None else arguments


_FUNCTION = re.compile(r"<function=([^>\s]+)\s*>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(
    r"<parameter=([^>\s]+)\s*>(.*?)(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL
)


def xml_body(body: str) -> list[NameAndArguments]:
    """``<function=name><parameter=key>value</parameter></function>``, or JSON inside."""
    calls: list[NameAndArguments] = []
    for name, inner in _FUNCTION.findall(body):
        if inner.strip().startswith("{"):
            calls.append((name, read_json(inner)[0]))
        else:
            pairs = _PARAMETER.findall(inner)
            calls.append((name, {key: XmlText(_one_line_break(v)) for key, v in pairs}))
    if not calls:
        raise ValueError("no <function=...> in the body")
    return calls


class XmlText(str):
    """Text whose type only the tool's schema knows."""


def _one_line_break(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def tool_call_body(body: str) -> list[NameAndArguments]:
    return xml_body(body) if "<function=" in body else json_body(body)


_MISTRAL = re.compile(
    r"\s*(?:\[TOOL_CALLS\]\s*)?([\w.-]+)(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?={)"
)


def mistral_body(body: str) -> list[NameAndArguments]:
    """A JSON array of calls, or ``name[ARGS]{...}`` repeated."""
    if body.lstrip().startswith(("[{", "{", "[ {")):
        return json_body(body)
    calls: list[NameAndArguments] = []
    at = 0
    while body[at:].strip():
        name = _MISTRAL.match(body, at)
        if name is None:
            raise ValueError("no name before the arguments")
        arguments, at = read_json(body, name.end())
        calls.append((name.group(1), arguments))
    return calls


def pythonic_body(body: str) -> list[NameAndArguments]:
    """``[f(a=1), g(b="x")]``: literals only, nothing is evaluated."""
    try:
        tree = ast.parse(body.strip(), mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        calls = [_pythonic_call(node) for node in nodes]
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("not a list of Python calls") from error
    if not calls:
        raise ValueError("an empty list holds no call")
    return calls


def _pythonic_call(node: ast.expr) -> NameAndArguments:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise ValueError("a call has keyword arguments only")
    arguments = {str(word.arg): _literal(word.value) for word in node.keywords}
    return ast.unparse(node.func), arguments


def _literal(node: ast.expr) -> Any:
    json_words = {"true": True, "false": False, "null": None}
    if isinstance(node, ast.Name) and node.id in json_words:
        return json_words[node.id]
    return ast.literal_eval(node)


def pythonic_or_json(body: str) -> list[NameAndArguments]:
    try:
        return json_body(body)
    except ValueError:
        return pythonic_body(body)


def fenced_body(body: str) -> list[NameAndArguments]:
    return json_body(body.strip().removeprefix("json").removeprefix("tool_call"))
