"""Fitting a training to a night: steps, length and rank that end within a number of hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from llamune.errors import AnswerNo
from llamune.jobs.formats import seconds_text
from llamune.jobs.preparing import Prepared

__all__ = ["fit_hours"]

PASSES = (5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0)  # over the data, the most worth having first
KEPT_SHARES = (1.0, 0.95, 0.8)  # of the records, that a shorter maximum length leaves whole
SMALL_RANK = 8
FEWEST_STEPS = 20  # below, nothing is learned that a person would notice
SECONDS_AN_HOUR = 3600.0

Prepare = Callable[[Mapping[str, Any], float | None], Prepared]


def fit_hours(prepare: Prepare, choices: Mapping[str, Any], *, hours: float) -> Prepared:
    """Return the training that makes the most of some hours.

    What the person chose stays. The rest is given up in this order: passes over the data down
    to one, then rank, then the length of the longest records, at last a part of the data.

    Args:
        prepare: settles and plans a recipe from choices and passes.
        choices: what the person chose.
        hours: wall-clock of steps, validation and preparation, by the plan's upper estimate.

    Raises:
        AnswerNo: not even a short training fits.
    """
    seconds = hours * SECONDS_AN_HOUR
    tried = prepare(choices, None)
    if "steps" in choices:
        if tried.plan.time.total_high <= seconds:
            return tried
        raise too_long(tried, seconds)
    for extra in concessions(tried, choices):
        for passes in PASSES:
            tried = prepare({**choices, **extra}, passes)
            if tried.plan.time.total_high <= seconds:
                return tried
    time = tried.plan.time
    steps = int(tried.recipe.steps * (seconds - time.around_high) / time.high)
    if steps < FEWEST_STEPS:
        raise too_long(tried, seconds)
    return prepare({**choices, **extra, "steps": steps}, None)


def concessions(prepared: Prepared, choices: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield ever cheaper settings of what the person left open."""
    extra: dict[str, Any] = {}
    yield extra
    if "rank" not in choices and prepared.recipe.rank > SMALL_RANK:
        extra = {"rank": SMALL_RANK}
        yield extra
    if "max_length" not in choices:
        for share in KEPT_SHARES[1:]:
            length = int(np.quantile(prepared.training.lengths, share))
            if length < prepared.recipe.max_length:
                yield {**extra, "max_length": max(8, length)}


def too_long(prepared: Prepared, seconds: float) -> AnswerNo:
    """Return the answer that no training fits."""
    return AnswerNo(
        f"{prepared.recipe.steps:,} steps are predicted to take up to "
        f"{seconds_text(prepared.plan.time.total_high)}, more than {seconds_text(seconds)}",
        hint="give more hours, fewer examples, a smaller model, or a faster machine",
    )
