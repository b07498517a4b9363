"""What a person chose for a training: options before a recipe file, that before a preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamune.arch import Family
from llamune.errors import UnsupportedError
from llamune.jobs.adapters import adapter_named, settings_of_adapter
from llamune.jobs.preparing import Opened
from llamune.runs import PRESETS, RecipeError, check_choices, read_choices

__all__ = ["gather", "with_adapter_settings"]


def gather(
    given: Mapping[str, Any],
    *,
    recipe: Path | None,
    preset: str | None,
    epochs: float | None,
    hours: float | None,
) -> tuple[dict[str, Any], float | None]:
    """Bring options, recipe file and preset together; the first goes before the next.

    Returns:
        The chosen fields, and passes over the data where no steps were chosen.

    Raises:
        RecipeError: an unknown key or preset, or base, data or name is missing.
    """
    if preset is not None and preset not in PRESETS:
        raise RecipeError(f"no preset is called {preset!r}", hint=f"presets: {', '.join(PRESETS)}")
    options = {key: value for key, value in given.items() if value is not None}
    if "data" in options and not isinstance(options["data"], str | Path):
        options["data"] = list(options["data"])
    chosen = check_choices(options, where="options")
    if recipe is not None:
        by_passes = epochs is not None or hours is not None
        chosen = {**giving_way(read_choices(recipe), chosen, by_passes=by_passes), **chosen}
    if preset is not None:
        chosen = {**PRESETS[preset].settings(chosen.get("method", "lora")), **chosen}
        if "steps" not in chosen and hours is None:
            epochs = epochs or PRESETS[preset].epochs
    if missing := [key for key in ("base", "data", "name") if key not in chosen]:
        examples = {"base": "REF", "data": "--data FILE", "name": "--name NAME"}
        raise RecipeError(
            f"{' and '.join(missing)} must be given",
            hint=" ".join(examples[key] for key in missing),
        )
    return findable(chosen), epochs


def findable(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return choices whose paths mean the same from any folder: a run goes on from elsewhere."""
    found = dict(chosen)
    for key in {"data", "test"} & found.keys():
        found[key] = tuple(
            entry.model_copy(update={"path": entry.path.expanduser().absolute()})
            for entry in found[key]
        )
    for key in {"template", "from_adapter"} & found.keys():
        path = Path(found[key] or "").expanduser()
        if found[key] and path.exists():  # else a name
            found[key] = str(path.absolute())
    return found


def giving_way(
    recipe: Mapping[str, Any], options: Mapping[str, Any], *, by_passes: bool
) -> dict[str, Any]:
    """Return a recipe file's choices without those that an option contradicts.

    `recipe init` writes every value out, so that an option meets what follows from the value in
    its place: steps and their warm-up, a batch and its micro-batch. Those are settled anew.

    Args:
        recipe: the file's choices.
        options: what was chosen beside it.
        by_passes: whether passes or hours were given, in place of steps.
    """
    gone = {"steps", "warmup_steps"} if by_passes else set()
    if options.get("steps", math.inf) <= recipe.get("warmup_steps", 0):
        gone.add("warmup_steps")
    micro_batch = recipe.get("micro_batch", 0)
    if "batch" in options and (
        micro_batch > options["batch"] or micro_batch == recipe.get("batch")
    ):
        gone.add("micro_batch")
    return {key: value for key, value in recipe.items() if key not in gone}


def with_adapter_settings(base: Opened, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Add what an adapter to go on from fixes.

    Raises:
        RecipeError: something else was chosen.
    """
    if (origin := chosen.get("from_adapter")) is None:
        return dict(chosen)
    if chosen.get("add_tokens"):
        raise UnsupportedError(
            f"new tokens with an adapter to go on from: {origin} was trained without them",
            hint="merge it first (llamune merge), then tune the merged model with --add-token",
        )
    fixed = settings_of_adapter(adapter_named(origin, base), base.family)
    for key, value in fixed.items():
        if key in chosen and not same_setting(key, chosen[key], value, base.family):
            raise RecipeError(
                f"{origin} has {key} {value}, and {chosen[key]} was chosen",
                hint=f"leave {key} out: an adapter goes on as it is",
            )
    return {**chosen, **fixed}


def same_setting(key: str, chosen: Any, fixed: Any, family: Family) -> bool:
    """Whether two values of a field mean the same; layers may be named in several ways."""
    if key != "targets":
        return bool(chosen == fixed)
    return set(family.linear_modules(chosen)) == set(family.linear_modules(fixed))
