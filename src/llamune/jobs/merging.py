"""Merging adapters into one file: measured at several types, the best kept, maybe published."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from llamune.adapter import (
    LoraAdapter,
    check_base,
    check_merge,
    read_adapter,
)
from llamune.errors import LlamuneError
from llamune.files import refuse_existing, sha256_of
from llamune.gguf import quant_type
from llamune.jobs.adapters import path_named
from llamune.jobs.calibrating import (
    Texts,
    can_calibrate,
    texts_of_files,
    texts_of_run,
)
from llamune.jobs.merge_candidates import MergeJob, OnStep, Written, judged
from llamune.jobs.merge_measures import (
    HeldOut,
    held_out_of_file,
    held_out_of_run,
)
from llamune.jobs.merge_report import (
    COMPENSATED,
    NEAREST,
    OWN,
    Candidate,
    HeldOutLosses,
    MergeReport,
)
from llamune.jobs.preparing import Opened, opened
from llamune.runs import Run
from llamune.store import ModelName, home, publish_model

__all__ = ["Candidate", "HeldOutLosses", "MergeReport", "merge", "parse_adapter"]


def parse_adapter(text: str) -> tuple[str, float]:
    """Return name and factor of `NAME@SCALE`; a factor of 1 when none is given.

    Raises:
        LlamuneError: what stands behind the last @ is no number, though nothing has that name.
    """
    name, at, factor = text.rpartition("@")
    if not at or Path(text).exists():
        return text, 1.0
    try:
        return name, float(factor)
    except ValueError:
        raise LlamuneError(
            f"{text}: {factor!r} is no factor", hint="write ADAPTER@0.5 to merge half of it"
        ) from None


def merge(
    base: str | Opened,
    adapters: Sequence[str] = (),
    *,
    out: Path | None = None,
    name: str | None = None,
    type: str | None = None,  # noqa: A002  the word of the command
    round: Literal["nearest", "compensated"] | None = None,  # noqa: A002  as above
    calibrate: Sequence[Path] = (),
    data: Sequence[Path] = (),
    measure: bool = True,
    force: bool = False,
    replace_existing: bool = False,
    n_threads: int | None = None,
    on_step: OnStep = lambda _: None,
) -> MergeReport:
    """Fold adapters into their base and write one GGUF file.

    Args:
        base: name, file, or opened; without `adapters`, a model that has adapters of its own.
        adapters: names, folders or files, each maybe with `@SCALE`.
        out: the new file.
        name: publish the merged model under this name in our library.
        type: quant type of the changed tensors, or `own`; default what is measured to keep the
            change: the base's own types if they keep four fifths of the gain, else Q8_0.
        round: how floats become blocks below Q8_0; default `compensated` where there is text to
            calibrate on and the extra `train` is installed.
        calibrate: data to calibrate on; default what the adapter's run was trained on.
        data: held-out records to measure with; default those that the adapter's run held out.
        measure: whether to measure; without it the share of the weights' change decides.
        force: merge although an adapter was trained on another base.
        replace_existing: whether a file or a name that exists may be replaced.
        n_threads: CPU threads of the measurement; default one a physical core.
        on_step: called with each step of the job, in words.

    Raises:
        WrongBaseError: an adapter was trained on another base.
        UnsupportedError: something that cannot be merged exactly.
        LlamuneError: neither `out` nor `name`, or what is there may not be replaced.
    """
    if out is None and name is None:
        raise LlamuneError("where should it go?", hint="-o FILE, or --name NAME")
    if out is not None:
        refuse_existing(out, replace=replace_existing)
    wanted = None if type is None else type_name(type)
    with open_base(base, adapters) as opened_base, scratch_folder(out) as scratch:
        chosen = list(read_adapters(opened_base, adapters, force=force))
        check_merge(opened_base.file, chosen)
        job = MergeJob(
            base=opened_base,
            adapters=chosen,
            scratch=scratch,
            n_threads=n_threads,
            texts=find_texts(opened_base, adapters, calibrate, round, on_step),
            rounding=round,
        )
        held_out = find_held_out(opened_base, adapters, data) if measure else None
        reference = job.reference(held_out, on_step) if held_out else None
        written = job.write_candidates(wanted, held_out, reference, on_step)
        best, report = judged(job, written, held_out, reference)
        if name is not None:
            on_step(f"publishing {name}")
            maker = next(runs_of(opened_base, adapters), None)
            published = publish(best, opened_base, name, maker, replace_existing=replace_existing)
            report = replace(report, name=published)
        if out is not None:
            refuse_existing(out, replace=replace_existing)
            best.path.replace(out)
            report = replace(report, path=out)
    return report


def open_base(base: str | Opened, adapters: Sequence[str]) -> AbstractContextManager[Opened]:
    """Return the base, opened with the template of the run that an adapter comes from."""
    if isinstance(base, Opened):
        return nullcontext(base)
    names = [parse_adapter(text)[0] for text in adapters]
    return opened(base, template=next((run.recipe.template for run in runs_named(names)), None))


@contextmanager
def scratch_folder(out: Path | None) -> Iterator[Path]:
    """Yield a folder on the file system of the result, gone afterwards."""
    parent = home() if out is None else out.resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".llamune-merge-", dir=parent) as scratch:
        yield Path(scratch)


def type_name(text: str) -> str:
    """Return `own` or the name of a quant type.

    Raises:
        LlamuneError: there is no such type.
    """
    return OWN if text.lower() == OWN else quant_type(text.upper()).name


def read_adapters(
    base: Opened, adapters: Sequence[str], *, force: bool
) -> Iterator[tuple[LoraAdapter, float]]:
    """Yield the adapters to merge with their factors, each checked against the base.

    Raises:
        LlamuneError: there is none.
    """
    if not adapters and not base.model.adapters:
        raise LlamuneError(
            f"{base.model} has no adapter of its own", hint="llamune merge BASE ADAPTER -o FILE"
        )
    if not adapters:
        for own in base.model.adapters:
            yield read_adapter(own.path, base.family), own.scale
        return
    digest = base.model.digest or f"sha256:{sha256_of(base.model.path)}"
    for text in adapters:
        name, factor = parse_adapter(text)
        adapter = read_adapter(path_named(name), base.family)
        check_base(adapter, digest, force=force)
        yield adapter, factor


def find_held_out(base: Opened, adapters: Sequence[str], data: Sequence[Path]) -> HeldOut | None:
    """Return records to measure with: the person's, else those that the one run held out."""
    if data:
        return held_out_of_file(data, base)
    for run in runs_of(base, adapters):
        if found := held_out_of_run(run, base):
            return found
    return None


def find_texts(
    base: Opened,
    adapters: Sequence[str],
    calibrate: Sequence[Path],
    rounding: str | None,
    on_step: OnStep,
) -> Texts | None:
    """Return text to calibrate on; None to round to nearest, which is said where it is a loss.

    Raises:
        LlamuneError: compensation was asked for and cannot be had.
    """
    if rounding == NEAREST:
        return None
    problem = None
    if not can_calibrate():
        problem = "the extra `train` is not installed"
    elif calibrate:
        return texts_of_files(calibrate, base)
    else:
        for run in runs_of(base, adapters):
            if texts := texts_of_run(run, base):
                return texts
        problem = "there is no training data to calibrate on"
    if rounding == COMPENSATED:
        raise LlamuneError(f"rounding with compensation: {problem}", hint="--calibrate DATA")
    on_step(f"{problem}: rounding to nearest, which loses much of a tuning below Q8_0")
    return None


def runs_of(base: Opened, adapters: Sequence[str]) -> Iterator[Run]:
    """Return the runs that the adapters came from, as far as they are known."""
    names = [parse_adapter(text)[0] for text in adapters]
    if not adapters:
        names = [base.model.annotations.get("llamune.run", "")]
    return runs_named(filter(None, names))


def runs_named(names: Iterable[str]) -> Iterator[Run]:
    """Yield the runs of those names that are runs'."""
    for name in names:
        with suppress(LlamuneError):
            yield Run.find(name)


def publish(
    best: Written, base: Opened, name: str, maker: Run | None, *, replace_existing: bool
) -> str:
    """Put the merged file into our library, with what belongs to the base; return its name.

    Args:
        best: the merged file.
        base: what it was merged into.
        name: under which it appears.
        maker: the run whose adapter is in it, as far as that is known.
        replace_existing: whether a model of that name may be replaced.
    """
    model = base.model
    lineage = {**model.annotations, "llamune.merged.type": best.type}
    if model.digest:
        lineage.setdefault("llamune.base.digest", model.digest)
    if maker is not None:
        lineage["llamune.run"] = maker.reference
        lineage["llamune.recipe.sha256"] = sha256_of(maker.recipe_path)
    published = publish_model(
        ModelName.parse(name),
        best.path,
        replace(model, adapters=()),
        annotations=lineage,
        replace=replace_existing,
    )
    return str(published)
