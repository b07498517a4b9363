"""What tuning adds on disk."""

from __future__ import annotations

from collections.abc import Mapping

from llamune.plan.memory import F32, Settings, lora_parameters
from llamune.plan.shape import Shape

__all__ = ["disk_bytes", "load_seconds", "tokens_per_second"]

CHECKPOINTS_KEPT = 3  # the newest two and the best
ADAM_STATES = 2
DISK_BYTES_PER_SECOND = 1.0e9  # an ordinary SSD, where nothing was measured


def disk_bytes(shape: Shape, settings: Settings, *, n_variants: int = 1) -> Mapping[str, int]:
    """Return the bytes that each product of a tuning takes.

    Args:
        shape: the model.
        settings: the choices.
        n_variants: how many tunings of the same base.

    Returns:
        `adapter` (GGUF and PEFT), `checkpoints` (deleted with the run), `merged` (a whole file at
        the base's types), `merged Q8_0`; and `variants as adapters`, `variants as files`.
    """
    n = lora_parameters(shape, settings) if settings.is_adapter else shape.n_parameters
    linear = shape.n_layer * sum(one.n_elements for one in shape.targeted(settings.targets))
    others = shape.file_bytes - int(linear * 8 * shape.file_bytes / shape.n_parameters / 8)
    adapter = 2 * n * F32 if settings.is_adapter else 0
    merged = shape.file_bytes
    return {
        "adapter": adapter,
        "checkpoints": CHECKPOINTS_KEPT * n * F32 * (1 + ADAM_STATES),
        "merged": merged,
        "merged Q8_0": int(linear * 34 / 32) + others,
        "variants as adapters": n_variants * adapter // 2,
        "variants as files": n_variants * merged,
    }


def load_seconds(shape: Shape, *, disk: float = DISK_BYTES_PER_SECOND) -> float:
    """Return the seconds that reading the file from disk takes, the first time."""
    return shape.file_bytes / disk


def tokens_per_second(shape: Shape, bandwidth: float) -> float:
    """Return the most tokens a second that memory allows: each token reads all weights."""
    read = shape.file_bytes - (0 if shape.tied else shape.embedding_bytes)
    return bandwidth / read
