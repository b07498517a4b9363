"""LoRA or full, adapter or merged, which type: a recommendation with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llamune.plan.history import PastRun, best_of
from llamune.plan.settings import Settings, lora_parameters
from llamune.plan.shape import Shape

__all__ = ["MERGE_TYPES", "PURPOSES", "Purpose", "Recommendation", "recommend"]

Purpose = Literal["task", "domain", "language"]
PURPOSES: tuple[Purpose, ...] = ("task", "domain", "language")
MERGE_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")  # the finest first
BITS_PER_PARAMETER = 2.0  # what a trained number can hold at most
BITS_PER_TOKEN = 1.0  # what a token of text teaches at most
FINE_BPW = 8.0  # from here on, rounding a merge loses nothing that shows
FEW_RECORDS, MANY_RECORDS = 300, 10_000
LARGEST_RANK = 256
COMFORTABLE = 0.9  # of the memory to use, for running a merged file


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do, and why.

    Args:
        method: `lora`, `dora`, `full packed` or `full dense`.
        rank: of the adapter, 0 without one.
        targets: which layers.
        store: `adapter` or `merged`.
        merge_type: file type to merge into where a plain file is wanted.
        reasons: one sentence each, with the figures of this model.
    """

    method: str
    rank: int
    targets: str
    store: str
    merge_type: str
    reasons: tuple[str, ...]


def recommend(
    shape: Shape,
    *,
    purpose: Purpose = "task",
    n_records: int | None = None,
    n_tokens: int = 0,
    packed_fits: bool = True,
    past: Sequence[PastRun] = (),
    sizes: Mapping[str, int] | None = None,
    running_bytes: int = 0,
    budget_bytes: int = 0,
) -> Recommendation:
    """Return a recommendation for a model, a purpose and an amount of data.

    Args:
        shape: the model.
        purpose: `task` (a format or skill), `domain` (a field's language) or `language`.
        n_records: training records, if known.
        n_tokens: trained tokens of one pass, if known.
        packed_fits: whether training every weight in its blocks fits.
        past: finished runs of this model, newest first: what they measured goes before rules.
        sizes: bytes of a file of this model by file type.
        running_bytes: what running takes beside the file.
        budget_bytes: memory to use.

    Source: "LoRA Without Regret" (all layers; about one bit a token, two bits a trained number
        at most); arXiv:2405.09673 (LoRA learns less and forgets less); rounding losses as
        measured in `benchmarks/`.
    """
    rank = rank_for(shape, purpose=purpose, n_records=n_records, n_tokens=n_tokens)
    method = "full packed" if purpose == "language" and packed_fits else "lora"
    reasons = method_reasons(shape, method, rank)
    if (measured := best_of(past)) is not None:
        best, same = measured
        method, rank = best.kind, best.rank
        reasons = measured_reasons(best, same)
    elif purpose == "language" and not packed_fits:
        reasons.append("a new language asks for every weight, and training them does not fit here")
    merge_type, type_reasons = type_for(sizes or {}, running_bytes, budget_bytes, shape)
    store, store_reason = store_for(shape, method)
    return Recommendation(
        method=method,
        rank=rank if method in {"lora", "dora"} else 0,
        targets="all",
        store=store,
        merge_type=merge_type,
        reasons=(*reasons, store_reason, *(type_reasons if store == "adapter" else ())),
    )


def rank_for(shape: Shape, *, purpose: Purpose, n_records: int | None, n_tokens: int) -> int:
    """Return the rank whose trained numbers can hold what the data teach."""
    rank = 8 if n_records is not None and n_records < FEW_RECORDS else 16
    if purpose != "task" or (n_records is not None and n_records > MANY_RECORDS):
        rank = 32
    while rank < LARGEST_RANK and room_of(shape, rank) < n_tokens * BITS_PER_TOKEN:
        rank *= 2
    return rank


def room_of(shape: Shape, rank: int) -> float:
    """Return the bits that an adapter on all layers can hold."""
    return lora_parameters(shape, Settings(rank=rank)) * BITS_PER_PARAMETER


def method_reasons(shape: Shape, method: str, rank: int) -> list[str]:
    """Return why a method, before any run has measured it."""
    if method != "lora":
        return [
            "a new language changes most weights: training them all in their blocks learns more "
            "than an adapter, and forgets more; try LoRA first and compare the scores"
        ]
    n_trained = lora_parameters(shape, Settings(rank=rank))
    return [
        "all linear layers: adapters on attention alone learn less at the same size",
        f"rank {rank}: {n_trained:,} trained numbers hold what up to "
        f"{int(room_of(shape, rank)):,} tokens of text can teach",
        "LoRA forgets less of what the base can do, and takes a fraction of a file",
    ]


def measured_reasons(best: PastRun, same: Sequence[PastRun]) -> list[str]:
    """Return what the runs on the newest data measured."""
    others = [run for run in same if run is not best]
    reasons = [f"measured: {best.sentence}"]
    if others:
        reasons[0] += f"; best of {len(same)} runs on these data"
        reasons += [f"measured: {run.sentence}" for run in others[:2]]
    elif best.loss >= best.loss_before:
        reasons[0] += "; nothing was learned: look at the data before another method"
    return reasons


def store_for(shape: Shape, method: str) -> tuple[str, str]:
    """Return whether to keep an adapter or a merged file, and why."""
    bpw = 8 * shape.file_bytes / shape.n_parameters
    if method not in {"lora", "dora"}:
        return "merged", "every weight has changed: the result is a whole file"
    if bpw < FINE_BPW:
        return "adapter", (
            f"keep the adapter beside its base: rounded into {shape.file_type} blocks "
            f"({bpw:.1f} bits a weight) most of a small change is lost"
        )
    return "merged", f"a merge into {shape.file_type} keeps the change: the steps are fine"


def type_for(
    sizes: Mapping[str, int], running_bytes: int, budget_bytes: int, shape: Shape
) -> tuple[str, list[str]]:
    """Return the finest type that runs with room to spare as a merged file, and why."""
    for kind in MERGE_TYPES:
        nbytes = sizes.get(kind)
        if nbytes and nbytes + running_bytes <= COMFORTABLE * budget_bytes:
            return kind, [
                f"as a plain file, merge into {kind}: {nbytes / 1e9:.2f} GB, the finest type that "
                "runs here with room to spare; `llamune merge` measures what each type keeps"
            ]
    return shape.file_type, []
