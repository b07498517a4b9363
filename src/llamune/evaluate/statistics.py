"""Intervals and tests for scores: how sure one may be with so few questions.

Sources: Wilson 1927 (score interval); McNemar 1947, exact form; Efron's percentile bootstrap;
Miller, arXiv:2411.00640 (clustered standard errors, items needed).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Difference",
    "Interval",
    "items_needed",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "wilson",
]

Doubles = npt.NDArray[np.float64]

Z95 = 1.959963984540054
Z80 = 0.8416212335729143
N_RESAMPLES = 10_000
SEED = 20_240_601
ALPHA = 0.05
RESAMPLES_AT_ONCE = 500
FEWEST_ONE_SIDED = 6  # changes, all to one side, that a coin gives less often than one time in 20


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def wilson(n_right: float, n: float) -> Interval:
    """Return the 95 % interval of a share.

    Args:
        n_right: how many were right; need not be whole for an effective sample.
        n: of how many.
    """
    share = n_right / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    middle = share + Z95**2 / (2 * n)
    scale = 1 + Z95**2 / n
    return Interval(  # rounding leaves 1e-17 where the share is exactly 0 or 1
        low=max(0.0, (middle - spread) / scale) if share > 0 else 0.0,
        high=min(1.0, (middle + spread) / scale) if share < 1 else 1.0,
    )


def mean_interval(values: Sequence[float], *, clusters: Sequence[str] | None = None) -> Interval:
    """Return the 95 % interval of a mean.

    Right/wrong scores get Wilson's interval, of an effective number of items where they come in
    clusters; other scores a percentile bootstrap over items or clusters.

    Args:
        values: one score an item.
        clusters: which items belong together (several questions on one passage).
    """
    scores = np.asarray(values, np.float64)
    groups = numbered(clusters, len(scores))
    if is_binary(scores):
        return wilson(scores.mean() * (n := effective_n(scores, groups)), n)
    means = resampled_means(scores, groups)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(low=float(low), high=float(high))


def is_binary(scores: Doubles) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def numbered(clusters: Sequence[str] | None, n: int) -> npt.NDArray[np.intp]:
    """Return the cluster of each item as a number, each item its own without clusters."""
    if clusters is None:
        return np.arange(n)
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def effective_n(scores: Doubles, groups: npt.NDArray[np.intp]) -> float:
    """Return how many independent items carry as much as these clustered ones.

    Never more than there are items; the number of clusters where all scores are the same.
    """
    n = len(scores)
    n_groups = int(groups.max()) + 1
    if n_groups == n:
        return n
    share = float(scores.mean())
    variance = clustered_variance(scores, groups)
    if variance == 0:
        return n_groups
    return min(float(n), n * share * (1 - share) / variance)


def clustered_variance(scores: Doubles, groups: npt.NDArray[np.intp]) -> float:
    """Return the variance of the mean times the number of items, its clusters taken whole.

    Without clusters this is the items' own variance.
    """
    residuals = np.bincount(groups, weights=scores - scores.mean())
    return float(np.square(residuals).sum()) / len(scores)


def resampled_means(scores: Doubles, groups: npt.NDArray[np.intp]) -> Doubles:
    """Return the means of resamples of whole clusters, (N_RESAMPLES,), the same each time."""
    random = np.random.default_rng(SEED)
    sums = np.bincount(groups, weights=scores)
    sizes = np.bincount(groups).astype(np.float64)
    n_groups = len(sums)
    out = np.empty(N_RESAMPLES)
    for start in range(0, N_RESAMPLES, RESAMPLES_AT_ONCE):
        drawn = random.integers(0, n_groups, (RESAMPLES_AT_ONCE, n_groups))
        out[start : start + RESAMPLES_AT_ONCE] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return out


def mcnemar(n_lost: int, n_won: int) -> float:
    """Return the exact two-sided p-value of a right/wrong comparison on the same items.

    Args:
        n_lost: items that only the baseline has right.
        n_won: items that only the new model has right.
    """
    n = n_lost + n_won
    tail = sum(math.comb(n, i) for i in range(min(n_lost, n_won) + 1))
    return min(1.0, 2 * tail / (1 << n))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A model against its baseline on the same items.

    Attributes:
        mean: mean difference of the scores, new minus baseline.
        interval: its 95 % interval.
        p_value: how likely such a difference is without a real one.
        test: how `p_value` was found.
        n_more_items: items to add until a difference of this size would be seen four times in
            five; None where it is seen already, or where there is none at all.
    """

    mean: float
    interval: Interval
    p_value: float
    test: Literal["McNemar", "paired bootstrap"]
    n_more_items: int | None

    @property
    def verdict(self) -> Literal["higher", "lower", "cannot tell"]:
        """What may be said of the scores; whether higher is better is the metric's affair."""
        if self.p_value >= ALPHA or self.mean == 0:
            return "cannot tell"
        return "higher" if self.mean > 0 else "lower"


def paired_difference(
    baseline: Sequence[float], new: Sequence[float], *, clusters: Sequence[str] | None = None
) -> Difference:
    """Compare two models item by item.

    Right/wrong scores on independent items are tested by McNemar's exact test, everything else
    by a paired bootstrap over items or clusters.

    Args:
        baseline: one score an item.
        new: the same items' scores of the new model.
        clusters: which items belong together.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(baseline) != len(new):
        raise ValueError(f"{len(baseline)} scores against {len(new)}")
    old, fresh = np.asarray(baseline, np.float64), np.asarray(new, np.float64)
    changes = fresh - old
    groups = numbered(clusters, len(changes))
    means = resampled_means(changes, groups)
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    independent = int(groups.max()) + 1 == len(changes)
    if independent and is_binary(old) and is_binary(fresh):
        p_value = mcnemar(int((changes < 0).sum()), int((changes > 0).sum()))
        test: Literal["McNemar", "paired bootstrap"] = "McNemar"
    else:
        p_value = max(bootstrap_p(means), smallest_p(changes, groups))
        test = "paired bootstrap"
    needed = None if p_value < ALPHA else items_to_tell(changes, groups)
    return Difference(
        mean=float(changes.mean()),
        interval=Interval(low=float(low), high=float(high)),
        p_value=p_value,
        test=test,
        n_more_items=None if needed is None else max(1, needed - len(changes)),
    )


def bootstrap_p(means: Doubles) -> float:
    """Return the two-sided p-value of resampled mean differences."""
    below, above = (means <= 0).mean(), (means >= 0).mean()
    return float(min(1.0, max(2 * min(below, above), 1 / len(means))))


def smallest_p(changes: Doubles, groups: npt.NDArray[np.intp]) -> float:
    """Return the smallest two-sided p-value that so few items or clusters can give.

    A bootstrap of three changes to the same side never sees the other side; a coin shows three
    of three one time in four.
    """
    n_changed = int(np.count_nonzero(np.bincount(groups, weights=changes)))
    return min(1.0, 2.0 ** (1 - n_changed))


def items_to_tell(changes: Doubles, groups: npt.NDArray[np.intp]) -> int | None:
    """Return how many items like these would show their mean change; None for no change."""
    mean = float(changes.mean())
    needed = items_needed(mean, clustered_variance(changes, groups))
    if needed is None:
        return None
    n_changed = int(np.count_nonzero(np.bincount(groups, weights=changes)))
    return max(needed, math.ceil(FEWEST_ONE_SIDED * len(changes) / n_changed))


def items_needed(difference: float, variance: float) -> int | None:
    """Return how many items show a mean difference at 5 % in four tests of five.

    Args:
        difference: mean difference an item.
        variance: variance of the differences.

    Returns:
        the number; None for no difference at all.
    """
    if difference == 0:
        return None
    return math.ceil((Z95 + Z80) ** 2 * variance / difference**2)
