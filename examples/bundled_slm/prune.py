"""Take words out of the tokenizer that training never let the model write.

    python examples/bundled_slm/prune.py

A token that no answer held and hardly any prompt showed has an embedding close to its start, and
a model with tied embeddings cannot copy it. Without its merge such a word is spelled in smaller
pieces, which the model does know. Ids stay as they are, so the weights still fit. Run after
``tokenizer.py`` and before, or after, ``train.py``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from chat import segments
from general import general_example
from tasks import demo_example
from tokenizers import Tokenizer

TOKENIZER = (
    Path(__file__).parents[2] / "src" / "slm_adapters" / "models" / "bundled" / "tokenizer.json"
)


#: Times a word is read in the sample that count as seldom; never at all: a part of longer words.
SELDOM = range(5, 300)
#: Tokens of the sample (about 42 million) that one family may cover.
FAMILY = 2_000


def counts(tokenizer: Tokenizer, examples: int) -> tuple[Counter[int], Counter[int]]:
    """How often each token is read in prompts and written in answers."""
    rng, read, written = random.Random(5), Counter[int](), Counter[int]()
    for _ in range(examples):
        example = (demo_example if rng.random() < 0.5 else general_example)(rng, "train")
        for text, is_answer in segments(example.messages, example.tools):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            (written if is_answer else read).update(ids)
    return read, written


def unwritable(model: dict[str, Any], read: Counter[int], written: Counter[int]) -> set[str]:
    """Words no answer held and few prompts showed, each with all that is built on it.

    A family is left alone when taking it out would change how more than ``FAMILY`` tokens of the
    sample are spelled: the model knows those as they are.
    """
    vocabulary, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    users: dict[str, set[str]] = defaultdict(set)
    for left, right in merges:
        users[left].add(left + right)
        users[right].add(left + right)
    found: set[str] = set()
    for token in {left + right for left, right in merges}:
        number = vocabulary[token]
        is_word = token.isascii() and token.isalpha() and token.islower()
        if not is_word or written[number] or read[number] not in SELDOM:
            continue
        family, open_ends = {token}, [token]
        while open_ends:
            fresh = users[open_ends.pop()] - family
            family |= fresh
            open_ends += fresh
        if sum(read[vocabulary[t]] + written[vocabulary[t]] for t in family) < FAMILY:
            found |= family
    return found


def main() -> None:
    """Count, prune, write the tokenizer back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=137_286)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.tokenizer))
    read, written = counts(tokenizer, options.examples)
    data = json.loads(options.tokenizer.read_text(encoding="utf-8"))
    merges = data["model"]["merges"]
    unwanted = unwritable(data["model"], read, written)
    data["model"]["merges"] = [merge for merge in merges if "".join(merge) not in unwanted]
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    options.tokenizer.write_text(text, encoding="utf-8")
    print(f"{len(merges) - len(data['model']['merges'])} of {len(merges)} merges taken out")


if __name__ == "__main__":
    main()
