"""Chat templates in the manner of the model families, and tiny random models that use them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_models import CHATML, tiny_model, tiny_tokenizer

#: Logits of the models: more than the tokenizers have tokens, as in many checkpoints.
LOGITS = 448

_SYSTEM = """\
{%- set said = messages[0].content if messages[0].role == 'system' else '' %}
{%- if said or tools %}{{- '<|im_start|>system\\n' + said }}
{%- if tools %}TOOLS{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' and message.tool_calls %}
{{- '<|im_start|>assistant\\n' + (message.content or '') }}CALLS{{- '<|im_end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_LISTED = "{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}"
_EACH = "{%- for call in message.tool_calls %}{%- set f = call.function %}"
_LIST = """{{- 'OPEN' }}{%- for call in message.tool_calls %}{%- set f = call.function %}
{{- ', ' if not loop.first }}
{{- '{"name": "' + f.name + '", "KEY": ' }}{{- f.arguments | tojson }}{{- 'ID}' }}
{%- endfor %}{{- 'CLOSE' }}"""


def _json_list(opening: str, closing: str, key: str = "arguments", call_id: str = "") -> str:
    text = _LIST.replace("OPEN", opening).replace("CLOSE", closing).replace("KEY", key)
    return text.replace("'ID}'", call_id or "'}'")


def _template(calls: str, told: str = "") -> str:
    tools = _LISTED + (f"{{{{- {told!r} }}}}" if told else "")
    return _SYSTEM.replace("TOOLS", tools).replace("CALLS", calls)


_XML = (
    _EACH
    + """{{- '\\n' if not loop.first }}{{- '<tool_call>\\n<function=' + f.name + '>\\n' }}
{%- for key, value in f.arguments.items() %}{{- '<parameter=' + key + '>\\n' }}
{{- value if value is string else value | tojson }}{{- '\\n</parameter>\\n' }}{%- endfor %}
{{- '</function>\\n</tool_call>' }}{%- endfor %}"""
)
_MISTRAL_ARGS = (
    _EACH + "{{- '[TOOL_CALLS]' + f.name + '[ARGS]' }}{{- f.arguments | tojson }}{%- endfor %}"
)
_TAG = (
    _EACH
    + "{{- '\\n' if not loop.first }}{{- '<function=' + f.name + '>' }}"
    + "{{- f.arguments | tojson }}{{- '</function>' }}{%- endfor %}"
)
_ONE = """{%- if message.tool_calls | length > 1 %}
{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}
{%- set f = message.tool_calls[0].function %}
{{- 'MARK{"name": "' + f.name + '", "parameters": ' }}{{- f.arguments | tojson }}{{- '}' }}"""
_BRACES = """{%- macro put(value) %}
{%- if value is string %}{{- 'QUOTE' + value + 'QUOTE' }}
{%- elif value is boolean %}{{- 'true' if value else 'false' }}
{%- elif value is none %}{{- 'null' }}
{%- elif value is mapping %}{{- '{' }}
{%- for key, item in value.items() %}{{- ',' if not loop.first }}{{- key + ':' + put(item) }}
{%- endfor %}{{- '}' }}
{%- elif value is iterable %}{{- '[' }}
{%- for item in value %}{{- ',' if not loop.first }}{{- put(item) }}{%- endfor %}{{- ']' }}
{%- else %}{{- value }}{%- endif %}{%- endmacro %}
{%- for call in message.tool_calls %}{%- set f = call.function %}
{{- 'OPENcall:' + f.name + put(f.arguments) + 'CLOSE' }}{%- endfor %}"""
_PYTHON = """{%- macro put(value) %}
{%- if value is string %}{{- value | tojson }}
{%- elif value is boolean %}{{- 'True' if value else 'False' }}
{%- elif value is none %}{{- 'None' }}
{%- elif value is mapping %}{{- '{' }}
{%- for key, item in value.items() %}{{- ', ' if not loop.first }}
{{- (key | tojson) + ': ' + put(item) }}{%- endfor %}{{- '}' }}
{%- elif value is iterable %}{{- '[' }}
{%- for item in value %}{{- ', ' if not loop.first }}{{- put(item) }}{%- endfor %}{{- ']' }}
{%- else %}{{- value }}{%- endif %}{%- endmacro %}
{{- 'OPEN' }}{%- for call in message.tool_calls %}{%- set f = call.function %}
{{- 'SEP' if not loop.first }}{{- f.name + '(' }}
{%- for key, value in f.arguments.items() %}{{- ', ' if not loop.first }}
{{- key + '=' + put(value) }}{%- endfor %}{{- ')' }}{%- endfor %}{{- 'CLOSE' }}"""


def _braces(opening: str, closing: str, quote: str) -> str:
    return _BRACES.replace("OPEN", opening).replace("CLOSE", closing).replace("QUOTE", quote)


def _python(opening: str, separator: str, closing: str) -> str:
    text = _PYTHON.replace("OPEN", opening).replace("CLOSE", closing)
    return text.replace("SEP", separator)


@dataclass(frozen=True)
class Family:
    """``template``, and the ``tokens`` that the family's vocabulary has for its calls."""

    template: str
    tokens: tuple[str, ...] = ()


#: By the name under which the format is to be found.
FAMILIES = {
    "hermes": Family(CHATML, ("<tool_call>", "</tool_call>")),
    "xml": Family(_template(_XML), ("<tool_call>", "</tool_call>")),
    "function_tag": Family(_template(_TAG)),
    "lfm2": Family(
        # Its template renders no calls: the token alone tells.
        _template(""), ("<|tool_call_start|>", "<|tool_call_end|>")
    ),
    "olmo": Family(_template(_python("<function_calls>", "\\n", "</function_calls>"))),
    "phi4": Family(
        _template("", "Write a call as <|tool_call|>[{...}]<|/tool_call|>"),
        ("<|tool_call|>", "<|/tool_call|>"),
    ),
    "nemotron": Family(_template(_json_list("<TOOLCALL>[", "]</TOOLCALL>"))),
    "mistral_args": Family(_template(_MISTRAL_ARGS), ("[TOOL_CALLS]", "[ARGS]")),
    "mistral": Family(
        _template(
            _json_list("[TOOL_CALLS][", "]", call_id="""', "id": "' + call.id + '"}'""")
        ),
        ("[TOOL_CALLS]",),
    ),
    "function_gemma": Family(
        _template(_braces("<start_function_call>", "<end_function_call>", "<escape>")),
        ("<start_function_call>", "<end_function_call>", "<escape>"),
    ),
    "gemma4": Family(
        _template(_braces("<|tool_call>", "<tool_call|>", '<|"|>')),
        ("<|tool_call>", "<tool_call|>", '<|"|>'),
    ),
    "python_tag": Family(_template(_ONE.replace("MARK", "<|python_tag|>")), ("<|python_tag|>",)),
    "llama_json": Family(_template(_ONE.replace("MARK", ""))),
    "xlam": Family(_template(_json_list("[", "]"))),
    "pythonic": Family(_template(_python("[", ", ", "]"))),
    # Nobody's: found by what its template writes, or told to the model.
    "probed": Family(_template(_json_list("<calls>", "</calls>", "input")), ("<calls>",)),
    "generic": Family(
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}"
        "{{- '<|im_end|>\\n' }}{%- endfor %}{{- '<|im_start|>assistant\\n' }}"
    ),
}  # fmt: skip


def family_tokenizer(family: Family) -> Any:
    """A tiny tokenizer with the family's template and tokens, special as they mostly are."""
    tokenizer = tiny_tokenizer(family.template)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", *family.tokens]},
    )
    return tokenizer


def family_model(folder: Path, weights: Path, family: Family) -> Path:
    """A random model of the family: the ``weights`` of another, with its own tokenizer."""
    shutil.copytree(weights, folder)
    family_tokenizer(family).save_pretrained(folder)
    return folder


def random_weights(folder: Path) -> Path:
    """Weights that any family's tokenizer fits."""
    return tiny_model(folder, vocab_size=LOGITS)


def script(engine: Any, monkeypatch: Any, *texts: str) -> None:
    """Let the model want these replies, one after the other: each token scores highest where it
    may be chosen, and when there are none left, what the grammar asks for comes to an end."""
    import torch

    loaded, left = engine._handle.loaded(), list(texts)
    replies: dict[Any, list[int]] = {}

    def choose(generations: Any, masks: Any = None, bans: Any = None) -> list[int]:
        (generation,), (mask,), (ban,) = generations, masks, bans
        if generation not in replies:
            replies[generation] = [*loaded.encode(left.pop(0)), loaded.end_ids[0]]
        scores = torch.zeros(loaded.grammars.size)
        scores[[*loaded.encode('"'), *loaded.encode("}")]] = 0.5
        if replies[generation]:
            scores[replies[generation].pop(0)] = 1.0
        if mask is not None:
            scores[~mask] = -torch.inf
        scores[list(ban)] = -torch.inf
        return [int(scores.argmax())]

    monkeypatch.setattr(loaded.decoder, "choose", choose)
