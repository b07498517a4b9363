"""The layout of a run: every record as often as every other, every step complete."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.train import Collator, TrainError, batch_order
from llamune.train.batches import IGNORED, largest_micro_batch
from tests.train.tiny import Record


@given(
    n=st.integers(1, 60),
    steps=st.integers(1, 40),
    batch=st.integers(1, 17),
    micro_batch=st.integers(1, 8),
    n_processes=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_step_is_complete(
    n: int, steps: int, batch: int, micro_batch: int, n_processes: int, seed: int
) -> None:
    if batch < n_processes:
        return
    lengths = [3 + i % 7 for i in range(n)]
    order = batch_order(
        lengths, steps=steps, batch=batch, micro_batch=micro_batch,
        n_processes=n_processes, seed=seed,
    )  # fmt: skip
    assert len(order) == steps
    assert len({len(step) for step in order}) == 1
    assert len(order[0]) % n_processes == 0
    for step in order:
        assert sum(map(len, step)) == batch
        assert all(step)
    seen = Counter(i for step in order for part in step for i in part)
    assert max(seen[i] for i in range(n)) - min(seen[i] for i in range(n)) <= 1


def test_micro_batches_keep_to_their_size() -> None:
    order = batch_order([5] * 40, steps=9, batch=8, micro_batch=3, n_processes=1, seed=0)
    assert max(len(part) for step in order for part in step) == 3


def test_records_of_near_lengths_meet() -> None:
    lengths = [10 * (i % 10) + 1 for i in range(320)]
    order = batch_order(lengths, steps=40, batch=8, micro_batch=4, n_processes=1, seed=1)
    padded = sum(len(p) * max(lengths[i] for i in p) for step in order for p in step)
    assert padded < 1.1 * sum(lengths)


@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=60),
    batch=st.integers(2, 12),
    micro_batch=st.integers(1, 4),
    n_processes=st.integers(1, 2),
)
def test_packed_steps_have_the_same_records_in_rows_that_fit(
    lengths: list[int], batch: int, micro_batch: int, n_processes: int
) -> None:
    facts = {"steps": 5, "batch": batch, "micro_batch": micro_batch, "seed": 1}
    filled = batch_order(lengths, n_processes=1, **facts)
    packed = batch_order(lengths, n_processes=n_processes, row_tokens=50 * micro_batch, **facts)
    assert [sorted(chain(*step)) for step in packed] == [sorted(chain(*step)) for step in filled]
    assert len({len(step) for step in packed}) == 1
    assert len(packed[0]) % n_processes == 0
    if n_processes == 1:
        assert all(sum(lengths[i] for i in r) <= 50 * micro_batch for step in packed for r in step)
        assert len(packed[0]) <= len(filled[0])


def test_short_records_share_a_row_as_many_as_fit() -> None:
    lengths = [10] * 40
    facts = {"steps": 5, "batch": 8, "micro_batch": 2, "n_processes": 1, "seed": 0}
    assert [len(step) for step in batch_order(lengths, **facts)] == [4] * 5
    assert [len(step) for step in batch_order(lengths, row_tokens=80, **facts)] == [1] * 5


def test_two_processes_see_what_one_sees() -> None:
    facts = {"steps": 6, "batch": 8, "micro_batch": 2, "seed": 3}
    lengths = list(range(3, 30))
    one = batch_order(lengths, n_processes=1, **facts)
    two = batch_order(lengths, n_processes=2, **facts)
    assert [sorted(chain(*step)) for step in one] == [sorted(chain(*step)) for step in two]


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(TrainError, match="cannot be shared"):
        batch_order([5] * 9, steps=1, batch=1, micro_batch=1, n_processes=2, seed=0)


def test_the_largest_micro_batch_is_found() -> None:
    order = [[[0, 1], [2]], [[3, 4], [5]]]
    assert largest_micro_batch([3, 9, 33, 8, 17, 4], order) == [3, 4]
    assert largest_micro_batch([3, 9, 33, 8, 17, 4], order, packing=True) == [2]


RECORDS = [Record([7, 8, 9], [False, True, True]), Record([5, 6], [False, True])]


def test_rows_are_filled_with_what_no_loss_counts() -> None:
    batch = Collator()(RECORDS)
    assert batch["input_ids"].tolist() == [[7, 8, 9, *[0] * 5], [5, 6, *[0] * 6]]
    assert batch["labels"].tolist() == [
        [IGNORED, 8, 9, *[IGNORED] * 5],
        [IGNORED, 6, *[IGNORED] * 6],
    ]


def test_an_end_token_that_also_fills_is_learnt_where_it_ends() -> None:
    ends = [Record([7, 8, 0], [False, True, True]), Record([5, 0], [False, True])]
    batch = Collator(filling_id=0)(ends)
    assert [row[:3] for row in batch["input_ids"].tolist()] == [[7, 8, 0], [5, 0, 0]]
    assert [row[:3] for row in batch["labels"].tolist()] == [[IGNORED, 8, 0], [IGNORED, 0, IGNORED]]
    assert (batch["labels"][:, 3:] == IGNORED).all()


def test_packed_records_stand_apart_by_their_positions() -> None:
    first_is_trained = Record([5, 6], [True, True])
    batch = Collator(packing=True)([RECORDS[0], first_is_trained])
    assert batch["input_ids"].tolist() == [[7, 8, 9, 5, 6, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    # the first token of a record is not told from the last of the one before it
    assert batch["labels"].tolist() == [[IGNORED, 8, 9, IGNORED, 6, *[IGNORED] * 3]]


def test_a_row_that_needs_no_filling_gets_none() -> None:
    whole = Record(list(range(1, 17)), [True] * 16)
    for packing in (False, True):
        assert Collator(packing=packing)([whole])["input_ids"].tolist() == [whole.ids]
