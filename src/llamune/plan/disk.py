"""What tuning adds on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamune.plan.full import full_parts
from llamune.plan.machines import Machine
from llamune.plan.settings import F32_BYTES, Settings, lora_parameters
from llamune.plan.shape import Shape

__all__ = ["disk_bytes", "load_seconds", "tokens_per_second"]

CHECKPOINTS_KEPT = 3  # the newest two and the best
ADAM_STATES = 2
USUAL_LINK_BANDWIDTH = 31.5e9  # PCI Express 4.0 x16
USUAL_DISK_BANDWIDTH = 1.0e9  # bytes a second of an ordinary SSD, where nothing was measured


def disk_bytes(
    shape: Shape,
    settings: Settings,
    *,
    n_variants: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> Mapping[str, int]:
    """Return the bytes that each product of a tuning takes.

    Args:
        shape: the model.
        settings: the choices.
        n_variants: how many tunings of the same base.
        sizes: bytes of a file of this model by file type.

    Returns:
        `adapter` (GGUF and PEFT), `checkpoints` (deleted with the run), `merged` (a whole file at
        the base's types, or those that every weight is trained in), `merged Q8_0` where its size
        is given; and `variants as adapters`, `variants as files`.
    """
    kept = "F32" if settings.dense else settings.keep_type
    known = sizes or {}
    merged = shape.file_bytes if settings.is_adapter else known.get(kept, shape.file_bytes)
    adapter = 2 * lora_parameters(shape, settings) * F32_BYTES if settings.is_adapter else 0
    return {
        "adapter": adapter,
        "checkpoints": CHECKPOINTS_KEPT * checkpoint_bytes(shape, settings),
        "merged": merged,
        **({"merged Q8_0": known["Q8_0"]} if "Q8_0" in known else {}),
        "variants as adapters": n_variants * adapter // 2,
        "variants as files": n_variants * merged,
    }


def checkpoint_bytes(shape: Shape, settings: Settings) -> int:
    """Return the bytes of one checkpoint: what is trained, and the optimizer's state."""
    if settings.is_adapter:
        return lora_parameters(shape, settings) * F32_BYTES * (1 + ADAM_STATES)
    return int(sum(nbytes for key, nbytes, _ in full_parts(shape, settings) if key != "gradients"))


def load_seconds(shape: Shape, machine: Machine) -> Sequence[tuple[str, float, float, str]]:
    """Return the way of the file's bytes into memory: link, bytes a second, seconds, source.

    Args:
        shape: the model.
        machine: its measured or published speeds; an ordinary SSD where nothing is known.
    """
    disk = machine.disk_bandwidth or USUAL_DISK_BANDWIDTH
    known = machine.disk_bandwidth is not None
    source = "measured here" if known else "an ordinary SSD; `llamune plan --calibrate` measures it"
    way = [("disk -> RAM", disk, shape.file_bytes / disk, source)]
    if machine.place == "GPU":
        link = machine.link_bandwidth or USUAL_LINK_BANDWIDTH
        source = "PCI Express" if machine.link_bandwidth else "PCI Express 4.0 x16, assumed"
        way.append(("RAM -> GPU", link, shape.file_bytes / link, source))
    return way


def tokens_per_second(shape: Shape, bandwidth: float) -> float:
    """Return the most tokens a second that memory allows: each token reads all weights."""
    read = shape.file_bytes - (0 if shape.tied else shape.embedding_bytes)
    return bandwidth / read
