"""What a report says of full training only: the method, rounding, and the type that is served."""

from __future__ import annotations

from llamune.jobs.formats import bytes_text
from llamune.runs import Recipe, RunRecord
from llamune.words import Catalogue

__all__ = ["full_method", "rounding_rows", "served_lines"]


def full_method(recipe: Recipe, words: Catalogue) -> str:
    """Return how every weight was trained."""
    text = words(
        "method-dense" if recipe.dense else "method-full",
        type=recipe.weight_type if recipe.dense else recipe.keep_type,
        optimizer=recipe.optimizer,
    )
    return text + (words("with-embeddings") if recipe.train_embeddings else "")


def rounding_rows(record: RunRecord, words: Catalogue) -> list[tuple[str, str, str]]:
    """Return what rounding was predicted to add to a weight, and what it did."""
    rounding = record.rounding
    if rounding is None:
        return []
    found = words("none")
    if rounding.measured is not None:
        found = words(
            "rounding-value", size=rounding.measured, times=rounding.measured / rounding.own
        )
    guess = words(
        "rounding-value", size=rounding.predicted, times=rounding.predicted / rounding.own
    )
    return [(words("rounding", type=rounding.type), guess, found)]


def served_lines(record: RunRecord, words: Catalogue) -> list[str]:
    """Return how the trained model does at each type it was written in, a table."""
    if not record.served:
        return []
    keys = ("served-type", "served-size", "validation-loss", "served-kl")
    lines = [f"| {' | '.join(words(key) for key in keys)} |", "|---|---|---|---|"]
    for one in record.served:
        kind = f"{one.type}, {words(f'round-{one.round}')}"
        if one.chosen:
            kind = f"**{kind}**"
        loss = words("none") if one.loss is None else f"{one.loss:.4f}"
        kl = words("none") if one.kl is None else f"{one.kl:.2e}"
        lines.append(f"| {kind} | {bytes_text(one.bytes)} | {loss} | {kl} |")
    return lines
