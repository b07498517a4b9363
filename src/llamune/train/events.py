"""What happens while a model trains, as data for a screen, a log, or a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "AdapterWritten",
    "CheckpointWritten",
    "Event",
    "OnEvent",
    "Said",
    "Sampled",
    "StepDone",
    "TrainingStarted",
    "Validated",
]


@dataclass(frozen=True, kw_only=True)
class TrainingStarted:
    """The first step is about to run."""

    steps: int
    steps_done: int  # more than 0 when an earlier run goes on
    parameters_trained: int


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """An optimizer step was made."""

    step: int
    steps: int
    loss: float  # nats a trained token, of this step's batch
    learning_rate: float
    gradient_norm: float | None
    tokens: int  # of this step's records, all processes, without padding
    tokens_per_second: float  # over the last steps
    memory_bytes: int  # resident now
    seconds: float  # of training so far
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Validated:
    """A pass over the validation records."""

    step: int
    loss: float  # nats a trained token
    best: bool  # lowest so far


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The model's answer to the recipe's sample prompt."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten:
    """A checkpoint is on disk, whole."""

    step: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class AdapterWritten:
    """The finished adapter is on disk."""

    folder: Path
    step: int


@dataclass(frozen=True, kw_only=True)
class Said:
    """Something that the person should know."""

    text: str


Event = TrainingStarted | StepDone | Validated | Sampled | CheckpointWritten | AdapterWritten | Said
OnEvent = Callable[[Event], None]
