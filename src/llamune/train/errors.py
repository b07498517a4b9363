"""Faults of a training run that a person can mend."""

from __future__ import annotations

from llamune.errors import LlamuneError

__all__ = ["CheckpointError", "LossError", "OutOfMemory", "TrainError"]


class TrainError(LlamuneError):
    """Training cannot start, or cannot go on."""


class LossError(TrainError):
    """The loss or its gradient is not a number any more."""


class OutOfMemory(TrainError):  # noqa: N818  the name people search for
    """Training needs more memory than there is."""


class CheckpointError(TrainError):
    """A checkpoint is missing or damaged."""
