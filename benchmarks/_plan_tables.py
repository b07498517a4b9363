"""Tables of the guide's page on `plan`: what machines hold, reckoned now; and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks._markdown import table

from llamune.jobs import Wishes, table_row
from llamune.plan import (
    Machine,
    Settings,
    Shape,
    device_machine,
    machine_of_memory,
    published_shape,
    training_memory,
    verdict,
)

__all__ = ["full_fits", "full_memory", "plan", "plan_machines"]

MODELS = ("gemma2:9b", "phi3.5:3.8b", "qwen2.5:14b", "gemma2:27b", "qwen2.5:32b")
MACHINES = {
    "16 GB": machine_of_memory(16 << 30),
    "32 GB": machine_of_memory(32 << 30),
    "M1 Max, 32 GB unified": device_machine("M1 Max 32GB"),
    "RTX 4080, 16 GB": device_machine("RTX 4080"),
}
COLUMNS = ("run", "lora", "full packed", "full dense")


FULL_MODELS = (
    "qwen2.5:0.5b", "llama3.2:3b", "llama3.1:8b", "gemma2:9b", "qwen2.5:14b", "gemma2:27b",
)  # fmt: skip
ONE = Settings(method="full", micro_batch=1, recompute=True)
FULL_WAYS = {
    "LoRA r16": replace(ONE, method="lora", rank=16),
    "packed Q6_K": replace(ONE, keep_type="Q6_K"),
    "packed Q8_0": ONE,
    "Q8_0, adamw8": replace(ONE, optimizer="adamw8"),
    "packed BF16": replace(ONE, keep_type="BF16"),
    "dense bf16": replace(ONE, dense=True, optimizer="adamw_torch", weight_type="bfloat16"),
    "dense f32": replace(ONE, dense=True, optimizer="adamw_torch"),
}
FITTING_WAYS = ("packed Q6_K", "packed Q8_0", "packed BF16", "dense f32")
COMPUTE_TYPES = {"cpu": "float32", "mps": "bfloat16", "cuda": "bfloat16"}
PLACES: Mapping[str, Callable[[int], Machine]] = {
    "processor": lambda size: machine_of_memory(size << 30),
    "unified": lambda size: device_machine(f"M1 Max {size}GB"),
    "GPU": lambda size: device_machine(f"RTX 4080 {size}GB"),
}
SUPER_BLOCK = 256  # weights of a K-quant's block


def full_memory() -> str:
    """Return the predicted peak of each way to train each model, on three kinds of device."""
    rows = [
        (
            name,
            *(" · ".join(peak(name, way, device) for device in COMPUTE_TYPES) for way in FULL_WAYS),
        )
        for name in FULL_MODELS
    ]
    return table(("model", *FULL_WAYS), rows) + "\n"


def full_fits() -> str:
    """Return the largest model that each way fits, by memory and what it belongs to."""
    rows = [
        (f"{size} GB, {place}", *(largest(machine(size), way) for way in FITTING_WAYS))
        for size in (16, 24, 32, 64)
        for place, machine in PLACES.items()
    ]
    return table(("memory", *FITTING_WAYS), rows) + "\n"


@cache
def shape_named(name: str) -> Shape:
    """Return a published model's numbers."""
    return published_shape(name)


def bytes_taken(name: str, way: str, device: str) -> int | None:
    """Return the predicted peak, or None where rows do not divide into the keep type's blocks."""
    shape, settings = shape_named(name), FULL_WAYS[way]
    undivided = any(linear.columns % SUPER_BLOCK for linear in shape.linears)
    if settings.keep_type.endswith("_K") and undivided:
        return None
    chosen = replace(settings, compute_type=COMPUTE_TYPES[device])
    return training_memory(shape, chosen, device=device).total_bytes


def peak(name: str, way: str, device: str) -> str:
    """Return a predicted peak in GB, with two digits that count."""
    found = bytes_taken(name, way, device)
    if found is None:
        return "–"
    return f"{found / 1e9:.1f}" if found < 9.95e9 else f"{found / 1e9:.0f}"


def largest(machine: Machine, way: str) -> str:
    """Return the largest of the models that a way fits on a machine."""
    for name in reversed(FULL_MODELS):
        found = bytes_taken(name, way, machine.device)
        if found is not None and (says := verdict(found, machine.budget_bytes)) != "no":
            size = name.partition(":")[2].upper()
            return size if says == "fits" else f"{size}, tightly"
    return "–"


def plan_machines() -> str:
    """Return what running and training models takes on machines of 16 and 32 GB."""
    rows = [
        (name, f"{row['file_bytes'] / 1e9:.1f}", size, *(cell(row[key]) for key in COLUMNS))
        for name in MODELS
        for size, machine in MACHINES.items()
        for row in [table_row(name, machine, Wishes())]
    ]
    return table(("model", "file, GB", "machine", *COLUMNS), rows) + "\n"


def cell(found: Mapping[str, Any]) -> str:
    """Return peak GB and verdict, with a star where activations are recomputed."""
    star = "*" if found.get("recompute") else ""
    return f"{found['predicted_bytes'] / 1e9:.1f} {found['verdict']}{star}"


def plan(figures: Mapping[str, Any]) -> str:
    """Return how far predictions were from what was measured, ours and others'."""

    def share(name: str) -> str:
        found = figures[f"{name}_error"]
        return "–" if found is None else f"{100 * found:.1f} %"

    def shares(name: str) -> tuple[str, str]:
        return share(f"{name}_median"), share(f"{name}_worst")

    compute = [abs(row["error"]) for row in figures["buffers"] if row["buffer"] == "compute"]
    middle = sorted(compute)[len(compute) // 2]
    rows = [
        ("peak memory of training", "llamune plan", *shares("memory")),
        ("", "accelerate estimate-memory", *shares("accelerate")),
        ("seconds a step, after `--calibrate`", "llamune plan", *shares("time")),
        (
            "llama.cpp's compute buffer",
            "llamune plan",
            f"{100 * middle:.1f} %",
            f"{100 * max(compute):.1f} %",
        ),
        ("", "gguf-parser's rule", *shares("gguf_parser_compute")),
    ]
    n_training, n_buffers = len(figures["training"]), len(figures["buffers"])
    text = table(("predicted", "by", "median error", "worst"), rows)
    return f"{text}\n\n{n_training} trainings in processes of their own, {n_buffers} buffers."
