"""Which records each optimizer step sees, and how they become tensors.

The whole run is laid out before it starts: passes over the shuffled records, end to end, cut
into batches of exactly `batch` records. So every step has the same number of micro-batches, a
resumed run skips to its place, and two processes share a step without a remainder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llamune.data import IGNORED, best_fit, filled_length
from llamune.train.errors import TrainError

if TYPE_CHECKING:
    import torch

__all__ = ["IGNORED", "Collator", "Example", "batch_order", "largest_micro_batch", "split_evenly"]

BATCHES_SORTED_TOGETHER = 16  # records of near lengths meet in a batch: less padding


class Example(Protocol):
    """A rendered record: token ids, and which of them the loss counts."""

    @property
    def ids(self) -> Sequence[int]: ...  # noqa: D102

    @property
    def trained(self) -> Sequence[bool]: ...  # noqa: D102


def batch_order(
    lengths: Sequence[int],
    *,
    steps: int,
    batch: int,
    micro_batch: int,
    n_processes: int,
    seed: int,
    row_tokens: int | None = None,
) -> list[list[list[int]]]:
    """Lay out a run: for each step its micro-batches, for each of those its record numbers.

    Args:
        lengths: tokens of each record.
        steps: optimizer steps.
        batch: records a step.
        micro_batch: most records that go through the model at once.
        n_processes: processes that share each step; each takes every n-th micro-batch.
        seed: of the order.
        row_tokens: with packing, the tokens that a row may hold: a micro-batch is then as many
            records as fit. The steps have the same records either way.

    Raises:
        TrainError: a step has fewer records than there are processes.
    """
    if batch < n_processes:
        raise TrainError(
            f"a batch of {batch} cannot be shared by {n_processes} processes",
            hint=f"--batch {n_processes} or more",
        )
    records = batches_of(lengths, steps=steps, batch=batch, seed=seed)
    most = batch - batch % n_processes
    if row_tokens is not None:
        return packed_order(
            lengths, records, row_tokens=row_tokens, n_processes=n_processes, most=most
        )
    n_micro = min(n_processes * math.ceil(batch / (micro_batch * n_processes)), most)
    return [split_evenly(row, n_micro) for row in records]


def batches_of(lengths: Sequence[int], *, steps: int, batch: int, seed: int) -> list[list[int]]:
    """Return the records of each step: shuffled, those of near lengths together."""
    random = np.random.default_rng(seed)
    n_passes = math.ceil(steps * batch / len(lengths))
    stream = np.concatenate([random.permutation(len(lengths)) for _ in range(n_passes)])
    stream = stream[: steps * batch]
    sizes = np.asarray(lengths)
    found: list[list[int]] = []
    window = BATCHES_SORTED_TOGETHER * batch
    for start in range(0, len(stream), window):
        part = stream[start : start + window]
        part = part[np.argsort(sizes[part], kind="stable")]
        rows = part.reshape(-1, batch)
        found.extend(random.permutation(rows).tolist())
    return found


def packed_order(
    lengths: Sequence[int],
    records: Sequence[list[int]],
    *,
    row_tokens: int,
    n_processes: int,
    most: int,
) -> list[list[list[int]]]:
    """Return the rows of each step, best fit; every step has as many as the one that needs most.

    Args:
        lengths: tokens of each record.
        records: the records of each step.
        row_tokens: tokens that a row holds.
        n_processes: processes that share each step.
        most: rows that a step may have.
    """
    packed = [
        [[step[place] for place in row] for row in best_fit([lengths[i] for i in step], row_tokens)]
        for step in records
    ]
    n_rows = min(n_processes * math.ceil(max(map(len, packed)) / n_processes), most)
    return [
        parted(rows, n_rows) if len(rows) <= n_rows else split_evenly(step, n_rows)
        for step, rows in zip(records, packed, strict=True)
    ]


def parted(rows: list[list[int]], n_rows: int) -> list[list[int]]:
    """Return as many rows as are asked for, the ones with most records cut in two."""
    rows = list(rows)
    while len(rows) < n_rows:
        fullest = max(range(len(rows)), key=lambda row: len(rows[row]))
        rows[fullest : fullest + 1] = split_evenly(rows[fullest], 2)
    return rows


def split_evenly(items: list[int], n_parts: int) -> list[list[int]]:
    """Cut a list into `n_parts` runs whose lengths differ by one at most."""
    return [part.tolist() for part in np.array_split(np.asarray(items), n_parts)]


def largest_micro_batch(
    lengths: Sequence[int], order: Sequence[Sequence[Sequence[int]]], *, packing: bool = False
) -> list[int]:
    """Return the micro-batch that takes the most tokens, padding included, so the most memory."""

    def n_tokens(part: list[int]) -> int:
        sizes = [lengths[i] for i in part]
        return filled_length(sum(sizes)) if packing else len(sizes) * filled_length(max(sizes))

    micro_batches = [list(part) for step in order for part in step]
    return max(micro_batches, key=lambda part: (n_tokens(part), part))


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes a micro-batch of tensors from records.

    Rows are filled up on the right to one of few lengths (`data.filled_length`). Attention is
    causal, so no token sees the filling, and its labels are not counted: no mask and no special
    pad token are needed.

    With packing, the records stand end to end in one row; positions start anew with each, and
    with the filling, and that is what attention goes by to keep them apart.
    """

    packing: bool = False
    filling_id: int = 0

    def __call__(self, records: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `labels` and, when packing, `position_ids`: (rows, tokens)."""
        return self.packed(records) if self.packing else self.filled(records)

    def filled(self, records: Sequence[Example]) -> dict[str, Any]:
        """Return one row a record."""
        import torch

        longest = filled_length(max(len(record.ids) for record in records))
        ids = torch.full((len(records), longest), self.filling_id, dtype=torch.long)
        labels = torch.full((len(records), longest), IGNORED, dtype=torch.long)
        for row, record in enumerate(records):
            ids[row, : len(record.ids)] = torch.tensor(record.ids)
            labels[row, : len(record.ids)] = labels_of(record)
        return {"input_ids": ids, "labels": labels}

    def packed(self, records: Sequence[Example]) -> dict[str, Any]:
        """Return all records in one row."""
        import torch

        lengths = [len(record.ids) for record in records]
        n_filling = filled_length(sum(lengths)) - sum(lengths)
        ids = [torch.tensor(record.ids) for record in records]
        labels = [labels_of(record) for record in records]
        positions = [torch.arange(length) for length in (*lengths, n_filling)]
        return {
            "input_ids": torch.cat([*ids, torch.full((n_filling,), self.filling_id)])[None],
            "labels": torch.cat([*labels, torch.full((n_filling,), IGNORED)])[None],
            "position_ids": torch.cat(positions)[None],
        }


def labels_of(record: Example) -> torch.Tensor:
    """Return the label of each token; the first of a record has nothing to be told from."""
    import torch

    trained = torch.tensor(record.trained, dtype=torch.bool)
    trained[0] = False
    return torch.where(trained, torch.tensor(record.ids), IGNORED)
