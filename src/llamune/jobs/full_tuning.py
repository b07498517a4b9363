"""What `tune --method full` does otherwise: loading to train in the blocks, and a whole file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llamune.errors import UnsupportedError
from llamune.files import sha256_of
from llamune.gguf import Entry, ModelFile, QuantType
from llamune.jobs.events import OnJobEvent, Stage
from llamune.jobs.full_types import bring_to_type
from llamune.jobs.preparing import Prepared
from llamune.runs import Recipe, Rounding, Run
from llamune.train import (
    ROUNDING,
    TRAINED_MODEL,
    NoiseForecast,
    Team,
    check_dense,
    checkpoint_folder,
    checkpoint_steps,
    dense_loop,
    forecast_noise,
    needs_widening,
    packed_loop,
    trained_types,
    widen,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llamune.nn import Compute
    from llamune.train.loop import Loop

__all__ = [
    "bytes_needed",
    "check_full",
    "describe_full",
    "keep_paused_full",
    "load_full",
    "write_full",
]

START = "start.gguf"  # the base at the types that are trained
SHARED_OUT = ("weights", "gradients", "optimizer")  # parts of the memory of dense training


def check_full(prepared: Prepared) -> None:
    """Refuse, before a run is made, what full training cannot do with this base.

    Raises:
        UnsupportedError: rows that do not divide into the keep type's blocks, several processes
            for packed weights, or an optimizer that dense weights cannot have here.
    """
    n_processes = Team.of_environment().size
    if prepared.recipe.dense:
        check_dense(prepared.recipe, n_processes=n_processes)
        return
    types_of(prepared)
    if n_processes > 1:
        raise UnsupportedError(
            "packed weights are trained in one process", hint="--dense for several, with torchrun"
        )


def bytes_needed(prepared: Prepared, team: Team | None = None) -> int:
    """Return what the training is predicted to take of the memory that its plan looks at.

    Several processes hold a part of dense weights each, of their gradients and of what is
    remembered of them; everything else each holds for itself.

    Args:
        prepared: the training.
        team: the processes; default as torchrun says.
    """
    plan, team = prepared.plan, team or Team.of_environment()
    if team.size == 1 or not prepared.recipe.dense:
        return plan.memory.total_bytes
    shared = sum(part.nbytes for part in plan.memory.parts if part.key in SHARED_OUT)
    of_a_process = shared / team.size + plan.memory.uncorrected_bytes - shared
    n_in_one_memory = team.local_size if plan.machine.device == "cpu" else 1
    return int(of_a_process * n_in_one_memory * plan.memory.factor)


def describe_full(prepared: Prepared) -> list[str]:
    """Return what is about to be trained, and what rounding will add to it, a line each."""
    recipe = prepared.recipe
    parts = "all layers, token embedding and output" if recipe.train_embeddings else "all layers"
    kept = recipe.weight_type if recipe.dense else recipe.keep_type
    lines = [
        f"recipe    full: {parts} in {kept}, {recipe.optimizer}, "
        f"lr {recipe.learning_rate:g}, {recipe.steps:,} steps of {recipe.batch}"
    ]
    if recipe.dense:
        return lines
    found, *finer = forecasts(prepared)
    lines.append(
        f"rounding  {found.added:.1e} a weight over the run, {found.times_own:.1f} times what "
        f"{found.kind} rounds off once (estimate)"
    )
    if found.exceeds:
        others = [f"--keep-type {one.kind.lower()} adds {one.added:.1e}" for one in finer]
        others.append(f"--lr {found.quiet_rate:.1e} would stay below it")
        lines.append(f"note      {', '.join(others)}")
    return lines


def load_full(
    run: Run, prepared: Prepared, compute: Compute, device: str, *, on_event: OnJobEvent
) -> tuple[PreTrainedModel, Callable[..., Loop]]:
    """Return the base with every layer trainable in its blocks, and what makes its loop.

    A base at another type is first brought to the keep type, in the run's folder.
    """
    import torch

    from llamune.nn import load, process_mesh

    recipe, base, team = prepared.recipe, prepared.opened, Team.of_environment()
    if compute.n_threads:
        torch.set_num_threads(max(1, compute.n_threads // team.local_size))
    entries = lineage(run, prepared)
    if recipe.dense:
        dtype = getattr(torch, recipe.weight_type)
        mesh = process_mesh(device) if team.size > 1 else None
        model = load(
            base.file, family=base.family, device=device, dtype=dtype, unpack=True, mesh=mesh
        )
        return model, dense_loop(model, base.file, base.family, recipe, entries=entries)
    types, paths = types_of(prepared), base.paths
    if needs_widening(base.file, types):
        start = run.folder / START
        if not start.is_file():
            on_event(Stage(name=f"bringing the weights to {recipe.keep_type}"))
            widen(base.file, types, start)
        paths = (start,)
    file = ModelFile.open(paths, mapped=False)  # what is written must not be a map
    dtype = getattr(torch, type_computed_in(recipe, compute.dtype))
    model = load(file, family=base.family, device=device, dtype=dtype, compiled=False)
    return model, packed_loop(model, file, base.family, recipe, entries=entries)


def types_of(prepared: Prepared) -> dict[str, QuantType]:
    """Return the type that each trained tensor is kept in."""
    recipe, base = prepared.recipe, prepared.opened
    return trained_types(
        base.file,
        base.family,
        keep_type=recipe.keep_type,
        train_embeddings=recipe.train_embeddings,
    )


def type_computed_in(recipe: Recipe, measured: str) -> str:
    """Return the type that layers compute in: never f16, whose range gradients leave."""
    chosen = measured if recipe.compute_type == "auto" else recipe.compute_type
    return "float32" if chosen == "float16" else chosen


def lineage(run: Run, prepared: Prepared) -> dict[str, Entry]:
    """Return the keys that say where the trained file comes from."""
    model = prepared.opened.model
    digest = model.digest or f"sha256:{sha256_of(model.path)}"
    return {"llamune.base.digest": Entry.of(digest), "llamune.run": Entry.of(run.reference)}


def keep_paused_full(run: Run) -> None:
    """Record the newest checkpoint's model, so that a stopped run can be looked at."""
    if steps := checkpoint_steps(run.checkpoints):
        newest = checkpoint_folder(run.checkpoints, steps[-1])
        run.update(files={**run.record.files, "paused_model": newest / TRAINED_MODEL})


def write_full(run: Run, prepared: Prepared, *, on_event: OnJobEvent) -> Path:
    """Return the finished model, a whole file, and clear away what only training needed.

    At the type that was trained in, it is the very file that training wrote; at another final type
    that file stays beside it.
    """
    recipe, trained = prepared.recipe, run.folder / TRAINED_MODEL
    (run.folder / START).unlink(missing_ok=True)
    run.update(rounding=rounding_of(run, prepared))
    kind = (recipe.final_type or recipe.keep_type).upper()
    if kind == recipe.keep_type and not recipe.dense:
        trained.replace(run.model_gguf)
    else:
        bring_to_type(run, prepared, trained, run.model_gguf, kind=kind, on_event=on_event)
    return run.model_gguf


def rounding_of(run: Run, prepared: Prepared) -> Rounding | None:
    """Return what rounding was predicted to add, and what it did; None for dense weights."""
    if prepared.recipe.dense:
        return None
    predicted = forecasts(prepared)[0]
    found = json.loads((run.folder / ROUNDING).read_text(encoding="utf-8"))
    return Rounding(
        type=predicted.kind,
        own=predicted.own,
        predicted=predicted.added,
        measured=found["measured"],
    )


def forecasts(prepared: Prepared) -> tuple[NoiseForecast, ...]:
    """Return what rounding will add at the keep type, and at finer ones."""
    base = prepared.opened
    names = [rule.gguf for rule in base.family.linear_modules("all").values()]
    return forecast_noise(base.file, names, prepared.recipe)
