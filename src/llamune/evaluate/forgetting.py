"""A small general suite: what a tuning may have cost elsewhere.

Knowledge, instructions, arithmetic and language in English and Japanese, written for this
project; every answer can be checked by a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from llamune.errors import LlamuneError
from llamune.evaluate.items import Item, read_items
from llamune.evaluate.metrics import MIXED, Metric, metrics_of
from llamune.evaluate.outcomes import Asking, outcomes_of
from llamune.evaluate.scores import Comparison, comparison_of

if TYPE_CHECKING:
    from llamune.store import Model

__all__ = ["GENERAL", "Forgetting", "base_of", "forgotten", "general_items", "general_metrics"]

GENERAL = "general"


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """The general suite before and after a tuning.

    Attributes:
        baseline: the model before.
        comparison: over the whole suite.
        categories: category → share right before and after.
    """

    baseline: str
    comparison: Comparison
    categories: dict[str, tuple[float, float]]


@cache
def general_items() -> tuple[Item, ...]:
    """Return the questions of the suite."""
    with resources.as_file(resources.files("llamune.evaluate").joinpath("general.json")) as path:
        return tuple(read_items([Path(path)]))


def general_metrics(items: Sequence[Item]) -> list[Metric]:
    """Return the metric of each question: all score 0 or 1."""
    return metrics_of(MIXED, items)


def base_of(model: Model) -> Model:
    """Return what a model was tuned from.

    Raises:
        LlamuneError: its lineage names no base, or the base is gone or another file now.
    """
    from llamune.store import resolve

    name = model.annotations.get("llamune.base.name")
    if name is None:
        raise LlamuneError(
            f"{model}: not known what it was tuned from", hint="name the base: --baseline REF"
        )
    base = resolve(name)
    wanted = model.annotations.get("llamune.base.digest")
    if wanted is not None and base.digest is not None and digits(base.digest) != digits(wanted):
        raise LlamuneError(
            f"{name} is another file than {model} was tuned from",
            hint="name the base: --baseline REF",
        )
    return base


def digits(digest: str) -> str:
    """Return the first file's hex digits of a digest, `sha256:` in front or not."""
    return digest.split(maxsplit=1)[0].removeprefix("sha256:")


def forgotten(model: Model | str, baseline: Model | str, asking: Asking) -> Forgetting:
    """Put the general suite to a model and its baseline.

    Raises:
        EngineError: the engine cannot be had, or refuses a question.
    """
    items = list(general_items())
    metrics = general_metrics(items)
    if isinstance(model, str):  # likelihoods cannot be had from afar
        asked = [(i, m) for i, m in zip(items, metrics, strict=True) if m.needs == "answer"]
        items, metrics = [item for item, _ in asked], [metric for _, metric in asked]
    before, after = (
        [outcome.score for outcome in outcomes_of(one, items, metrics, asking)]
        for one in (baseline, model)
    )
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.category or "", []).append(place)
    return Forgetting(
        baseline=str(baseline),
        comparison=comparison_of(GENERAL, MIXED, before, after),
        categories={
            name: (mean_at(before, chosen), mean_at(after, chosen))
            for name, chosen in places.items()
        },
    )


def mean_at(values: Sequence[float], places: Sequence[int]) -> float:
    """Return the mean of the values at some places."""
    return sum(values[place] for place in places) / len(places)
