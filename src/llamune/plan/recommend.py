"""LoRA or full, adapter or merged, which type: a recommendation with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamune.plan.memory import Settings, lora_parameters
from llamune.plan.shape import Shape

__all__ = ["PURPOSES", "Purpose", "Recommendation", "recommend"]

Purpose = Literal["task", "domain", "language"]
PURPOSES: tuple[Purpose, ...] = ("task", "domain", "language")
BITS_PER_PARAMETER = 2.0  # what a trained number can hold at most
BITS_PER_TOKEN = 1.0  # what a token of text teaches at most
FINE_BPW = 8.0  # from here on, rounding a merge loses nothing that shows
MANY_RECORDS = 10_000


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What to do, and why.

    Args:
        method: `lora` or `full-packed`.
        rank: of the adapter.
        targets: which layers.
        store: `adapter` or `merged`.
        reasons: one sentence each, with the figures of this model.
    """

    method: str
    rank: int
    targets: str
    store: str
    reasons: tuple[str, ...]


def recommend(
    shape: Shape, *, purpose: Purpose = "task", n_records: int | None = None, n_tokens: int = 0
) -> Recommendation:
    """Return a recommendation for a model, a purpose and an amount of data.

    Args:
        shape: the model.
        purpose: `task` (a format or skill), `domain` (a field's language) or `language`.
        n_records: training records, if known.
        n_tokens: trained tokens of one pass, if known.

    Source: "LoRA Without Regret" (all layers; about one bit a token, two bits a trained number
        at most); arXiv:2405.09673 (LoRA learns less and forgets less); rounding losses as
        measured in `benchmarks/`.
    """
    rank = 8 if n_records is not None and n_records < 300 else 16
    if purpose != "task" or (n_records is not None and n_records > MANY_RECORDS):
        rank = 32
    reasons = ["all linear layers: adapters on attention alone learn less at the same size"]
    n = lora_parameters(shape, Settings(rank=rank))
    while n_tokens and n * BITS_PER_PARAMETER < n_tokens * BITS_PER_TOKEN and rank < 256:
        rank *= 2
        n = lora_parameters(shape, Settings(rank=rank))
    reasons.append(
        f"rank {rank}: {n:,} trained numbers hold what up to {int(n * BITS_PER_PARAMETER):,} "
        "tokens of text can teach"
    )
    method = "lora"
    if purpose == "language":
        method = "full-packed"
        reasons.append(
            "a new language changes most weights: training them all in their blocks learns more "
            "than an adapter, and forgets more; try LoRA first and compare the scores"
        )
    else:
        reasons.append("LoRA forgets less of what the base can do, and takes a fraction of a file")
    bpw = 8 * shape.file_bytes / shape.n_parameters
    if method == "lora" and bpw < FINE_BPW:
        store = "adapter"
        reasons.append(
            f"keep the adapter beside its base: rounded into {shape.file_type} blocks "
            f"({bpw:.1f} bits a weight) most of a small change is lost; where a plain file is "
            "wanted, `llamune merge` measures what each type keeps"
        )
    else:
        store = "merged"
        reasons.append(f"a merge into {shape.file_type} keeps the change: the steps are fine")
    return Recommendation(
        method=method, rank=rank, targets="all", store=store, reasons=tuple(reasons)
    )
