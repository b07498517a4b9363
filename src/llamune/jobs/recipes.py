"""`llamune recipe init`: a recipe with every value filled in for a model, its data, a machine."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llamune.jobs.choosing import gather
from llamune.jobs.preparing import Prepared
from llamune.jobs.telling import describe
from llamune.jobs.tuning import opened_with, prepare_for
from llamune.runs import Recipe

__all__ = ["recipe_for", "recipe_text"]

COLUMNS = 88
DERIVED = {
    "rank": "by the number of records: {n} here",
    "learning_rate": "by model size, batch and steps",
    "steps": "by {n} records and the batch",
    "batch": "by {n} records",
    "micro_batch": "the largest that the plan says fits",
    "dropout": "a little when records are few",
    "max_length": "the longest record, at most 2048 and the model's context",
    "warmup_steps": "a tenth of the steps, at most 20",
}


def recipe_for(
    reference: str,
    data: Sequence[str | Path],
    *,
    name: str,
    preset: str | None = None,
    hours: float | None = None,
    folder: Path | None = None,
    **choices: Any,
) -> str:
    """Return a commented recipe as YAML; nothing is trained.

    Args:
        reference: the base model.
        data: files of examples.
        name: what the tuned model will be called.
        preset: `classic` for the usual tutorial's settings.
        hours: fit the training to this time.
        folder: where it will lie; files below it are named from there, others by their full path.
        **choices: fields of the recipe that are set already.

    Raises:
        LlamuneError: model or data cannot be used; see `tune`.
    """
    given = {"base": reference, "data": list(data), "name": name, **choices}
    chosen, passes = gather(given, recipe=None, preset=preset, epochs=None, hours=hours)
    with opened_with(chosen) as base:
        return recipe_text(prepare_for(base, chosen, passes, hours=hours), folder=folder)


def recipe_text(prepared: Prepared, *, folder: Path | None = None) -> str:
    """Return a settled recipe as YAML, each value with what it means above it."""
    lines = ["# A recipe for `llamune tune --recipe FILE`; every value may be changed.", "#"]
    lines += [f"#   {line}" for line in describe(prepared)]
    recipe, model = prepared.recipe, prepared.opened.model
    if model.store is None:  # a file, which a recipe elsewhere would not find
        recipe = recipe.model_copy(update={"base": str(model.path.absolute())})
    values = recipe.model_dump(mode="json")
    for entry in (*values["data"], *values["test"]):
        entry["path"] = seen_from(folder, Path(entry["path"]))
    n_records = len(prepared.training.rendered)
    for key, value in values.items():
        comment = Recipe.model_fields[key].description or ""
        if key in DERIVED:
            comment += f" ({DERIVED[key].format(n=f'{n_records:,}')})"
        lines += ["", *textwrap.wrap(comment, COLUMNS, initial_indent="# ", subsequent_indent="# ")]
        lines += yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True).splitlines()
    return "\n".join(lines) + "\n"


def seen_from(folder: Path | None, path: Path) -> str:
    """Return a path as a file in a folder names it: relative where it is below it."""
    if folder is not None and path.is_relative_to(folder.absolute()):
        return str(path.relative_to(folder.absolute()))
    return str(path)
