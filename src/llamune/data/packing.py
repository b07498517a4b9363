"""How records lie in the rows that go through a model: several in one, or one each, filled up."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamune.data.rendering import Rendered

__all__ = ["IGNORED", "Pack", "best_fit", "by_length", "filled_length", "pack", "padding_share"]

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
    """Lay records into rows of at most `length` tokens, see `best_fit`.

    Args:
        rendered: records, none longer than `length`.
        length: tokens a row holds.

    Raises:
        ValueError: a record is longer than a row.
    """
    rows = best_fit([len(record.ids) for record in rendered], length)
    return [joined([rendered[place] for place in row]) for row in rows]


def best_fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Return which records share a row: the longest first, each where it leaves the least room.

    Source: best-fit decreasing, as for sequence packing in arXiv:2404.10830.

    Args:
        lengths: tokens of each record.
        length: tokens a row holds.

    Returns:
        For each row the places of its records, in order.

    Raises:
        ValueError: a record is longer than a row.
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for place in order:
        n_tokens = lengths[place]
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
    return [sorted(row) for row in rows]


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


def by_length(lengths: Sequence[int], batch: int) -> list[list[int]]:
    """Return batches of records that are alike in length: the way without packing.

    Args:
        lengths: tokens of each record.
        batch: records a batch.

    Returns:
        For each batch the places of its records.
    """
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def filled_length(n_tokens: int) -> int:
    """Return the tokens that a row of so many is filled up to.

    A multiple of 8, and at most 16 lengths from a power of two to the next: what a library makes
    for one length, such as compiled matrix products, serves again, and memory does not grow with
    every length that the data has.
    """
    power = 1 << (n_tokens - 1).bit_length()  # the first that is no less
    step = max(8, power // 32)
    return -(-n_tokens // step) * step


def padding_share(batches: Iterable[Sequence[int]]) -> float:
    """Return the share of tokens that only fill up the rows of their batch, 0 to 1.

    Args:
        batches: for each batch the tokens of its rows.
    """
    n_tokens = n_filled = 0
    for lengths in batches:
        n_tokens += sum(lengths)
        n_filled += len(lengths) * filled_length(max(lengths, default=0))
    return 1 - n_tokens / n_filled if n_filled else 0.0
