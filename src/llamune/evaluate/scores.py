"""Scores with their intervals, and two models' scores on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llamune.evaluate.items import Item
from llamune.evaluate.metrics import Metric
from llamune.evaluate.statistics import Difference, mean_interval, paired_difference

__all__ = ["Comparison", "Score", "Verdict", "clusters_of", "comparison_of", "score_of"]

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score and how sure it is.

    Attributes:
        task: what was asked, the name of the test file or suite.
        metric: name of the metric.
        n: number of items.
        mean: mean of the items' scores; a perplexity its exponential.
        low: lower end of the 95 % interval.
        high: upper end.
        higher_is_better: whether more is better.
    """

    task: str
    metric: str
    n: int
    mean: float
    low: float
    high: float
    higher_is_better: bool = True


def score_of(
    task: str,
    metric: Metric,
    values: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
) -> Score:
    """Return the score of a list of items' scores."""
    mean = math.fsum(values) / len(values)
    interval = mean_interval(values, clusters=clusters)
    shown = math.exp if metric.exponential else float
    return Score(
        task=task,
        metric=metric.name,
        n=len(values),
        mean=shown(mean),
        low=shown(interval.low),
        high=shown(interval.high),
        higher_is_better=metric.higher_is_better,
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against its baseline on the same items.

    Attributes:
        before: the baseline's score.
        after: the new model's score.
        difference: new minus baseline, item by item (of the logarithm, for a perplexity).
    """

    before: Score
    after: Score
    difference: Difference

    @property
    def verdict(self) -> Verdict:
        """What may be said with 95 % confidence."""
        found = self.difference.verdict
        if found == "cannot tell":
            return "cannot tell"
        return "better" if (found == "higher") == self.after.higher_is_better else "worse"

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict != "cannot tell":
            return f"{self.verdict} (p = {self.difference.p_value:.2g}, {self.difference.test})"
        if self.difference.n_more_items is None:
            return "cannot tell: no difference was seen"
        n = self.difference.n_more_items
        return f"cannot tell; about {n:,} more item{'s' if n > 1 else ''} would"


def comparison_of(
    task: str,
    metric: Metric,
    before: Sequence[float],
    after: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
) -> Comparison:
    """Return how a model's items' scores compare with its baseline's."""
    return Comparison(
        before=score_of(task, metric, before, clusters=clusters),
        after=score_of(task, metric, after, clusters=clusters),
        difference=paired_difference(before, after, clusters=clusters),
    )


def clusters_of(items: Sequence[Item]) -> list[str] | None:
    """Return the cluster of each item; None where no item has one."""
    if not any(item.cluster for item in items):
        return None
    return [item.cluster or f"item {number}" for number, item in enumerate(items)]
