"""How right past plans were: what was predicted beside what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

from llamune.plan.calibration import past_records

__all__ = ["Audit", "AuditedRun", "audit"]


@dataclass(frozen=True, kw_only=True)
class AuditedRun:
    """One finished run.

    Args:
        name: `name#n`.
        memory_predicted: bytes.
        memory_measured: bytes.
        seconds_low: predicted at best.
        seconds_high: predicted at worst.
        seconds_measured: of the training steps.
    """

    name: str
    memory_predicted: int | None
    memory_measured: int | None
    seconds_low: float | None
    seconds_high: float | None
    seconds_measured: float | None

    @property
    def memory_error(self) -> float | None:
        """Prediction over measurement, minus one."""
        if not self.memory_predicted or not self.memory_measured:
            return None
        return self.memory_predicted / self.memory_measured - 1

    @property
    def seconds_predicted(self) -> float | None:
        """The middle of the interval."""
        if self.seconds_low is None or self.seconds_high is None:
            return None
        return math.sqrt(self.seconds_low * self.seconds_high)

    @property
    def time_error(self) -> float | None:
        """Prediction over measurement, minus one."""
        if not self.seconds_predicted or not self.seconds_measured:
            return None
        return self.seconds_predicted / self.seconds_measured - 1

    @property
    def within(self) -> bool | None:
        """Whether the measured time lies in the predicted interval."""
        if self.seconds_low is None or self.seconds_high is None or not self.seconds_measured:
            return None
        return self.seconds_low <= self.seconds_measured <= self.seconds_high

    def as_json(self) -> dict[str, Any]:
        """Return what `plan --audit --json` prints of it."""
        return {
            "name": self.name,
            "memory": {
                "predicted_bytes": self.memory_predicted,
                "measured_bytes": self.memory_measured,
                "error": self.memory_error,
            },
            "time": {
                "predicted_seconds": self.seconds_predicted,
                "low_seconds": self.seconds_low,
                "high_seconds": self.seconds_high,
                "measured_seconds": self.seconds_measured,
                "error": self.time_error,
                "within": self.within,
            },
        }


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All finished runs, newest first."""

    runs: tuple[AuditedRun, ...]

    @property
    def memory_error(self) -> float | None:
        """Median size of the error of predicted memory."""
        return median_size([run.memory_error for run in self.runs])

    @property
    def time_error(self) -> float | None:
        """Median size of the error of predicted time."""
        return median_size([run.time_error for run in self.runs])

    def as_json(self) -> dict[str, Any]:
        """Return what `plan --audit --json` prints."""
        return {
            "runs": [run.as_json() for run in self.runs],
            "memory_error": self.memory_error,
            "time_error": self.time_error,
        }


def median_size(errors: list[float | None]) -> float | None:
    """Return the median of the absolute errors that are known."""
    sizes = [abs(error) for error in errors if error is not None]
    return median(sizes) if sizes else None


def audit() -> Audit:
    """Hold every finished run's plan against what was measured."""
    return Audit(
        runs=tuple(
            AuditedRun(
                name=f"{record.name}#{record.number}",
                memory_predicted=record.memory.predicted_bytes,
                memory_measured=record.memory.measured_bytes,
                seconds_low=record.seconds.predicted_low,
                seconds_high=record.seconds.predicted_high,
                seconds_measured=record.seconds.measured,
            )
            for record in past_records()
        )
    )
