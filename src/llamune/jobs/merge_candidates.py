"""The files that a merge tries: each type and rounding written and measured, one chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llamune.adapter import Floats, LoraAdapter, MergeResult, changed_rows, write_adapter
from llamune.adapter import merge as merge_file
from llamune.files import sha256_of
from llamune.gguf import Entry, QuantType, TensorInfo, quant_type
from llamune.jobs.calibrating import Texts, compensated_rounding, gains_text
from llamune.jobs.merge_measures import HeldOut, Losses, Reference, losses_of, reference_of
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
from llamune.jobs.preparing import Opened

if TYPE_CHECKING:
    from llamune.calibrate import Compensated, TensorGain

__all__ = ["MergeJob", "OnStep", "Written", "judged"]

CHAT_TEMPLATE = "tokenizer.chat_template"

OnStep = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A candidate file on disk."""

    path: Path
    type: str
    round: str
    result: MergeResult
    losses: Losses | None
    gains: tuple[TensorGain, ...] = ()  # what compensation won over rounding to nearest


@dataclass(frozen=True, kw_only=True)
class MergeJob:
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
                one = self.write(kind, rounding, on_step)
                if held_out is not None:
                    on_step("measuring it")
                    losses = losses_of(
                        [one.path], held_out, reference=reference, n_threads=self.n_threads
                    )
                    one = replace(one, losses=losses)
                written.append(one)
            if self.same_types(kind):
                break  # Q8_0 would be the same file again
        return written

    def write(self, kind: str, rounding: str, on_step: OnStep) -> Written:
        """Write one candidate."""
        at = "the types of the base" if kind == OWN else kind
        on_step(f"merging at {at}, rounded {rounding}")
        path = self.scratch / f"{kind}-{rounding}.gguf"
        compensated = self.compensated(kind, on_step) if rounding == COMPENSATED else None
        result = merge_file(
            self.base.file,
            self.adapters,
            path,
            type_of=self.type_of(kind),
            round=compensated,
            metadata=self.lineage(kind, rounding),
        )
        gains: tuple[TensorGain, ...] = ()
        if compensated is not None:
            gains = compensated.gains
            compensated.discard()
            for line in gains_text(gains):
                on_step(line)
        return Written(
            path=path, type=kind, round=rounding, result=result, losses=None, gains=gains
        )

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

        def merged(name: str, start: int, stop: int) -> Floats:
            return changed_rows(file.floats(name, start, stop), self.adapters, name, start, stop)

        return compensated_rounding(
            self.base,
            self.texts or [],
            types={name: choose(file.tensors[name]) for name in self.changed()},
            weight_of=merged,
            identity={
                "base": self.base.model.digest or str(self.base.paths[0]),
                "adapters": [[fingerprint(one), factor] for one, factor in self.adapters],
            },
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
            **self.template(),
        }

    def template(self) -> dict[str, Entry]:
        """Return the chat template where it was chosen: the file has none, or another."""
        template = self.base.template
        if template.source != "named" or template.language != "Jinja":
            return {}
        return {CHAT_TEMPLATE: Entry.of(template.text)}

    def reference(self, held_out: HeldOut, on_step: OnStep) -> Reference:
        """Run what the merged file is held against: the adapters beside their base.

        What a GGUF adapter cannot express is merged into F32 tensors instead, which lose nothing.
        """
        from llamune.engine import AdapterFile

        on_step(f"measuring the adapter on {len(held_out.records)} records ({held_out.source})")
        paths: Sequence[Path] = self.base.paths
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


def fingerprint(adapter: LoraAdapter) -> str:
    """Return the SHA-256 of what an adapter changes."""
    digest = hashlib.sha256()
    for name, pair in sorted(adapter.pairs.items()):
        digest.update(f"{name} {pair.scale!r}".encode())
        for part in (pair.a, pair.b, pair.magnitude):
            digest.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
    for name, weight in sorted(adapter.replaced.items()):
        digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def judged(
    job: MergeJob,
    written: Sequence[Written],
    held_out: HeldOut | None,
    reference: Reference | None,
) -> tuple[Written, MergeReport]:
    """Return the file to keep, and the report."""
    before = after = None
    if held_out is not None and reference is not None:
        before = losses_of(job.base.paths, held_out, n_threads=job.n_threads).loss
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
        compensation=best.gains,
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
