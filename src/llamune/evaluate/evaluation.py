"""A whole evaluation: scores, baseline, forgetting, contamination, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from llamune.evaluate.answers import identity_of
from llamune.evaluate.contamination import Overlap, Training, overlaps
from llamune.evaluate.history import (
    KeptScore,
    digest_of_test,
    keep,
    kept_score,
    kept_scores,
    regression,
    scores_path,
)
from llamune.evaluate.items import Item
from llamune.evaluate.judge import Judge
from llamune.evaluate.metrics import Metric, metrics_of
from llamune.evaluate.outcomes import Asking, Outcome, outcomes_of
from llamune.evaluate.scores import Comparison, Score, Verdict, clusters_of, comparison_of, score_of

if TYPE_CHECKING:
    from llamune.evaluate.forgetting import Forgetting
    from llamune.store import Model

__all__ = ["Advice", "Evaluation", "evaluate"]

Advice = Literal[
    "done", "keep more", "more items", "more data", "other rank", "full fine-tuning", "stop"
]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found.

    Attributes:
        model: what the person called it.
        baseline: what it was compared with.
        task: name of the test.
        metric: how answers were scored.
        items: the questions.
        outcomes: the model's, one an item.
        baseline_outcomes: the baseline's.
        score: the model's.
        comparison: against the baseline.
        training_run: the run whose training data were searched; None where they are not known.
        overlaps: items found in those data.
        last: the score kept from the last time, where there is one.
        since_last: how the score compares with it.
    """

    model: str
    baseline: str | None
    task: str
    metric: Metric
    items: tuple[Item, ...]
    outcomes: tuple[Outcome, ...]
    baseline_outcomes: tuple[Outcome, ...] | None
    score: Score
    comparison: Comparison | None
    training_run: str | None
    overlaps: tuple[Overlap, ...]
    last: KeptScore | None
    since_last: Verdict | None

    def reaches(self, threshold: float, *, strict: bool) -> bool:
        """Whether the score (its worse end with `strict`) is at least as good as a threshold."""
        if self.metric.higher_is_better:
            return (self.score.low if strict else self.score.mean) >= threshold
        return (self.score.high if strict else self.score.mean) <= threshold

    def is_right(self, place: int) -> bool:
        """Whether an item's score is as good as it can be (0.5 and up for a graded one)."""
        return self.metric.is_share and self.outcomes[place].score >= 0.5

    def advice(self, threshold: float | None, lost: Forgetting | None = None) -> Advice:
        """What to do next.

        Args:
            threshold: the score that is wanted.
            lost: the general suite, where it was run.
        """
        verdict = self.comparison.verdict if self.comparison is not None else None
        reached = threshold is None or self.reaches(threshold, strict=False)
        if verdict == "worse":
            return "stop"
        if verdict == "cannot tell":
            return "more items" if reached else "more data"
        if reached:
            forgot = lost is not None and lost.comparison.verdict == "worse"
            return "keep more" if forgot else "done"
        near = threshold is not None and abs(threshold - self.score.mean) < 0.1
        return "other rank" if near else "full fine-tuning" if verdict == "better" else "more data"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        rows = [
            {
                "where": item.where,
                "question": item.question,
                "expected": list(item.expected),
                "answer": outcome.answer,
                "score": outcome.score,
                "cluster": item.cluster,
                "category": item.category,
            }
            for item, outcome in zip(self.items, self.outcomes, strict=True)
        ]
        for row, outcome in zip(rows, self.baseline_outcomes or (), strict=False):
            row |= {"baseline_answer": outcome.answer, "baseline_score": outcome.score}
        return {
            "model": self.model,
            "baseline": self.baseline,
            "task": self.task,
            "score": asdict(self.score),
            "comparison": None if self.comparison is None else as_data(self.comparison),
            "training_run": self.training_run,
            "overlaps": [asdict(one) for one in self.overlaps],
            "last": None if self.last is None else asdict(self.last.score),
            "since_last": self.since_last,
            "items": rows,
        }


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data, its verdict in words too."""
    words = {"verdict": comparison.verdict, "sentence": comparison.sentence}
    return asdict(comparison) | words


def evaluate(
    model: Model | str,
    items: Sequence[Item],
    metric: Metric,
    *,
    task: str,
    asking: Asking,
    baseline: Model | str | None = None,
    judge: Judge | None = None,
    training: Training | None = None,
) -> Evaluation:
    """Score a model on a test, against a baseline where one is given, and keep the score.

    Args:
        model: the model; its name where `asking.engine` is remote.
        items: the questions.
        metric: how answers are scored.
        task: what to call the test.
        asking: how questions are asked.
        baseline: what to compare with.
        judge: marks answers where the metric is `judge`.
        training: what the model was trained on, where known.

    Raises:
        EngineError: the engine cannot be had, or refuses a question.
        LlamuneError: the metric does not fit an item.
    """
    metrics = metrics_of(metric, items)
    clusters = clusters_of(items)
    before = (
        None if baseline is None else outcomes_of(baseline, items, metrics, asking, judge=judge)
    )
    after = outcomes_of(model, items, metrics, asking, judge=judge)
    values = [outcome.score for outcome in after]
    comparison = None
    if before is not None:
        old = [outcome.score for outcome in before]
        comparison = comparison_of(task, metric, old, values, clusters=clusters)
    score = score_of(task, metric, values, clusters=clusters)
    last, since_last = None, None
    if not isinstance(model, str):
        last = last_of(model, items, metric)
        if last is not None:
            since_last = regression(last, metric, values, clusters)
        keep(
            scores_path(model),
            kept_score(
                score,
                items,
                values,
                model=str(model),
                run=model.annotations.get("llamune.run"),
                identity=identity_of(model),
            ),
        )
    return Evaluation(
        model=str(model),
        baseline=None if baseline is None else str(baseline),
        task=task,
        metric=metric,
        items=tuple(items),
        outcomes=tuple(after),
        baseline_outcomes=None if before is None else tuple(before),
        score=score,
        comparison=comparison,
        training_run=None if training is None else training.run,
        overlaps=() if training is None else tuple(overlaps(items, training)),
        last=last,
        since_last=since_last,
    )


def last_of(model: Model, items: Sequence[Item], metric: Metric) -> KeptScore | None:
    """Return the last score of the same test and metric."""
    digest = digest_of_test(items)
    found = [
        entry
        for entry in kept_scores(scores_path(model))
        if entry.test == digest
        and entry.score.metric == metric.name
        and len(entry.values) == len(items)
    ]
    return found[-1] if found else None
