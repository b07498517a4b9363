"""What past runs on this machine say of how right plans are and how fast training is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from llamune.runs import machine, runs_folder
from llamune.runs.record import RunRecord

__all__ = ["Experience", "experience", "known_compute", "past_records"]

MOST_RUNS = 20  # older ones say little of today's libraries
FACTOR_RANGE = (0.5, 2.0)  # a run farther off was disturbed


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What past runs teach.

    Args:
        memory_factor: median of measured over predicted peak, 1 without runs.
        gflops: operations a second that runs with this model and method reached, 10^9.
        n_runs: how many runs the factor comes from.
    """

    memory_factor: float = 1.0
    gflops: tuple[float, ...] = ()
    n_runs: int = 0


def past_records() -> Iterator[RunRecord]:
    """Yield the records of finished runs, newest first, damaged ones left out."""
    folder = runs_folder()
    paths = sorted(folder.glob("*/*/*/record.json"), key=lambda path: -path.stat().st_mtime)
    for path in paths:
        try:
            record = RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if record.state == "done":
            yield record


def plan_of(record: RunRecord) -> dict[str, Any]:
    """Return what the plan of a run was, if it was kept and made on this machine."""
    kept = record.plan or {}
    return kept if kept.get("machine") == machine.fingerprint() else {}


def experience(shape_key: str, passes: str) -> Experience:
    """Return what past runs on this machine teach of a model and method.

    Args:
        shape_key: which model: `Shape.name` and sizes, as `training.shape_key` writes them.
        passes: `Settings.passes`.
    """
    factors: list[float] = []
    speeds: list[float] = []
    for record in past_records():
        plan = plan_of(record)
        if not plan:
            continue
        uncorrected, measured = plan.get("uncorrected_bytes"), record.memory.measured_bytes
        if uncorrected and measured and len(factors) < MOST_RUNS:
            factor = measured / uncorrected
            if FACTOR_RANGE[0] <= factor <= FACTOR_RANGE[1]:
                factors.append(factor)
        same = plan.get("shape") == shape_key and plan.get("passes") == passes
        if same and record.seconds.measured and plan.get("flops") and len(speeds) < MOST_RUNS:
            speeds.append(plan["flops"] / record.seconds.measured / 1e9)
    return Experience(
        memory_factor=median(factors) if factors else 1.0,
        gflops=tuple(speeds),
        n_runs=len(factors),
    )


def known_compute(device: str, d_model: int, d_ff: int) -> tuple[str, float] | None:
    """Return compute type and speed that a timed trial on this machine chose, if there was one.

    Args:
        device: `cpu`, `mps` or `cuda`.
        d_model: columns of the feed-forward product.
        d_ff: its rows; a trial of these shapes is preferred to others.

    Returns:
        The type and 10^9 operations a second.
    """
    fitting = [
        (f"{d_model}x{d_ff}" in key, str(facts["dtype"]), float(facts["gflops"]))
        for key, facts in machine.facts("compute").items()
        if facts.get("device") == device and facts.get("gflops") and facts.get("dtype")
    ]
    return max(fitting)[1:] if fitting else None
