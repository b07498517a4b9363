"""From the type that was trained in to the type that is served: written, measured, one chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llamune.convert import file_type, plan_quantize, quantize
from llamune.files import sha256_of
from llamune.gguf import ModelFile
from llamune.jobs.calibrating import can_calibrate, compensated_rounding, texts_of_run
from llamune.jobs.events import OnJobEvent, Stage
from llamune.jobs.merge_measures import HeldOut, Losses, few_enough, losses_of, reference_of
from llamune.jobs.merge_report import COMPENSATED, ENOUGH, FINE, NEAREST
from llamune.jobs.preparing import Opened, Prepared
from llamune.runs import Run, Served
from llamune.train import Said

__all__ = ["bring_to_type"]


def bring_to_type(
    run: Run, prepared: Prepared, trained: Path, out: Path, *, kind: str, on_event: OnJobEvent
) -> None:
    """Write the trained model at another file type, and record what that cost.

    Both roundings are tried where the type is coarse enough for the second to help, and what
    loses less on the held-out records is kept.

    Args:
        run: its folder.
        prepared: base and recipe.
        trained: the file as it was trained.
        out: the new file; one that is there is replaced.
        kind: the file type.
        on_event: called with each stage.
    """
    with opened_trained(prepared, trained) as base:
        written = {
            rounding: write_rounded(
                run, base, kind, rounding, out.with_name(f".{rounding}.gguf"), on_event=on_event
            )
            for rounding in roundings(kind)
        }
        on_event(Stage(name="measuring the step from trained to served"))
        rows = measured(run, prepared, trained, written, kind=kind)
        best = min(rows[1:], key=lambda row: (row.loss is not None and row.loss, row.round))
        for rounding, path in written.items():
            if rounding == best.round:
                path.replace(out)
            else:
                path.unlink()
    rows = [replace_chosen(row, chosen=row is best) for row in rows]
    run.update(served=tuple(rows))
    on_event(Said(text=recommendation(run, rows)))


def roundings(kind: str) -> list[str]:
    """Return the ways to round to a file type that are tried."""
    coarse = file_type(kind).base.bpw < file_type(FINE).base.bpw
    return [NEAREST, COMPENSATED] if coarse and can_calibrate() else [NEAREST]


@contextmanager
def opened_trained(prepared: Prepared, trained: Path) -> Iterator[Opened]:
    """Yield the base with the trained file in its place."""
    base = prepared.opened
    model = replace(base.model, paths=(trained,), digest=None, adapters=())
    with ModelFile.open(trained) as file:
        yield replace(base, model=model, file=file, paths=(trained,))


def write_rounded(
    run: Run, base: Opened, kind: str, rounding: str, out: Path, *, on_event: OnJobEvent
) -> Path:
    """Write the trained model at a file type."""
    on_event(Stage(name=f"writing it at {kind}, rounded {rounding}"))
    plan = plan_quantize(base.file, file_type(kind))
    compensated = None
    if rounding == COMPENSATED:
        linear = {rule.gguf for rule in base.family.rules.values() if rule.role == "linear"}
        compensated = compensated_rounding(
            base,
            texts_of_run(run, base) or [],
            types={name: plan.types[name] for name in plan.changed if name in linear},
            weight_of=base.file.floats,
            identity={"trained": sha256_of(base.paths[0])},
            on_step=lambda step: on_event(Stage(name=step)),
        )
    quantize(plan, out, round=compensated, requantize=True, replace=True)
    if compensated is not None:
        compensated.discard()
    return out


def measured(
    run: Run, prepared: Prepared, trained: Path, written: dict[str, Path], *, kind: str
) -> list[Served]:
    """Return how the trained file does, then each of the others, on held-out records.

    The KL is from the trained file. Without held-out records there are sizes only.
    """
    recipe = prepared.recipe
    kept = recipe.weight_type if recipe.dense else recipe.keep_type
    chosen = few_enough(prepared.validation_rendered, prepared.opened.tokenizer.n_vocab)
    held_out = HeldOut(records=chosen, source=f"the records that {run.reference} held out")
    reference = reference_of([trained], held_out) if chosen else None
    first = Served(
        type=kept,
        round="trained",
        bytes=trained.stat().st_size,
        loss=None if reference is None else reference.loss,
        kl=None if reference is None else 0.0,
    )
    rows = [first]
    for rounding, path in written.items():
        losses: Losses | None = None
        if reference is not None:
            losses = losses_of([path], held_out, reference=reference)
        rows.append(
            Served(
                type=kind,
                round=rounding,
                bytes=path.stat().st_size,
                loss=None if losses is None else losses.loss,
                kl=None if losses is None else losses.kl,
            )
        )
    return rows


def replace_chosen(row: Served, *, chosen: bool) -> Served:
    """Return a row that says whether its file is the result."""
    return row.model_copy(update={"chosen": chosen})


def recommendation(run: Run, rows: list[Served]) -> str:
    """Return what the measurements speak for: the final type, or what was trained in."""
    trained, best = rows[0], next(row for row in rows if row.chosen)
    before = run.record.loss.validation_before
    if trained.loss is None or best.loss is None or before is None or before <= trained.loss:
        return f"served at {best.type}, rounded {best.round}; what that costs was not measured"
    share = (before - best.loss) / (before - trained.loss)
    says = f"at {best.type}, rounded {best.round}, {share:.0%} of what was learned is left"
    if share >= ENOUGH:
        return says
    return f"{says}; better serve it at {trained.type}: leave out --final-type"
