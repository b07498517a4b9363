"""Scores with their intervals, and two models' scores on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamune.evaluate.answers import answers_of
from llamune.evaluate.items import Item, item_of
from llamune.evaluate.metrics import METRICS, Metric, metric_of
from llamune.evaluate.statistics import Difference, mean_interval, paired_difference

if TYPE_CHECKING:
    from llamune.data import Record
    from llamune.store import Model

__all__ = ["Comparison", "Score", "comparison_of", "score_of", "score_records"]

Verdict = Literal["better", "worse", "cannot tell"]
MAX_ANSWER_TOKENS = 256


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
        return f"cannot tell; about {self.difference.n_more_items:,} more items would"


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


def score_records(
    model: Model,
    records: Sequence[Record],
    *,
    task: str,
    adapter: Path,
    n_threads: int | None = None,
    n_parallel: int = 4,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> Comparison:
    """Score a base and its tuning on held-out records, both in one loaded llama.cpp.

    Args:
        model: the base.
        records: questions with their answers.
        task: what to call them.
        adapter: the tuning, a GGUF adapter.
        n_threads: CPU threads; default the idle cores.
        n_parallel: questions asked at the same time.
        max_tokens: tokens of an answer, at most.

    Raises:
        EngineError: llama.cpp refuses the model, the adapter or a question.
        LlamuneError: a record is no question with an answer.
    """
    from llamune.engine import GenerateOptions, LoadedAdapter, open_engine

    items = [item_of(record) for record in records]
    metric = metric_of(items)
    if metric.score is None:
        metric = METRICS["chrf"]
    tuned = LoadedAdapter(name="tuned", path=adapter)
    options = GenerateOptions(temperature=0, max_tokens=max_tokens)
    values: list[list[float]] = []
    with open_engine(model, adapters=[tuned], n_threads=n_threads, n_parallel=n_parallel) as engine:
        for strength in (0.0, 1.0):
            texts = answers_of(
                engine, items, options, scales={tuned.name: strength}, n_parallel=n_parallel
            )
            values.append(scored(metric, texts, items))
    return comparison_of(task, metric, *values, clusters=clusters_of(items))


def scored(metric: Metric, texts: Sequence[str], items: Sequence[Item]) -> list[float]:
    """Return the score of each answer."""
    assert metric.score is not None  # noqa: S101  metrics of answers have one
    return [metric.score(text, item) for text, item in zip(texts, items, strict=True)]
