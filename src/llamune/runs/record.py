"""What is known of a run, as data: `record.json` in its folder.

A record grows as the run goes on; each state of it is a frozen value, written whole.
Bytes are bytes, times are seconds unless the name says otherwise, losses are nats a token.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Base",
    "DataFacts",
    "Licence",
    "Loss",
    "Memory",
    "Rounding",
    "RunRecord",
    "Score",
    "Seconds",
    "Served",
    "State",
]

State = Literal["planned", "running", "stopped", "failed", "done"]


class Part(BaseModel):
    """A part of a record: frozen; keys of later versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Base(Part):
    """The model file that was trained on, and that it was left as it was."""

    reference: str
    paths: tuple[Path, ...] = ()
    size_bytes: int
    architecture: str
    file_type: str | None = None
    parameters: int
    sha256_before: str | None = None
    sha256_after: str | None = None

    @property
    def untouched(self) -> bool | None:
        """Whether the file is byte for byte what it was; None before it was looked at."""
        if self.sha256_before is None or self.sha256_after is None:
            return None
        return self.sha256_before == self.sha256_after


class DataFacts(Part):
    """The examples as they were trained on."""

    files: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    fingerprint: str = Field(description="SHA-256 over the rendered token ids and masks")
    training_records: int
    validation_records: int
    tokens: int = Field(description="of one pass over the training records")
    trained_tokens: int = Field(description="of those, the ones that the loss counts")
    padding: float | None = Field(
        default=None, description="share of computed tokens that only fill up rows, 0 to 1"
    )
    cut_records: int = 0
    skipped_records: int = 0


class Memory(Part):
    """Peak memory of the process, or of the device that trains."""

    predicted_bytes: int | None = None
    measured_bytes: int | None = None


class Seconds(Part):
    """Wall-clock time of the training steps."""

    predicted_low: float | None = None
    predicted_high: float | None = None
    refitted_low: float | None = Field(default=None, description="from the first measured steps")
    refitted_high: float | None = None
    refitted_after_steps: int | None = None
    measured: float | None = None


class Loss(Part):
    """Cross-entropy, nats a trained token."""

    training: float | None = None
    validation_before: float | None = None
    validation: float | None = Field(default=None, description="of the weights that were kept")
    best_step: int | None = None


class Score(Part):
    """A score on held-out records before and after, with 95 % intervals."""

    task: str
    metric: str
    n: int
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float
    verdict: str = Field(default="", description="what may be said of the difference, and why")


class Rounding(Part):
    """What rounding at every step adds to packed weights: root mean squares over weights."""

    type: str = Field(description="quant type the weights are kept in")
    own: float = Field(description="error of rounding once to nearest in that type")
    predicted: float
    measured: float | None = Field(default=None, description="on a sample of rows")


class Served(Part):
    """One way to store a trained model, on held-out records."""

    type: str
    round: str = Field(description="trained, nearest or compensated")
    bytes: int
    loss: float | None = Field(default=None, description="nats a trained token")
    kl: float | None = Field(default=None, description="mean, from the file as trained")
    chosen: bool = Field(default=False, description="whether this is the result")


class Licence(Part):
    """What the base's licence asks of the derivative."""

    identifiers: tuple[str, ...] = ()
    answers: dict[str, str] = {}
    duties: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class RunRecord(Part):
    """Everything that is known of a run."""

    format: Literal[1] = 1
    name: str
    number: int
    state: State
    fault: str | None = None
    process: int | None = Field(default=None, description="id of the process that trains")
    started: datetime
    finished: datetime | None = None
    base: Base | None = None
    parent: str | None = Field(default=None, description="the adapter that training went on from")
    data: DataFacts | None = None
    parameters_trained: int | None = None
    steps_done: int = 0
    steps_planned: int | None = None
    tokens_per_second: float | None = None
    memory: Memory = Memory()
    seconds: Seconds = Seconds()
    loss: Loss = Loss()
    plan: dict[str, Any] | None = Field(default=None, description="parts of the prediction")
    proof: dict[str, Any] | None = None
    merge: dict[str, Any] | None = Field(
        default=None, description="what bringing the change into a whole file kept of it"
    )
    rounding: Rounding | None = None
    served: tuple[Served, ...] = ()
    scores: tuple[Score, ...] = ()
    licence: Licence | None = None
    environment: dict[str, str] = {}
    files: dict[str, Path] = Field(default={}, description="adapter, adapter_gguf, merged, …")
    to: str | None = Field(default=None, description="where the result goes beside our library")
    replace: bool = Field(default=False, description="whether a model of this name may be replaced")
    published: tuple[str, ...] = Field(
        default=(), description="places where it went, each with the digest that is kept there"
    )
