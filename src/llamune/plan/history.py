"""What finished runs of a model say of methods: how far each came, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamune.plan.calibration import past_records, plan_of
from llamune.runs import RunRecord

__all__ = ["PastRun", "best_of", "past_runs"]

CLOSE = 0.01  # of the loss: nearer ones are told apart by chance, so the faster one is better


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A finished run of the same model.

    Args:
        name: `name#n`.
        kind: `lora`, `dora`, `full packed` or `full dense`.
        rank: of the adapter, or 0.
        fingerprint: of its data as trained on: losses of other data do not compare.
        loss_before: held-out, nats a trained token.
        loss: of the weights that were kept.
        scores: metric, before and after.
        seconds: of its training steps, or None on another machine.
        tokens_per_second: likewise.
    """

    name: str
    kind: str
    rank: int
    fingerprint: str
    loss_before: float
    loss: float
    scores: tuple[tuple[str, float, float], ...] = ()
    seconds: float | None = None
    tokens_per_second: float | None = None

    @property
    def method(self) -> str:
        """What was trained, in words."""
        return f"{self.kind}, rank {self.rank}" if self.rank else self.kind

    @property
    def sentence(self) -> str:
        """What it came to, in one line."""
        words = f"{self.name} ({self.method}): loss {self.loss_before:.3f} to {self.loss:.3f}"
        for metric, before, after in self.scores:
            words += f", {metric} {before:.3g} to {after:.3g}"
        if self.tokens_per_second:
            words += f", {self.tokens_per_second:,.0f} tokens/s"
        return words


def past_runs(shape_key: str) -> tuple[PastRun, ...]:
    """Return the finished runs of a model that measured a held-out loss, newest first.

    Args:
        shape_key: which model, as plans write it.
    """
    found = (past_run(record) for record in past_records() if planned_shape(record) == shape_key)
    return tuple(run for run in found if run is not None)


def planned_shape(record: RunRecord) -> str | None:
    """Return the model that a run's plan was made for."""
    return (record.plan or {}).get("shape")


def past_run(record: RunRecord) -> PastRun | None:
    """Return what a run says, or None when it measured no loss before and after."""
    before, after = record.loss.validation_before, record.loss.validation
    settings = (record.plan or {}).get("settings", {})
    if before is None or after is None or record.data is None or "method" not in settings:
        return None
    is_adapter = settings["method"] in {"lora", "dora"}
    dense = " dense" if settings.get("dense") else " packed"
    here = bool(plan_of(record))
    return PastRun(
        name=f"{record.name}#{record.number}",
        kind=settings["method"] if is_adapter else f"{settings['method']}{dense}",
        rank=int(settings.get("rank", 0)) if is_adapter else 0,
        fingerprint=record.data.fingerprint,
        loss_before=before,
        loss=after,
        scores=tuple((score.metric, score.before, score.after) for score in record.scores),
        seconds=record.seconds.measured if here else None,
        tokens_per_second=record.tokens_per_second if here else None,
    )


def best_of(runs: Iterable[PastRun]) -> tuple[PastRun, Sequence[PastRun]] | None:
    """Return the best of the runs on the newest run's data, and all of those; None without runs.

    Best is the lowest loss; of those within one per cent of it, the fastest.
    """
    every = list(runs)
    if not every:
        return None
    same = [run for run in every if run.fingerprint == every[0].fingerprint]
    lowest = min(run.loss for run in same)
    close = [run for run in same if run.loss <= lowest * (1 + CLOSE)]
    return min(close, key=lambda run: (run.seconds or float("inf"), run.loss)), same
