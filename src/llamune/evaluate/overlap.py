"""How much two texts overlap: chrF and ROUGE-L.

Sources: Popović 2015 (chrF; character n-grams to 6, beta 2, as sacrebleu's default computes a
sentence); Lin 2004 (ROUGE-L, F1).
"""

from __future__ import annotations

from collections import Counter

from llamune.evaluate.normal import words_of

__all__ = ["chrf", "rouge_l"]

MAX_N = 6
BETA = 2.0


def chrf(answer: str, expected: str) -> float:
    """Return the character n-gram F-score of an answer, 0 to 1.

    Orders for which either text is too short do not count.
    """
    said, wanted = "".join(answer.split()), "".join(expected.split())
    if not said or not wanted:
        return float(said == wanted)
    precisions, recalls = [], []
    for n in range(1, MAX_N + 1):
        found, reference = n_grams(said, n), n_grams(wanted, n)
        if not found or not reference:
            continue
        shared = (found & reference).total()
        precisions.append(shared / found.total())
        recalls.append(shared / reference.total())
    precision, recall = mean(precisions), mean(recalls)
    if precision + recall == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def n_grams(text: str, n: int) -> Counter[str]:
    """Count the runs of `n` characters in a text."""
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


def mean(values: list[float]) -> float:
    """Return the mean of some numbers."""
    return sum(values) / len(values)


def rouge_l(answer: str, expected: str) -> float:
    """Return the F1 of the longest common subsequence of words, 0 to 1.

    Japanese and Chinese count a character at a time.
    """
    said, wanted = words_of(answer), words_of(expected)
    if not said or not wanted:
        return float(said == wanted)
    return 2 * longest_common(said, wanted) / (len(said) + len(wanted))


def longest_common(one: list[str], other: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, candidate in enumerate(other, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == candidate else max(above, row[place - 1])
            diagonal = above
    return row[-1]
