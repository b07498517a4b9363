"""Putting a stored model or a finished run where other programs find it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llamune.adapter import merge, read_adapter
from llamune.arch import describe
from llamune.errors import LlamuneError
from llamune.files import sha256_of
from llamune.gguf import ModelFile, QuantType, TensorInfo, quant_type
from llamune.runs import Run
from llamune.store import (
    Adapter,
    Model,
    ModelName,
    Placed,
    Sharing,
    copy_model,
    home,
    needs_merge,
    place_file,
    place_in_lmstudio,
    place_in_ollama,
    publish_adapter,
    resolve,
)

__all__ = ["Publication", "plan_publication", "publish"]

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Publication:
    """What will be published.

    Args:
        model: its base file, small layers and adapters.
        name: under which it appears.
        to: `library`, `ollama`, `lmstudio`, or a path.
        merging: whether the adapters are folded in first, since the place takes plain files.
        run: the run it comes from, when one was named.
    """

    model: Model
    name: ModelName
    to: str
    merging: bool
    run: Run | None = None


def plan_publication(reference: str, *, to: str, name: str | None = None) -> Publication:
    """Find out what will be published and how; every refusal but a taken name happens here.

    Args:
        reference: a model's name or file, or a run as `name#n`.
        to: `library`, `ollama`, `lmstudio`, or a path.
        name: under which it appears there; default its own.

    Raises:
        UnknownModelError: there is no such model.
        LlamuneError: there is no such run, it has no adapter yet, or a file has no name.
    """
    run = Run.find(reference) if "#" in reference else None
    model = resolve(reference) if run is None else model_of_run(run)
    wanted = ModelName.parse(name) if name else model.name
    if wanted is None:
        raise LlamuneError(f"{reference}: a file has no name of its own", hint="add --as NAME")
    merging = to != "library" and needs_merge(model, target=to)
    return Publication(model, wanted, to, merging, run)


def model_of_run(run: Run) -> Model:
    """Return the base of a run with the adapter that the run made.

    Raises:
        LlamuneError: the run has no adapter yet.
    """
    base = run.record.base
    if base is None or not run.adapter_gguf.is_file():
        raise LlamuneError(
            f"{run.reference}: has no adapter yet", hint="llamune runs show tells its state"
        )
    return dataclasses.replace(
        resolve(base.reference),
        ref=run.reference,
        name=ModelName.parse(run.name),
        adapters=(Adapter(run.adapter_gguf),),
    )


def publish(
    plan: Publication,
    *,
    replace: bool = False,
    sharing: Sharing = "copy",
    advance: Advance | None = None,
    on_status: Callable[[str], object] | None = None,
) -> Placed:
    """Carry out a publication, and note it in the run's record.

    Args:
        plan: from `plan_publication`.
        replace: whether what has that name there may be replaced.
        sharing: how far to go in the library when bytes cannot be shared.
        advance: called with the number of bytes written, sent or copied.
        on_status: called with what Ollama says it is doing.

    Raises:
        LlamuneError: the name is taken, or the place refuses.
    """
    model, name = plan.model, plan.name
    with merged_file(plan, advance) as merged:
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
    if plan.run is not None:
        line = f"{plan.to}: {placed.where}, {placed.digest or 'digest unknown'}"
        plan.run.update(published=(*plan.run.record.published, line))
    return placed


def into_library(
    plan: Publication, *, replace: bool, sharing: Sharing, advance: Advance | None
) -> Placed:
    """Publish in our library: an adapter beside its base, anything else as it is."""
    if plan.run is None:
        model = copy_model(plan.model, plan.name, replace=replace, sharing=sharing, advance=advance)
        return Placed(str(model), "in our library", model.digest)
    base = plan.run.record.base
    found = resolve(base.reference if base is not None else plan.run.name)
    lineage = {
        "llamune.base.name": str(found),
        "llamune.run": plan.run.reference,
        "llamune.recipe.sha256": sha256_of(plan.run.recipe_path),
        "llamune.data.sha256": plan.run.record.data.fingerprint if plan.run.record.data else "",
    }
    model = publish_adapter(
        plan.name,
        found,
        plan.run.adapter_gguf,
        {key: text for key, text in lineage.items() if text},
        replace=replace,
        sharing=sharing,
        advance=advance,
    )
    return Placed(str(model), "in our library, beside its base", model.digest)


@contextmanager
def merged_file(plan: Publication, advance: Advance | None) -> Iterator[Path | None]:
    """Yield a file with the adapters folded in, where the publication wants one."""
    if not plan.merging:
        yield None
        return
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=".merge-") as folder:
        out = Path(folder) / "merged.gguf"
        fold(plan.model, out, advance)
        yield out


def fold(model: Model, out: Path, advance: Advance | None) -> None:
    """Write a model with its adapters folded in, the changed tensors in Q8_0.

    Rounding a small change into the base's own 4-bit blocks would lose most of it.
    """
    roomy = quant_type("Q8_0")
    with ModelFile.open(list(model.paths), mapped=model.store is not None) as base:
        family = describe(base)
        adapters = [(read_adapter(found.path, family), found.scale) for found in model.adapters]
        changed = {name for adapter, _ in adapters for name in (*adapter.pairs, *adapter.replaced)}

        def type_of(tensor: TensorInfo) -> QuantType:
            fits = tensor.n_columns % roomy.block_size == 0 and tensor.type.bpw < roomy.bpw
            return roomy if tensor.name in changed and fits else tensor.type

        merge(base, adapters, out, type_of=type_of, advance=advance)
