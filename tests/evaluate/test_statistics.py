"""Intervals and tests, against statsmodels' numbers and against many drawn samples.

The expected numbers are those of statsmodels 0.14: `proportion_confint(k, n, method="wilson")`
and `mcnemar([[0, b], [c, 0]], exact=True).pvalue`.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.evaluate.statistics import (
    items_needed,
    mcnemar,
    mean_interval,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(
    ("n_right", "n", "low", "high"),
    [
        (0, 12, 0.0, 0.24249400665524096),
        (12, 12, 0.7575059933447589, 1.0),
        (35, 50, 0.5624964953554659, 0.8089644649911905),
        (140, 200, 0.6332093162728073, 0.759252553176286),
        (350, 500, 0.6584321959560773, 0.7385180678593017),
    ],
)
def test_wilson(n_right: int, n: int, low: float, high: float):
    found = wilson(n_right, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [
        (6, 0, 0.03125),
        (0, 5, 0.0625),
        (8, 1, 0.0390625),
        (10, 2, 0.03857421875),
        (5, 15, 0.04138946533203125),
        (20, 9, 0.06142834573984146),
        (0, 0, 1.0),
    ],
)
def test_mcnemar(lost: int, won: int, p_value: float):
    assert mcnemar(lost, won) == pytest.approx(p_value, rel=1e-12)


def test_mcnemar_of_many_items_does_not_overflow():
    assert mcnemar(2000, 2000) == 1.0
    assert mcnemar(0, 4000) == pytest.approx(0.0, abs=1e-300)


@given(st.integers(0, 40), st.integers(1, 40))
def test_an_interval_holds_the_share(n_right: int, n: int):
    n_right = min(n_right, n)
    found = wilson(n_right, n)
    assert 0 <= found.low <= n_right / n <= found.high <= 1


def test_a_95_percent_interval_holds_the_truth_95_times_of_100():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        values = random.beta(2, 3, size=60).tolist()
        interval = mean_interval(values)
        hits += interval.low <= 0.4 <= interval.high
    assert 180 <= hits <= 199


def test_clusters_widen_an_interval():
    values = [1.0] * 30 + [0.0] * 30
    clusters = [f"passage {i // 10}" for i in range(60)]
    alone, together = mean_interval(values), mean_interval(values, clusters=clusters)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    spread = [f"passage {i % 6}" for i in range(60)]  # every passage half right: no effect
    even = mean_interval(values, clusters=spread)
    assert even.high - even.low >= alone.high - alone.low


def test_better_worse_and_cannot_tell():
    few = paired_difference([0.0] * 5, [1.0] * 5)
    assert (few.verdict, few.test) == ("cannot tell", "McNemar")
    assert few.n_more_items == 1
    enough = paired_difference([0.0] * 6, [1.0] * 6)
    assert (enough.verdict, enough.n_more_items) == ("higher", None)
    assert paired_difference([1.0] * 6, [0.0] * 6).verdict == "lower"
    same = paired_difference([1.0, 0.0] * 10, [1.0, 0.0] * 10)
    assert (same.verdict, same.n_more_items, same.interval.low) == ("cannot tell", None, 0.0)


def test_few_items_cannot_tell_whatever_the_test():
    # a bootstrap of five changes to the same side never sees the other side
    few = paired_difference([0.1, 0.2, 0.3, 0.1, 0.2], [0.5, 0.4, 0.8, 0.6, 0.3])
    assert (few.verdict, few.test, few.p_value) == ("cannot tell", "paired bootstrap", 0.0625)
    assert few.n_more_items == 1
    six = paired_difference([0.1, 0.2, 0.3, 0.1, 0.2, 0.2], [0.5, 0.4, 0.8, 0.6, 0.3, 0.3])
    assert six.verdict == "higher"
    three = paired_difference([0.0] * 3, [1.0] * 3)
    assert three.n_more_items == 3


def test_one_passage_says_nothing_however_many_questions_it_has():
    found = paired_difference([0.0] * 20, [1.0] * 20, clusters=["passage"] * 20)
    assert (found.verdict, found.p_value) == ("cannot tell", 1.0)
    assert found.n_more_items == 100  # five more passages like it


def test_clusters_ask_for_more_items():
    changes = np.random.default_rng(4).normal(0.0, 0.2, 8).repeat(5).tolist()  # 8 passages of 5
    clusters = [f"passage {i // 5}" for i in range(40)]
    alone = paired_difference([0.0] * 40, changes)
    together = paired_difference([0.0] * 40, changes, clusters=clusters)
    assert alone.verdict == together.verdict == "cannot tell"
    assert alone.n_more_items is not None
    assert together.n_more_items is not None
    assert together.n_more_items + 40 == pytest.approx(5 * (alone.n_more_items + 40), rel=0.01)


def test_scores_that_are_no_shares_are_resampled():
    random = np.random.default_rng(2)
    old = random.uniform(size=80)
    found = paired_difference(old.tolist(), (old + 0.05 + random.normal(0, 0.05, 80)).tolist())
    assert found.test == "paired bootstrap"
    assert found.verdict == "higher"
    assert found.interval.low < found.mean < found.interval.high
    again = paired_difference(old.tolist(), (old + 0.05).tolist())
    assert again.interval.low == pytest.approx(0.05)


def test_clustered_right_and_wrong_is_resampled_not_counted():
    old, new = [0.0] * 12, [1.0] * 6 + [0.0] * 6
    clusters = ["one"] * 6 + [f"own {i}" for i in range(6)]
    assert paired_difference(old, new).verdict == "higher"
    assert paired_difference(old, new, clusters=clusters).verdict == "cannot tell"


@pytest.mark.parametrize(("difference", "items"), [(0.10, 150), (0.05, 621), (0.03, 1737)])
def test_items_needed(difference: float, items: int):
    # paired, right/wrong, 20 % of the items answered differently: Miller's formula
    found = items_needed(difference, 0.20 - difference**2)
    assert found == pytest.approx(items, rel=0.01)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 scores against 1"):
        paired_difference([1.0, 0.0], [1.0])
