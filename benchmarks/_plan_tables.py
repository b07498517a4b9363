"""Tables of the guide's page on `plan`: what machines hold, reckoned now; and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks._markdown import table

from llamune.jobs import Wishes, table_row
from llamune.plan import device_machine, machine_of_memory

__all__ = ["plan", "plan_machines"]

MODELS = ("gemma2:9b", "phi3.5:3.8b", "qwen2.5:14b", "gemma2:27b", "qwen2.5:32b")
MACHINES = {
    "16 GB": machine_of_memory(16 << 30),
    "32 GB": machine_of_memory(32 << 30),
    "M1 Max, 32 GB unified": device_machine("M1 Max 32GB"),
    "RTX 4080, 16 GB": device_machine("RTX 4080"),
}
COLUMNS = ("run", "lora", "full packed", "full dense")


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
