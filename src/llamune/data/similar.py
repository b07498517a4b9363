"""Which records are the same, nearly the same, or contradict each other."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamune.data.records import Record
from llamune.data.signatures import N_BANDS, Signatures, common_lines, digest, jaccard

__all__ = ["NEAR", "Likeness", "groups_of"]

NEAR = 0.8
"""Jaccard similarity of 5-character runs from which two records count as nearly the same."""

SAMPLE_RECORDS = 2000
BATCH_RECORDS = 512
PAIRS_AT_A_TIME = 1 << 20

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A record and an earlier one that it is like.

    Attributes:
        later: place of the record.
        earlier: place of the one before it.
        likeness: Jaccard similarity; 1 for the same.
    """

    later: int
    earlier: int
    likeness: float


class Likeness:
    """Compares all records once their signatures are written.

    Held-out records come first among the signatures, so that a training record that is like
    one of them is the later one.

    Args:
        signatures: of all records, closed.
        n_held_out: how many of the first are held out.
    """

    def __init__(self, signatures: Signatures, *, n_held_out: int = 0) -> None:
        self.signatures = signatures
        self.n_held_out = n_held_out

    @cached_property
    def first_same(self) -> Places:
        """For each record the place of the first with the same words; its own if it is first."""
        return firsts(self.signatures.wholes())

    @cached_property
    def near_pairs(self) -> list[Pair]:
        """Pairs of different records at `NEAR` or above, each record with an earlier one."""
        return sorted(self.compared(), key=lambda pair: (pair.later, pair.earlier))

    @cached_property
    def groups(self) -> Places:
        """For each record the place of the first record that it is like, directly or in a chain."""
        parent = self.first_same.copy()

        def root(place: int) -> int:
            while parent[place] != place:
                parent[place] = parent[parent[place]]
                place = int(parent[place])
            return place

        for pair in self.near_pairs:
            left, right = root(pair.later), root(pair.earlier)
            parent[max(left, right)] = min(left, right)
        return np.array([root(place) for place in range(len(parent))], dtype=np.int64)

    def duplicates(self) -> list[Pair]:
        """Return the training records that repeat an earlier training record word for word."""
        firsts_here = firsts(self.signatures.wholes()[self.n_held_out :]) + self.n_held_out
        later = np.flatnonzero(firsts_here != np.arange(len(firsts_here)) + self.n_held_out)
        return [
            Pair(later=int(at) + self.n_held_out, earlier=int(firsts_here[at]), likeness=1.0)
            for at in later
        ]

    def near_duplicates(self) -> list[Pair]:
        """Return the training records that nearly repeat an earlier training record."""
        return one_each(pair for pair in self.near_pairs if pair.earlier >= self.n_held_out)

    def overlaps(self) -> list[Pair]:
        """Return the training records that repeat a held-out one, exactly or nearly."""
        same = self.first_same
        exact = [
            Pair(later=int(at), earlier=int(same[at]), likeness=1.0)
            for at in np.flatnonzero(same < self.n_held_out)
            if at >= self.n_held_out
        ]
        near = [pair for pair in self.near_pairs if pair.earlier < self.n_held_out <= pair.later]
        known = {pair.later for pair in exact}
        questions = [pair for pair in self.same_questions() if pair.later not in known]
        return one_each(iter(exact + questions + near))

    def same_questions(self) -> list[Pair]:
        """Return training records that ask a held-out question, whatever they answer."""
        if not self.n_held_out:
            return []
        question = self.signatures.column("question")
        first = firsts(question)
        blank = blank_question()
        return [
            Pair(later=int(at), earlier=int(first[at]), likeness=1.0)
            for at in np.flatnonzero(first < self.n_held_out)
            if at >= self.n_held_out and question[at] != blank
        ]

    def contradictions(self) -> list[Pair]:
        """Return the training records that answer an earlier question otherwise."""
        question = self.signatures.column("question")[self.n_held_out :]
        answer = self.signatures.column("answer")[self.n_held_out :]
        first = firsts(question)
        other = (answer != answer[first]) & (question != blank_question())
        return [
            Pair(
                later=int(at) + self.n_held_out,
                earlier=int(first[at]) + self.n_held_out,
                likeness=1.0,
            )
            for at in np.flatnonzero(other)
        ]

    def compared(self) -> Iterator[Pair]:
        """Compare the texts of records that share a band; yield those at `NEAR` or above."""
        ends = self.signatures.column("ends")

        @lru_cache(maxsize=4096)
        def text(place: int) -> str:
            return self.signatures.text(place, ends)

        for first, second in self.candidates():
            likeness = jaccard(text(int(first)), text(int(second)))
            if likeness >= NEAR:
                yield Pair(later=int(second), earlier=int(first), likeness=likeness)

    def candidates(self) -> Places:
        """Return pairs of places that share a band, the earlier first, in order.

        Within a band each record is paired with the one before it and with the band's first;
        of records with the same words only the first takes part.
        """
        alone = np.flatnonzero(self.first_same == np.arange(len(self.first_same)))
        pairs = np.empty((0, 2), dtype=np.int64)
        for band in range(N_BANDS):
            values = self.signatures.column(f"band{band}")[alone]
            order = np.argsort(values, kind="stable")
            values = values[order]
            shared = np.flatnonzero(values[1:] == values[:-1]) + 1
            starts = np.concatenate([[True], values[1:] != values[:-1]])
            heads = np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))
            found = np.concatenate(
                [
                    np.stack([order[shared - 1], order[shared]], axis=1),
                    np.stack([order[heads[shared]], order[shared]], axis=1),
                ]
            )
            pairs = np.unique(np.concatenate([pairs, np.sort(alone[found], axis=1)]), axis=0)
        return pairs


def one_each(pairs: Iterator[Pair]) -> list[Pair]:
    """Return the first pair of each later record, in order."""
    kept: dict[int, Pair] = {}
    for pair in pairs:
        kept.setdefault(pair.later, pair)
    return [kept[place] for place in sorted(kept)]


def firsts(values: npt.NDArray[np.generic]) -> Places:
    """Return for each value the place where it stands first."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    places: Places = first[inverse].astype(np.int64)
    return places


def blank_question() -> np.uint64:
    """Return the hash of no question: plain text asks none."""
    return np.uint64(int.from_bytes(digest("", 8), sys.byteorder))


def groups_of(records: Sequence[Record]) -> list[int]:
    """Return a group number for each record; those that are alike share one.

    Alike are records with the same question, and exact and near duplicates, in chains.
    """
    with tempfile.TemporaryDirectory(prefix="llamune-") as scratch:
        signatures = Signatures(Path(scratch), common_lines(records[:SAMPLE_RECORDS]))
        for start in range(0, len(records), BATCH_RECORDS):
            signatures.add(records[start : start + BATCH_RECORDS])
        signatures.close()
        groups = Likeness(signatures).groups
        question = signatures.column("question")
        question_first = firsts(question)
        blank = blank_question()
        merged = groups.copy()
        for place in np.flatnonzero(question_first != np.arange(len(question))):
            if question[place] == blank:
                continue
            old, new = merged[place], merged[question_first[place]]
            merged[merged == max(old, new)] = min(old, new)
        return [int(group) for group in merged]
