"""A small general suite: what a tuning may have cost elsewhere.

Knowledge, instructions, arithmetic and language in English and Japanese, written for this
project; every answer can be checked by a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from llamune.evaluate.items import Item, read_items
from llamune.evaluate.metrics import Metric, metric_named

__all__ = ["GENERAL", "general_items", "general_metrics"]

GENERAL = "general"


@cache
def general_items() -> tuple[Item, ...]:
    """Return the questions of the suite."""
    with resources.as_file(resources.files("llamune.evaluate").joinpath("general.json")) as path:
        return tuple(read_items([Path(path)]))


def general_metrics(items: Sequence[Item]) -> list[Metric]:
    """Return the metric of each question: all score 0 or 1."""
    return [metric_named(item.metric or "exact") for item in items]
