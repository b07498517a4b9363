"""Merging adapters into one file: measured at several types, the best kept, maybe published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamune.adapter import (
    LoraAdapter,
    MergeResult,
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
from llamune.jobs.merge_measures import (
    HeldOut,
    Losses,
    held_out_of_file,
    held_out_of_run,
    losses_of,
)
from llamune.jobs.preparing import Opened, opened
from llamune.runs import Run
from llamune.store import ModelName, home, publish_model

if TYPE_CHECKING:
    from llamune.engine import AdapterFile

__all__ = ["Candidate", "HeldOutLosses", "MergeReport", "merge", "parse_adapter"]

OWN, FINE = "own", "Q8_0"
ENOUGH = 0.8  # share of the gain that the base's own types must keep to be the default
OnStep = Callable[[str], object]


# a model file and the adapters that act on it
Beside = tuple[Sequence[Path], Sequence["AdapterFile"]]


@dataclass(frozen=True, kw_only=True)
class HeldOutLosses:
    """Losses on held-out records, nats a trained token."""

    base: float
    adapter: float
    merged: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to store the merged weights.

    Args:
        type: quant type of the changed tensors; `own` for the base's own.
        round: how floats became blocks.
        bytes: size of the file.
        held_out: loss on held-out records, nats a trained token; None without such records.
        kl: mean KL from the adapter beside its base; None without such records.
        kept: share of the weights' change that the stored blocks carry.
        gain: share of the adapter's gain in loss that is kept; None without records, or gain.
    """

    type: str
    round: str
    bytes: int
    held_out: float | None
    kl: float | None
    kept: float | None
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge wrote, and what was measured on the way.

    Args:
        path: the new file; None when it was published under a name only.
        name: the name in our library, or None.
        type: quant type of the changed tensors in the file written.
        round: how floats became blocks.
        bytes: size of the file written.
        held_out: losses of the base, the adapter beside it, and the file written, or None.
        held_out_source: where the records come from.
        kl: of the file written, from the adapter beside its base.
        kept: share of the weights' change that the file written carries.
        candidates: everything that was tried.
        recommended: the type that the measurements speak for.
        tensors: how many tensors changed.
        copied: how many were copied byte for byte.
    """

    path: Path | None
    name: str | None
    type: str
    round: str
    bytes: int
    held_out: HeldOutLosses | None
    held_out_source: str | None
    kl: float | None
    kept: float | None
    candidates: tuple[Candidate, ...]
    recommended: str
    tensors: int
    copied: int

    def as_json(self) -> dict[str, Any]:
        """Return what `merge --json` prints."""
        fields = asdict(self) | {"path": None if self.path is None else str(self.path)}
        empty = {"base": None, "adapter": None, "merged": None}
        return fields | {"held_out": fields["held_out"] or empty}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A candidate file on disk."""

    path: Path
    type: str
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
            job = Job(base=base, adapters=chosen, scratch=scratch, n_threads=n_threads)
            held_out = find_held_out(base, adapters, data) if measure else None
            beside = job.beside(on_step) if held_out else None
            written = job.write_candidates(wanted, held_out, beside, on_step)
            best, report = judged(job, written, held_out, beside, wanted)
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
    names = [parse_adapter(text)[0] for text in adapters]
    if not adapters:
        names = [base.model.annotations.get("llamune.run", "")]
    for name in filter(None, names):
        try:
            run = Run.find(name)
        except LlamuneError:
            continue
        if found := held_out_of_run(run, base):
            return found
    return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every step of one merge needs."""

    base: Opened
    adapters: Sequence[tuple[LoraAdapter, float]]
    scratch: Path
    n_threads: int | None

    def write_candidates(
        self,
        wanted: str | None,
        held_out: HeldOut | None,
        reference: Beside | None,
        on_step: OnStep,
    ) -> list[Written]:
        """Write the wanted type, or the base's own and then Q8_0; measure each."""
        written = []
        for kind in [wanted] if wanted else [OWN, FINE]:
            on_step(f"merging at {'the types of the base' if kind == OWN else kind}")
            path = self.scratch / f"{kind}.gguf"
            result = merge_file(
                self.base.file,
                self.adapters,
                path,
                type_of=self.type_of(kind),
                metadata=self.lineage(kind),
            )
            losses = None
            if held_out is not None:
                on_step(f"measuring it on {len(held_out.records)} records ({held_out.source})")
                losses = losses_of([path], held_out, reference=reference, n_threads=self.n_threads)
            written.append(Written(path=path, type=kind, result=result, losses=losses))
            if self.same_types(kind):
                break  # Q8_0 would be the same file again
        return written

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

    def lineage(self, kind: str) -> dict[str, Entry]:
        """Return the keys that say where the file comes from."""
        model = self.base.model
        digest = model.digest or f"sha256:{sha256_of(model.path)}"
        merged = [f"{adapter.path.name}@{factor:g}" for adapter, factor in self.adapters]
        return {
            "llamune.base.digest": Entry.of(digest),
            "llamune.merged.adapters": Entry.of(merged),
            "llamune.merged.type": Entry.of(kind),
        }

    def beside(self, on_step: OnStep) -> Beside:
        """Return what the merged file is held against: the adapters beside their base.

        What a GGUF adapter cannot express is merged into F32 tensors instead, which lose nothing.
        """
        from llamune.engine import AdapterFile

        if any(adapter.is_dora or adapter.replaced for adapter, _ in self.adapters):
            on_step("merging exactly, to measure against")
            path = self.scratch / "exact.gguf"
            merge_file(self.base.file, self.adapters, path, type_of=self.type_of("F32"))
            return [path], []
        files = []
        for number, (adapter, factor) in enumerate(self.adapters):
            path = self.scratch / f"adapter-{number}.gguf"
            write_adapter(adapter, self.base.file, path, base_digest=None)
            files.append(AdapterFile(path=path, scale=factor))
        return self.base.model.paths, files


def judged(
    job: Job,
    written: Sequence[Written],
    held_out: HeldOut | None,
    beside: Beside | None,
    wanted: str | None,
) -> tuple[Written, MergeReport]:
    """Return the file to keep, and the report."""
    before = after = None
    if held_out is not None and beside is not None:
        before = losses_of(job.base.model.paths, held_out, n_threads=job.n_threads).loss
        paths, adapters = beside
        after = losses_of(paths, held_out, adapters=adapters, n_threads=job.n_threads).loss
    candidates = tuple(candidate(one, before, after) for one in written)
    recommended = recommend(candidates)
    best = next(one for one in written if one.type == (wanted or recommended))
    losses = None
    if best.losses and before is not None and after is not None:
        losses = HeldOutLosses(base=before, adapter=after, merged=best.losses.loss)
    return best, MergeReport(
        path=None,
        name=None,
        type=best.type,
        round="nearest",
        bytes=best.result.nbytes,
        held_out=losses,
        held_out_source=held_out.source if held_out else None,
        kl=best.losses.kl if best.losses else None,
        kept=best.result.kept,
        candidates=candidates,
        recommended=recommended,
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
        round="nearest",
        bytes=one.result.nbytes,
        held_out=one.losses.loss if one.losses else None,
        kl=one.losses.kl if one.losses else None,
        kept=one.result.kept,
        gain=gain,
    )


def recommend(candidates: Sequence[Candidate]) -> str:
    """Return the smallest type that keeps enough: of the gain, else of the weights' change."""
    for one in candidates:
        kept = one.gain if one.gain is not None else one.kept
        if kept is None or kept >= ENOUGH:
            return one.type
    return candidates[-1].type


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
