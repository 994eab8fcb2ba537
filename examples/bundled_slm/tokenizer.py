"""Train the tokenizer on generated tasks and write it with the chat template.

    python examples/bundled_slm/tokenizer.py

Byte-level BPE with a pre-tokenizer made for copying: every digit, every kanji, every katakana and
every capital letter that starts no word stands alone, and only the most common words carry their
leading space. So an id or a name has the same tokens in a sentence and in a JSON answer.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from chat import segments
from general import general_example
from tasks import demo_example
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from slm_adapters.demo import wordings

HERE = Path(__file__).parent
MODEL_FOLDER = HERE.parents[1] / "src" / "slm_adapters" / "models" / "bundled"
VOCABULARY = 4096
CONTEXT = 2048
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
MARKUP = ["<tool_call>", "</tool_call>", "<tools>", "</tools>"]
COMMON_WORDS = 400
PIECES = (
    r"\p{N}| (?:COMMON)(?![\p{Ll}_])|\p{Ll}+(?:_\p{Ll}+)*|\p{Lu}\p{Ll}+|JSON|MUST|\p{Lu}|\p{Han}|\p{Hiragana}+"
    r"|[\p{Katakana}ー]|\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)


def common_words() -> str:
    """A pattern of the most frequent words that are no part of a product.

    Grouped by the first letter: trying 400 alternatives at every space would be slow.
    """
    counts = Counter(
        word for text in texts(8000) for word in re.findall(r"(?<= )[a-z]+(?![a-z_])", text)
    )
    copied = {
        word for split in wordings.ITEMS["en"].values() for item in split for word in item.split()
    }
    words = sorted(word for word, _ in counts.most_common(COMMON_WORDS) if word not in copied)
    groups = groupby(words, key=lambda word: word[0])
    return "|".join(f"{first}(?:{'|'.join(word[1:] for word in group)})" for first, group in groups)


def texts(count: int) -> Iterator[str]:
    """Rendered training examples."""
    rng = random.Random(7)
    for i in range(count):
        example = (demo_example if i % 2 else general_example)(rng, "train")
        yield "".join(text for text, _ in segments(example.messages, example.tools))


def train(count: int) -> PreTrainedTokenizerFast:
    """A tokenizer fitted to ``count`` examples."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES.replace("COMMON", common_words())), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(MARKUP),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    tokenizer.train_from_iterator(texts(count), trainer)
    # Markup is part of an answer: a token of its own, but not one that decoding drops.
    tokenizer.add_tokens(MARKUP)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=(HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--examples", type=int, default=60_000)
    options = parser.parse_args()
    tokenizer = train(options.examples)
    tokenizer.save_pretrained(options.out)
    print(f"{len(tokenizer)} tokens in {options.out}")


if __name__ == "__main__":
    main()
