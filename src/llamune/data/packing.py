"""Several records in a row, without attention across them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from llamune.data.rendering import Rendered

__all__ = ["IGNORED", "Pack", "by_length", "pack", "padding_share"]

IGNORED = -100
"""The label of a token that the loss leaves out (torch's own default)."""


@dataclass(frozen=True)
class Pack:
    """A row of records for the trainer; all lists have one entry a token.

    Attributes:
        ids: token ids.
        labels: the token's own id where it is trained, else `IGNORED`; not shifted.
        position_ids: places counted from 0 in each record.
        segment_ids: which record of the row a token belongs to, counted from 0; attention
            stays within one.
    """

    ids: list[int]
    labels: list[int]
    position_ids: list[int]
    segment_ids: list[int]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each record in the row."""
        n_records = self.segment_ids[-1] + 1 if self.segment_ids else 0
        return [self.segment_ids.count(place) for place in range(n_records)]


def pack(rendered: Sequence[Rendered], length: int) -> list[Pack]:
    """Lay records into rows of at most `length` tokens, the longest first, each where it fits best.

    Source: best-fit decreasing, as for sequence packing in arXiv:2404.10830.

    Args:
        rendered: records, none longer than `length`.
        length: tokens a row holds.

    Raises:
        ValueError: a record is longer than a row.
    """
    order = sorted(range(len(rendered)), key=lambda place: (-len(rendered[place].ids), place))
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for place in order:
        n_tokens = len(rendered[place].ids)
        if n_tokens > length:
            raise ValueError(f"a record of {n_tokens} tokens in rows of {length}")
        found = bisect_left(free, (n_tokens, -1))
        if found == len(free):
            rows.append([place])
            insort(free, (length - n_tokens, len(rows) - 1))
        else:
            left, row = free.pop(found)
            rows[row].append(place)
            insort(free, (left - n_tokens, row))
    return [joined([rendered[place] for place in sorted(row)]) for row in rows]


def joined(records: Sequence[Rendered]) -> Pack:
    """Return records as one row.

    No record's first token is trained: it would be told from the record before it.
    """
    ids: list[int] = []
    labels: list[int] = []
    position_ids: list[int] = []
    segment_ids: list[int] = []
    for place, record in enumerate(records):
        ids += record.ids
        labels += [
            token if trained and position else IGNORED
            for position, (token, trained) in enumerate(
                zip(record.ids, record.trained, strict=True)
            )
        ]
        position_ids += range(len(record.ids))
        segment_ids += [place] * len(record.ids)
    return Pack(ids, labels, position_ids, segment_ids)


def padding_share(lengths: Sequence[int], length: int) -> float:
    """Return the share of tokens that are padding when each row is filled up to `length`."""
    return 1 - sum(lengths) / (len(lengths) * length) if lengths else 0.0


def by_length(rendered: Sequence[Rendered], batch: int) -> list[list[int]]:
    """Return batches of record places, alike in length: the way without packing.

    Args:
        rendered: the records.
        batch: records a batch.
    """
    order = sorted(range(len(rendered)), key=lambda place: (len(rendered[place].ids), place))
    return [order[start : start + batch] for start in range(0, len(order), batch)]
