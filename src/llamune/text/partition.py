"""Special tokens in a text: where they stand, the longest first, as llama.cpp finds them.

It goes through the special tokens from the longest to the shortest and cuts each out of what is
still plain text, the leftmost first. A search for the leftmost longest would differ where two
overlap.

Source: llama.cpp, `llama_vocab::impl::tokenizer_st_partition` (src/llama-vocab.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["Partition"]

WHITE = " \t\n\v\f\r"  # C's isspace


class Partition:
    """Cuts texts at the special tokens of a vocabulary.

    Args:
        texts: the special tokens, id by text.
        right_strip: ids of tokens that swallow white space after them.
        left_strip: ids of tokens that swallow white space before them.
    """

    def __init__(
        self,
        texts: Mapping[str, int],
        *,
        right_strip: frozenset[int] = frozenset(),
        left_strip: frozenset[int] = frozenset(),
    ) -> None:
        self.right_strip = right_strip
        self.left_strip = left_strip
        self.texts = texts
        self.lengths: dict[str, list[int]] = {}  # by first character
        for text in texts:
            lengths = self.lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        starts = "".join(map(re.escape, self.lengths))
        self.start = re.compile(f"[{starts}]") if starts else None

    def __call__(self, text: str) -> list[str | int]:
        """Return the plain parts of `text` and the ids of the special tokens, in order."""
        found = self.occurrences(text)
        if not found:
            return [text] if text else []
        free = bytearray(b"\x01") * len(text)
        taken: list[tuple[int, int, int]] = []
        for _, start, end, id_ in sorted(found):
            if not all(free[start:end]):
                continue
            low, high = start, end
            if id_ in self.left_strip:
                while low and free[low - 1] and text[low - 1] in WHITE:
                    low -= 1
            if id_ in self.right_strip:
                while high < len(text) and free[high] and text[high] in WHITE:
                    high += 1
            free[low:high] = bytes(high - low)
            taken.append((low, high, id_))
        return list(parts(text, sorted(taken)))

    def occurrences(self, text: str) -> list[tuple[int, int, int, int]]:
        """Return (rank of the length, start, end, id) wherever a special token stands."""
        if self.start is None:
            return []
        found = []
        for match in self.start.finditer(text):
            start = match.start()
            for length in self.lengths[match[0]]:
                end = start + length
                id_ = self.texts.get(text[start:end])
                if id_ is not None and end <= len(text):
                    found.append((-len(text[start:end].encode()), start, end, id_))
        return found


def parts(text: str, taken: Iterable[tuple[int, int, int]]) -> Iterable[str | int]:
    """Yield what lies between the taken places, and the ids at those places."""
    position = 0
    for low, high, id_ in taken:
        if low > position:
            yield text[position:low]
        yield id_
        position = high
    if position < len(text):
        yield text[position:]
