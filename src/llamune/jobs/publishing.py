"""Putting a stored model or a finished run where other programs find it."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.jobs.merging import merge
from llamune.jobs.preparing import opened
from llamune.jobs.products import bare, given_template, product_in, publish_product
from llamune.runs import Run
from llamune.store import (
    Adapter,
    Model,
    ModelName,
    Placed,
    Sharing,
    check_place,
    copy_model,
    home,
    needs_merge,
    place_file,
    place_in_lmstudio,
    place_in_ollama,
    resolve,
)

__all__ = ["Publication", "checked_target", "plan_publication", "publish"]

PLACES = ("library", "ollama", "lmstudio")
Advance = Callable[[int], object]
OnStatus = Callable[[str], object]


@dataclass(frozen=True)
class Publication:
    """What will be published.

    Args:
        model: its base file, small layers and adapters.
        name: under which it appears.
        to: `library`, `ollama`, `lmstudio`, or a path.
        merging: whether the adapters are folded in first, since the place takes plain files.
        run: the run it comes from, when one was named.
        noted_in: the run whose record says where it went: that one, or the one that made the
            model.
    """

    model: Model
    name: ModelName
    to: str
    merging: bool
    run: Run | None = None
    noted_in: Run | None = None


def checked_target(to: str, name: str, *, replace: bool) -> str:
    """Return a place, a path in full; refuse, before a model is made, one that would not take it.

    Args:
        to: `library`, `ollama`, `lmstudio`, or a path.
        name: under which it will appear.
        replace: whether what has that name there may be replaced.

    Raises:
        LlamuneError: no such place, the name is taken there, or it cannot be written to.
    """
    refuse_unknown_place(to)
    if to == "library":
        return to
    target = to if to in PLACES else str(Path(to).expanduser().absolute())
    check_place(target, ModelName.parse(name), replace=replace)
    return target


def refuse_unknown_place(to: str) -> None:
    """Refuse a word that is no place's name and does not look like a path.

    Raises:
        LlamuneError: with the nearest right name.
    """
    path = Path(to).expanduser()
    if to in PLACES or os.sep in to or "/" in to or path.suffix or path.is_dir():
        return
    near = difflib.get_close_matches(to, PLACES, n=1)
    wanted = f"did you mean `{near[0]}`?" if near else f"places: {', '.join(PLACES)}"
    raise LlamuneError(f"no place is called {to!r}", hint=f"{wanted} A file is written ./{to}.gguf")


def plan_publication(reference: str, *, to: str, name: str | None = None) -> Publication:
    """Find out what will be published and how; every refusal but a taken name happens here.

    Args:
        reference: a model's name or file, or a run as `name#n`.
        to: `library`, `ollama`, `lmstudio`, or a path.
        name: under which it appears there; default its own.

    Raises:
        UnknownModelError: there is no such model.
        LlamuneError: there is no such run or place, the run has made nothing that may be
            published, or a file has no name.
    """
    refuse_unknown_place(to)
    run = Run.find(reference) if "#" in reference else None
    model = resolve(reference) if run is None else model_of_run(run)
    wanted = ModelName.parse(name) if name else model.name
    if wanted is None:
        raise LlamuneError(f"{reference}: a file has no name of its own", hint="add --as NAME")
    merging = to != "library" and needs_merge(model, target=to)
    return Publication(model, wanted, to, merging, run, run or run_behind(model))


def run_behind(model: Model) -> Run | None:
    """Return the run that made a stored model, or None where it is not one of this machine."""
    with suppress(LlamuneError, OSError):
        run = Run.find(model.annotations.get("llamune.run", ""))
        if sha256_of(run.recipe_path) == model.annotations.get("llamune.recipe.sha256"):
            return run
    return None


def model_of_run(run: Run) -> Model:
    """Return the base of a run with the adapter that the run made, or without where it made more.

    Raises:
        LlamuneError: the run has made nothing yet, or its proof failed.
    """
    base, product = run.record.base, product_in(run)
    if base is None or product is None:
        raise LlamuneError(
            f"{run.reference}: has no adapter yet", hint="llamune runs show tells its state"
        )
    if (run.record.proof or {}).get("verdict") == "fail":
        raise LlamuneError(
            f"{run.reference}: its proof failed, so it is not published",
            hint=f"what differs: {run.report_path}",
        )
    return dataclasses.replace(
        resolve(base.reference),
        ref=run.reference,
        name=ModelName.parse(run.name),
        adapters=() if product.adapter is None else (Adapter(product.adapter),),
    )


def publish(
    plan: Publication,
    *,
    replace: bool = False,
    type: str | None = None,  # noqa: A002  the word of the command
    sharing: Sharing = "copy",
    advance: Advance | None = None,
    on_status: OnStatus = lambda _: None,
) -> Placed:
    """Carry out a publication, and note it in the record of the run that made the model.

    Args:
        plan: from `plan_publication`.
        replace: whether what has that name there may be replaced.
        type: quant type of the changed tensors of a merged file, or `own`; default the base's own
            where that keeps the change, else Q8_0.
        sharing: how far to go in the library when bytes cannot be shared.
        advance: called with the number of bytes written, sent or copied.
        on_status: called with each step in words.

    Raises:
        LlamuneError: the name is taken, or the place refuses.
    """
    model, name = plan.model, plan.name
    with merged_file(plan, type, on_status) as merged:
        if plan.to == "library":
            placed = into_library(plan, replace=replace, sharing=sharing, advance=advance)
        elif plan.to == "ollama":
            placed = place_in_ollama(
                model, name, merged=merged, replace=replace, advance=advance, on_status=on_status
            )
        elif plan.to == "lmstudio":
            placed = place_in_lmstudio(model, name, merged=merged, replace=replace, advance=advance)
        else:
            placed = place_file(
                model, Path(plan.to).expanduser(), merged=merged, replace=replace, advance=advance
            )
    if plan.noted_in is not None:
        line = f"{plan.to}: {placed.where}, {placed.digest or 'digest unknown'}"
        plan.noted_in.update(published=(*plan.noted_in.record.published, line))
    return placed


def into_library(
    plan: Publication, *, replace: bool, sharing: Sharing, advance: Advance | None
) -> Placed:
    """Publish in our library: an adapter beside its base, anything else as it is."""
    if plan.run is None:
        model = copy_model(plan.model, plan.name, replace=replace, sharing=sharing, advance=advance)
        return Placed(str(model), "in our library", model.digest)
    run, product = plan.run, product_in(plan.run)
    base = run.record.base
    assert product is not None  # noqa: S101  told by `plan_publication`
    with opened(base.reference if base else run.name, template=run.recipe.template) as found:
        lineage = {
            "llamune.base.digest": found.model.digest or "",
            "llamune.base.name": str(found.model),
            "llamune.run": run.reference,
            "llamune.recipe.sha256": sha256_of(run.recipe_path),
            "llamune.data.sha256": run.record.data.fingerprint if run.record.data else "",
        }
        model = publish_product(
            plan.name,
            bare(found.model),
            product,
            annotations={key: text for key, text in lineage.items() if text},
            template=given_template(found),
            replace=replace,
            sharing=sharing,
            advance=advance,
        )
    how = "in our library" if product.adapter is None else "in our library, beside its base"
    return Placed(str(model), how, model.digest)


@contextmanager
def merged_file(plan: Publication, kind: str | None, on_status: OnStatus) -> Iterator[Path | None]:
    """Yield a file with what was trained in it, where the publication wants one.

    A run that made a whole file has it already. Without measuring: `llamune merge` does that, and
    what it writes can be published as a file.
    """
    product = None if plan.run is None else product_in(plan.run)
    if product is not None and product.whole is not None:
        yield product.whole
        return
    if not plan.merging:
        yield None
        return
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".merge-") as folder:
        out = Path(folder) / "merged.gguf"
        base = plan.run.record.base if plan.run is not None else None
        report = merge(
            plan.model.ref if base is None else base.reference,
            [] if plan.run is None else [plan.run.reference],
            out=out,
            type=kind,
            round="nearest",
            measure=False,
            on_step=on_status,
        )
        on_status(f"merged as {report.type}")
        yield out
