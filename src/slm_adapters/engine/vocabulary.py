"""A tokenizer's tokens by their bytes: which of them would complete a given text."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Vocabulary"]


class Vocabulary:
    """Built on first use: a second's work for the largest vocabularies, a tenth for most."""

    def __init__(self, tokens: Iterable[bytes]) -> None:
        """``tokens``: the bytes of each id, in order."""
        self._tokens = tokens
        self._sorted: list[tuple[bytes, int]] | None = None
        self._holding: dict[bytes, list[tuple[bytes, int]]] = {}

    def _by_bytes(self) -> list[tuple[bytes, int]]:
        if self._sorted is None:
            self._sorted = sorted((token, index) for index, token in enumerate(self._tokens))
        return self._sorted

    def _beginning(self, start: bytes) -> Iterator[tuple[bytes, int]]:
        tokens = self._by_bytes()
        for at in range(bisect_left(tokens, (start, -1)), len(tokens)):
            if not tokens[at][0].startswith(start):
                return
            yield tokens[at]

    def _containing(self, text: bytes) -> list[tuple[bytes, int]]:
        if text not in self._holding:
            self._holding[text] = [item for item in self._by_bytes() if text in item[0]]
        return self._holding[text]

    def completing(self, tail: str, texts: Sequence[str]) -> Iterator[tuple[int, str, bytes]]:
        """Tokens after which ``tail`` would hold one of ``texts``.

        Yields ``(id, text, what the token has beyond it)``. ``tail``: the end of what was
        written, as much as may belong to one.
        """
        for text in texts:
            whole = text.encode()
            for token, index in self._containing(whole):
                yield index, text, token.partition(whole)[2]
            for length in range(1, len(text)):
                if tail.endswith(text[:length]):
                    rest = text[length:].encode()
                    for token, index in self._beginning(rest):
                        yield index, text, token[len(rest) :]
