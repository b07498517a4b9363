"""Where a job is, beside what the rooms it calls say themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llamune.train import Event as TrainEvent

__all__ = ["JobEvent", "OnJobEvent", "Refitted", "Settled", "Stage"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the job begins."""

    name: str  # what it does, as a person reads it


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Everything is checked and planned; the long work comes next."""

    lines: tuple[str, ...]  # model, data, recipe and plan, as a person reads them


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """How long the training takes, from its first measured steps; seconds."""

    low: float
    high: float
    after_steps: int


JobEvent = Stage | Settled | Refitted | TrainEvent
OnJobEvent = Callable[[JobEvent], None]
