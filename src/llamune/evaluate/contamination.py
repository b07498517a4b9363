"""Test questions that a model has seen in training: their scores say nothing.

Source: the 13-gram rule of GPT-3 (arXiv:2005.14165, appendix C) and datatrove, with 30
characters in place of 13 words where a text has no spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llamune.evaluate.items import Item
from llamune.evaluate.normal import normalised, words_of

__all__ = ["Overlap", "overlaps"]

N_WORDS = 13
N_CHARACTERS = 30


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A test item found in the training data.

    Attributes:
        place: the item's number, from 0.
        kind: the same question, or a long run of the same words.
    """

    place: int
    kind: Literal["same question", "shared text"]


def overlaps(items: Sequence[Item], training: Iterable[tuple[str, str]]) -> list[Overlap]:
    """Return the items that training data hold.

    Args:
        items: the test.
        training: question and answer of each training record.
    """
    questions: set[str] = set()
    runs: set[int] = set()
    for question, answer in training:
        questions.add(normalised(question))
        runs.update(runs_of(f"{question}\n{answer}"))
    found = []
    for place, item in enumerate(items):
        if normalised(item.question) in questions:
            found.append(Overlap(place=place, kind="same question"))
        elif not runs.isdisjoint(runs_of(f"{item.question}\n{item.expected[0]}")):
            found.append(Overlap(place=place, kind="shared text"))
    return found


def runs_of(text: str) -> Iterator[int]:
    """Yield a number for each long run of words; texts shorter than a run have none."""
    words = words_of(text)
    spaced = sum(len(word) > 1 for word in words) * 2 > len(words)
    length = N_WORDS if spaced else N_CHARACTERS
    for start in range(len(words) - length + 1):
        yield hash(tuple(words[start : start + length]))
