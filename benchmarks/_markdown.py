"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["plus_minus", "table"]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its first column to the left and all others to the right."""
    rule = "|".join(["---", *["---:"] * (len(headings) - 1)])
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def plus_minus(value: Mapping[str, Any], pattern: str = "{:.3f}", scale: float = 1.0) -> str:
    """Return a mean over seeds with half of its interval, where there is more than one seed."""
    text = pattern.format(scale * value["mean"])
    half = value["half_width"]
    return text if not half else f"{text} ± {pattern.format(scale * half)}"
