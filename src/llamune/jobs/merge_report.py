"""What a merge wrote and measured, and which of its candidates is the one to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamune.calibrate import TensorGain

__all__ = [
    "COMPENSATED",
    "FINE",
    "NEAREST",
    "OWN",
    "Candidate",
    "HeldOutLosses",
    "MergeReport",
    "recommend",
]

OWN, FINE = "own", "Q8_0"
NEAREST, COMPENSATED = "nearest", "compensated"
ENOUGH = 0.8  # share of the gain that the base's own types must keep to be the default


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
        compensation: what rounding with compensation won in each tensor of the file written.
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
    compensation: tuple[TensorGain, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what `merge --json` prints."""
        fields = asdict(self) | {"path": None if self.path is None else str(self.path)}
        empty = {"base": None, "adapter": None, "merged": None}
        return fields | {"held_out": fields["held_out"] or empty}


def recommend(candidates: Sequence[Candidate]) -> Candidate:
    """Return the best of the smallest type that keeps enough: of the gain, else of the change."""
    for kind in dict.fromkeys(one.type for one in candidates):
        best = max((one for one in candidates if one.type == kind), key=kept_by)
        if kept_by(best) >= ENOUGH:
            return best
    return best


def kept_by(candidate: Candidate) -> float:
    """Return the share of the gain that is kept, or of the weights' change where that is unknown.

    Compensation moves weights on purpose, so the share of the change says little of it; where
    nothing was measured on text it counts as the better one.
    """
    if candidate.gain is not None:
        return candidate.gain
    if candidate.round == COMPENSATED or candidate.kept is None:
        return 1.0
    return candidate.kept
