"""Merging symbols into tokens: the one loop behind byte-pair and SentencePiece vocabularies.

Both repeat the same step: of all neighbours that may merge, take the pair of best priority, the
leftmost of equals, and make it one symbol.

Source: llama.cpp, `llm_tokenizer_bpe_session` and `llm_tokenizer_spm_session`
(src/llama-vocab.cpp).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import pairwise

__all__ = ["merge"]

NEVER = float("inf")
MAX_SCANNED = 128  # symbols; beyond that a heap is faster than looking at all pairs again


def merge(symbols: list[str], priorities: Mapping[str, float], joint: str) -> list[str]:
    """Return `symbols` after all merges.

    Args:
        symbols: the parts of one word.
        priorities: when a pair merges, the lowest first; the key is `left + joint + right`.
        joint: what stands between the two parts in a key: a space in a list of merges, nothing
            where the key is the merged token itself.
    """
    if len(symbols) < 2:
        return symbols
    if len(symbols) > MAX_SCANNED:
        return merge_by_heap(symbols, priorities, joint)
    symbols = list(symbols)
    of = priorities.get
    ranks = [of(a + joint + b, NEVER) for a, b in pairwise(symbols)]
    while ranks:
        best = min(ranks)
        if best == NEVER:
            break
        at = ranks.index(best)
        symbols[at] += symbols.pop(at + 1)
        ranks.pop(at)
        if at:
            ranks[at - 1] = of(symbols[at - 1] + joint + symbols[at], NEVER)
        if at < len(ranks):
            ranks[at] = of(symbols[at] + joint + symbols[at + 1], NEVER)
    return symbols


def merge_by_heap(symbols: list[str], priorities: Mapping[str, float], joint: str) -> list[str]:
    """Do the same for many symbols, in time that grows little faster than their number."""
    texts: list[str] = list(symbols)
    before = list(range(-1, len(texts) - 1))
    after = [*range(1, len(texts)), -1]
    heap: list[tuple[float, int, int, str]] = []

    def consider(left: int, right: int) -> None:
        if left < 0 or right < 0:
            return
        rank = priorities.get(texts[left] + joint + texts[right])
        if rank is not None:
            heapq.heappush(heap, (rank, left, right, texts[left] + texts[right]))

    for left in range(len(texts) - 1):
        consider(left, left + 1)
    while heap:
        _, left, right, merged = heapq.heappop(heap)
        if not texts[left] or not texts[right] or texts[left] + texts[right] != merged:
            continue  # one of the two has merged otherwise meanwhile
        texts[left], texts[right] = merged, ""
        after[left] = after[right]
        if after[right] >= 0:
            before[after[right]] = left
        consider(before[left], left)
        consider(left, after[left])
    return [text for text in texts if text]
