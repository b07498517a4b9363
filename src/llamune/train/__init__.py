"""The training loop: LoRA and DoRA through `transformers.Trainer`; checkpoints, progress.

Importing this room loads no torch; training does.
"""

from llamune.train.attach import (
    attach_adapter,
    count_trained,
    load_adapter_weights,
    write_adapter,
)
from llamune.train.batches import Collator, Example, batch_order
from llamune.train.checkpoints import checkpoint_folder, checkpoint_steps, newest_sound
from llamune.train.curve import LossCurve, draw_loss_curve, loss_curve, plot_text
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
from llamune.train.memory import PeakMemory, resident_bytes
from llamune.train.quiet import quiet
from llamune.train.training import TrainResult, train

__all__ = [
    "AdapterWritten",
    "CheckpointError",
    "CheckpointWritten",
    "Collator",
    "Event",
    "Example",
    "LossCurve",
    "LossError",
    "OnEvent",
    "OutOfMemory",
    "PeakMemory",
    "Said",
    "Sampled",
    "StepDone",
    "TrainError",
    "TrainResult",
    "TrainingStarted",
    "Validated",
    "attach_adapter",
    "batch_order",
    "checkpoint_folder",
    "checkpoint_steps",
    "count_trained",
    "draw_loss_curve",
    "load_adapter_weights",
    "loss_curve",
    "newest_sound",
    "plot_text",
    "quiet",
    "resident_bytes",
    "train",
    "write_adapter",
]
