"""The training loop: LoRA and DoRA through `transformers.Trainer`; checkpoints, progress.

Importing this room loads no torch; training does.
"""

from llamune.train.attach import (
    attach_adapter,
    check_ranks,
    count_trained,
    load_adapter_weights,
    write_adapter,
)
from llamune.train.batches import Collator, Example, batch_order
from llamune.train.checkpoints import checkpoint_folder, checkpoint_steps, newest_sound
from llamune.train.curve import LossCurve, draw_loss_curve, loss_curve, plot_text
from llamune.train.dense import DENSE_OPTIMIZERS, check_dense, dense_loop
from llamune.train.errors import CheckpointError, LossError, OutOfMemory, TrainError
from llamune.train.events import (
    AdapterWritten,
    CheckpointWritten,
    Event,
    OnEvent,
    Said,
    Sampled,
    StepDone,
    TrainingStarted,
    Validated,
)
from llamune.train.lora import with_packed_layers
from llamune.train.memory import PeakMemory, resident_bytes
from llamune.train.packed import packed_loop
from llamune.train.packed_file import ROUNDING, TRAINED_MODEL, needs_widening, trained_types, widen
from llamune.train.packed_noise import NoiseForecast, forecast_noise
from llamune.train.quiet import quiet
from llamune.train.speed import MeasuredSteps, measure_steps
from llamune.train.team import Team
from llamune.train.trackers import check_trackers
from llamune.train.training import TrainResult, train, what_to_lower

__all__ = [
    "DENSE_OPTIMIZERS",
    "ROUNDING",
    "TRAINED_MODEL",
    "AdapterWritten",
    "CheckpointError",
    "CheckpointWritten",
    "Collator",
    "Event",
    "Example",
    "LossCurve",
    "LossError",
    "MeasuredSteps",
    "NoiseForecast",
    "OnEvent",
    "OutOfMemory",
    "PeakMemory",
    "Said",
    "Sampled",
    "StepDone",
    "Team",
    "TrainError",
    "TrainResult",
    "TrainingStarted",
    "Validated",
    "attach_adapter",
    "batch_order",
    "check_dense",
    "check_ranks",
    "check_trackers",
    "checkpoint_folder",
    "checkpoint_steps",
    "count_trained",
    "dense_loop",
    "draw_loss_curve",
    "forecast_noise",
    "load_adapter_weights",
    "loss_curve",
    "measure_steps",
    "needs_widening",
    "newest_sound",
    "packed_loop",
    "plot_text",
    "quiet",
    "resident_bytes",
    "train",
    "trained_types",
    "what_to_lower",
    "widen",
    "with_packed_layers",
    "write_adapter",
]
