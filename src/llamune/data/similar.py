"""Which records are the same, nearly the same, or contradict each other."""

from __future__ import annotations

import sys
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamune.data.records import Record
from llamune.data.signatures import N_BANDS, Signatures, common_lines, digest, jaccard

__all__ = ["BATCH_RECORDS", "NEAR", "SAMPLE_RECORDS", "Likeness", "Pairs", "groups_of"]

NEAR = 0.8
"""Jaccard similarity of 5-character runs from which two records count as nearly the same."""

SAMPLE_RECORDS = 2000
BATCH_RECORDS = 512
NO_QUESTION = np.uint64(int.from_bytes(digest(""), sys.byteorder))
"""The hash of no question: plain text asks none."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Records and, for each, an earlier one that it is like; by the place of the later.

    Attributes:
        later: places of the records.
        earlier: places of those before them.
        likeness: Jaccard similarity, 1 for the same; shape as the places.
    """

    later: Places
    earlier: Places
    likeness: npt.NDArray[np.float32]

    @classmethod
    def same(cls, later: Places, earlier: Places) -> Pairs:
        """Return pairs of records that are the same."""
        return cls(later=later, earlier=earlier, likeness=np.ones(len(later), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.later)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(
            later=self.later[chosen], earlier=self.earlier[chosen], likeness=self.likeness[chosen]
        )

    def one_each(self) -> Pairs:
        """Return the first pair of each later record, in order."""
        later, first = np.unique(self.later, return_index=True)
        return Pairs(later=later, earlier=self.earlier[first], likeness=self.likeness[first])


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
        return firsts(self.signatures.column("whole"))

    @cached_property
    def near_pairs(self) -> Pairs:
        """Pairs of different records at `NEAR` or above, each record with an earlier one."""
        ends = self.signatures.column("ends")

        @lru_cache(maxsize=4096)
        def text(place: int) -> str:
            return self.signatures.text(place, ends)

        candidates = self.candidates()
        likeness = array("f", (jaccard(text(int(a)), text(int(b))) for a, b in candidates))
        compared = Pairs(
            later=candidates[:, 1],
            earlier=candidates[:, 0],
            likeness=np.asarray(likeness, dtype=np.float32),
        )
        return compared.where(compared.likeness >= np.float32(NEAR))

    def duplicates(self) -> Pairs:
        """Return the training records that repeat an earlier training record word for word."""
        first = firsts(self.signatures.column("whole")[self.n_held_out :])
        later = np.flatnonzero(first != np.arange(len(first)))
        return Pairs.same(later + self.n_held_out, first[later] + self.n_held_out)

    def near_duplicates(self) -> Pairs:
        """Return the training records that nearly repeat an earlier training record."""
        pairs = self.near_pairs
        return pairs.where(pairs.earlier >= self.n_held_out).one_each()

    def overlaps(self) -> Pairs:
        """Return the training records that repeat a held-out one, its question, or nearly it."""
        pairs = self.near_pairs
        crossing = (pairs.earlier < self.n_held_out) & (pairs.later >= self.n_held_out)
        found = [
            self.of_held_out(self.first_same),
            self.of_held_out(firsts(self.signatures.column("question")), asked=True),
            pairs.where(crossing),
        ]
        return Pairs(
            later=np.concatenate([part.later for part in found]),
            earlier=np.concatenate([part.earlier for part in found]),
            likeness=np.concatenate([part.likeness for part in found]),
        ).one_each()

    def of_held_out(self, first: Places, *, asked: bool = False) -> Pairs:
        """Return the training records whose first like is held out.

        Args:
            first: for each record the place of the first that is like it.
            asked: whether records that ask nothing are left out.
        """
        chosen = first < self.n_held_out
        chosen[: self.n_held_out] = False
        if asked:
            chosen &= self.signatures.column("question") != NO_QUESTION
        later = np.flatnonzero(chosen)
        return Pairs.same(later, first[later])

    def contradictions(self) -> Pairs:
        """Return the training records that answer an earlier question otherwise."""
        question = self.signatures.column("question")[self.n_held_out :]
        answer = self.signatures.column("answer")[self.n_held_out :]
        first = firsts(question)
        later = np.flatnonzero((answer != answer[first]) & (question != NO_QUESTION))
        return Pairs.same(later + self.n_held_out, first[later] + self.n_held_out)

    def candidates(self) -> Places:
        """Return pairs of places that share a band, the earlier first, in order.

        Within a band each record is paired with the one before it and with the band's first;
        of records with the same words only the first takes part.

        Returns:
            Shape (pairs, 2), ordered by the later place.
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
        return pairs[np.argsort(pairs[:, 1], kind="stable")]


def firsts(values: npt.NDArray[np.generic]) -> Places:
    """Return for each value the place where it stands first."""
    if not len(values):
        return np.empty(0, dtype=np.int64)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    places: Places = first[inverse].astype(np.int64)
    return places


def groups_of(records: Sequence[Record]) -> list[int]:
    """Return a group number for each record; those that are alike share one.

    Alike are records with the same question, and exact and near duplicates, in chains.
    """
    with tempfile.TemporaryDirectory(prefix="llamune-") as scratch:
        signatures = Signatures(Path(scratch), common_lines(records[:SAMPLE_RECORDS]))
        for start in range(0, len(records), BATCH_RECORDS):
            signatures.add(records[start : start + BATCH_RECORDS])
        signatures.close()
        likeness = Likeness(signatures)
        question = signatures.column("question")
        asked = np.where(question != NO_QUESTION, firsts(question), np.arange(len(question)))
        links = [*zip(likeness.near_pairs.later, likeness.near_pairs.earlier, strict=True)]
        links += [(place, int(first)) for place, first in enumerate(asked)]
        links += [(place, int(first)) for place, first in enumerate(likeness.first_same)]
    return joined_groups(len(records), links)


def joined_groups(n_records: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Return for each record the first one that links lead to, directly or in a chain."""
    parent = list(range(n_records))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for one, other in links:
        left, right = root(int(one)), root(int(other))
        parent[max(left, right)] = min(left, right)
    return [root(place) for place in range(n_records)]
