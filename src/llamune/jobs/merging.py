"""Merging adapters into one file: measured at several types, the best kept, maybe published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamune.adapter import (
    LoraAdapter,
    MergeResult,
    changed_rows,
    check_base,
    check_merge,
    read_adapter,
    write_adapter,
)
from llamune.adapter import merge as merge_file
from llamune.errors import LlamuneError
from llamune.files import refuse_existing, sha256_of
from llamune.gguf import Entry, QuantType, TensorInfo, quant_type
from llamune.jobs.adapters import path_named
from llamune.jobs.calibrating import (
    Floats,
    Texts,
    can_calibrate,
    compensated_rounding,
    texts_of_files,
    texts_of_run,
)
from llamune.jobs.merge_measures import (
    HeldOut,
    Losses,
    Reference,
    held_out_of_file,
    held_out_of_run,
    losses_of,
    reference_of,
)
from llamune.jobs.merge_report import (
    COMPENSATED,
    FINE,
    NEAREST,
    OWN,
    Candidate,
    HeldOutLosses,
    MergeReport,
    recommend,
)
from llamune.jobs.preparing import Opened, opened
from llamune.runs import Run
from llamune.store import ModelName, home, publish_model

if TYPE_CHECKING:
    from llamune.calibrate import Compensated

__all__ = ["Candidate", "HeldOutLosses", "MergeReport", "merge", "parse_adapter"]

OnStep = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A candidate file on disk."""

    path: Path
    type: str
    round: str
    result: MergeResult
    losses: Losses | None


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
    ref: str,
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
        ref: the base; or, without `adapters`, a model that has adapters of its own.
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
    with opened(ref) as base:
        chosen = list(read_adapters(base, adapters, force=force))
        check_merge(base.file, chosen)
        wanted = None if type is None else type_name(type)
        with scratch_folder(out) as scratch:
            texts = find_texts(base, adapters, calibrate, round, on_step)
            job = Job(
                base=base,
                adapters=chosen,
                scratch=scratch,
                n_threads=n_threads,
                texts=texts,
                rounding=round,
            )
            held_out = find_held_out(base, adapters, data) if measure else None
            reference = job.reference(held_out, on_step) if held_out else None
            written = job.write_candidates(wanted, held_out, reference, on_step)
            best, report = judged(job, written, held_out, reference)
            if name is not None:
                on_step(f"publishing {name}")
                published = publish(best, base, name, replace_existing=replace_existing)
                report = replace(report, name=published)
            if out is not None:
                refuse_existing(out, replace=replace_existing)
                best.path.replace(out)
                report = replace(report, path=out)
    return report


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
    """Yield the runs that the adapters came from, as far as they are known."""
    names = [parse_adapter(text)[0] for text in adapters]
    if not adapters:
        names = [base.model.annotations.get("llamune.run", "")]
    for name in filter(None, names):
        with suppress(LlamuneError):
            yield Run.find(name)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every step of one merge needs."""

    base: Opened
    adapters: Sequence[tuple[LoraAdapter, float]]
    scratch: Path
    n_threads: int | None
    texts: Texts | None  # to calibrate on; None: round to nearest
    rounding: str | None  # the person's choice

    def write_candidates(
        self,
        wanted: str | None,
        held_out: HeldOut | None,
        reference: Reference | None,
        on_step: OnStep,
    ) -> list[Written]:
        """Write the wanted type, or the base's own and then Q8_0; measure each."""
        written = []
        for kind in [wanted] if wanted else [OWN, FINE]:
            for rounding in self.roundings(kind):
                at = "the types of the base" if kind == OWN else kind
                on_step(f"merging at {at}, rounded {rounding}")
                path = self.scratch / f"{kind}-{rounding}.gguf"
                result = merge_file(
                    self.base.file,
                    self.adapters,
                    path,
                    type_of=self.type_of(kind),
                    round=self.compensated(kind, on_step) if rounding == COMPENSATED else None,
                    metadata=self.lineage(kind, rounding),
                )
                losses = None
                if held_out is not None:
                    on_step("measuring it")
                    losses = losses_of(
                        [path], held_out, reference=reference, n_threads=self.n_threads
                    )
                written.append(
                    Written(path=path, type=kind, round=rounding, result=result, losses=losses)
                )
            if self.same_types(kind):
                break  # Q8_0 would be the same file again
        return written

    def roundings(self, kind: str) -> list[str]:
        """Return how a type is rounded: with compensation where that can help, and to nearest."""
        fine = quant_type(FINE).bpw
        choose = self.type_of(kind)
        coarse = any(choose(self.base.file.tensors[name]).bpw < fine for name in self.changed())
        if self.texts is None or not coarse:
            return [NEAREST]
        return [COMPENSATED] if self.rounding == COMPENSATED else [NEAREST, COMPENSATED]

    def compensated(self, kind: str, on_step: OnStep) -> Compensated:
        """Return the rounding with error compensation, the pass over the text done."""
        choose = self.type_of(kind)
        file = self.base.file

        def merged(name: str) -> Floats:
            return changed_rows(
                file.floats(name), self.adapters, name, 0, file.tensors[name].n_rows
            )

        return compensated_rounding(
            self.base,
            self.texts or [],
            types={name: choose(file.tensors[name]) for name in self.changed()},
            weight_of=merged,
            folder=self.scratch / f"rounded-{kind}",
            identity={"base": self.base.model.digest},
            on_step=on_step,
        )

    def changed(self) -> set[str]:
        """Return the tensors that any adapter changes."""
        return {name for one, _ in self.adapters for name in (*one.pairs, *one.replaced)}

    def same_types(self, kind: str) -> bool:
        """Whether no changed tensor has fewer bits than Q8_0, so that a finer file is no better."""
        fine = quant_type(FINE).bpw
        return kind == OWN and all(
            self.base.file.tensors[name].type.bpw >= fine for name in self.changed()
        )

    def type_of(self, kind: str) -> Callable[[TensorInfo], QuantType]:
        """Return which type each tensor gets: only changed ones leave their own."""
        changed = self.changed()

        def choose(tensor: TensorInfo) -> QuantType:
            if kind == OWN or tensor.name not in changed:
                return tensor.type
            wanted = quant_type(kind)
            return wanted if tensor.n_columns % wanted.block_size == 0 else quant_type("F16")

        return choose

    def lineage(self, kind: str, rounding: str) -> dict[str, Entry]:
        """Return the keys that say where the file comes from."""
        model = self.base.model
        digest = model.digest or f"sha256:{sha256_of(model.path)}"
        merged = [f"{adapter.path.name}@{factor:g}" for adapter, factor in self.adapters]
        return {
            "llamune.base.digest": Entry.of(digest),
            "llamune.merged.adapters": Entry.of(merged),
            "llamune.merged.type": Entry.of(kind),
            "llamune.merged.round": Entry.of(rounding),
        }

    def reference(self, held_out: HeldOut, on_step: OnStep) -> Reference:
        """Run what the merged file is held against: the adapters beside their base.

        What a GGUF adapter cannot express is merged into F32 tensors instead, which lose nothing.
        """
        from llamune.engine import AdapterFile

        on_step(f"measuring the adapter on {len(held_out.records)} records ({held_out.source})")
        paths: Sequence[Path] = self.base.model.paths
        files = []
        if any(adapter.is_dora or adapter.replaced for adapter, _ in self.adapters):
            paths = [self.scratch / "exact.gguf"]
            merge_file(self.base.file, self.adapters, paths[0], type_of=self.type_of("F32"))
        else:
            for number, (adapter, factor) in enumerate(self.adapters):
                path = self.scratch / f"adapter-{number}.gguf"
                write_adapter(adapter, self.base.file, path, base_digest=None)
                files.append(AdapterFile(path=path, scale=factor))
        return reference_of(paths, held_out, adapters=files, n_threads=self.n_threads)


def judged(
    job: Job,
    written: Sequence[Written],
    held_out: HeldOut | None,
    reference: Reference | None,
) -> tuple[Written, MergeReport]:
    """Return the file to keep, and the report."""
    before = after = None
    if held_out is not None and reference is not None:
        before = losses_of(job.base.model.paths, held_out, n_threads=job.n_threads).loss
        after = reference.loss
    candidates = tuple(candidate(one, before, after) for one in written)
    chosen = recommend(candidates)
    best = next(one for one, report in zip(written, candidates, strict=True) if report is chosen)
    losses = None
    if best.losses and before is not None and after is not None:
        losses = HeldOutLosses(base=before, adapter=after, merged=best.losses.loss)
    return best, MergeReport(
        path=None,
        name=None,
        type=best.type,
        round=best.round,
        bytes=best.result.nbytes,
        held_out=losses,
        held_out_source=held_out.source if held_out else None,
        kl=best.losses.kl if best.losses else None,
        kept=best.result.kept,
        candidates=candidates,
        recommended=chosen.type,
        tensors=len(best.result.tensors),
        copied=best.result.copied,
    )


def candidate(one: Written, before: float | None, after: float | None) -> Candidate:
    """Return what is known of a written file."""
    gain = None
    if one.losses and before is not None and after is not None and before > after:
        gain = (before - one.losses.loss) / (before - after)
    return Candidate(
        type=one.type,
        round=one.round,
        bytes=one.result.nbytes,
        held_out=one.losses.loss if one.losses else None,
        kl=one.losses.kl if one.losses else None,
        kept=one.result.kept,
        gain=gain,
    )


def publish(best: Written, base: Opened, name: str, *, replace_existing: bool) -> str:
    """Put the merged file into our library, with what belongs to the base; return its name."""
    model = base.model
    lineage = dict(model.annotations)
    if model.digest:
        lineage.setdefault("llamune.base.digest", model.digest)
    published = publish_model(
        ModelName.parse(name),
        best.path,
        replace(model, adapters=()),
        annotations=lineage | {"llamune.merged.type": best.type},
        replace=replace_existing,
    )
    return str(published)
