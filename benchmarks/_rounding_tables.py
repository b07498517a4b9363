"""Tables of what rounding keeps: merged tunings, plain quantization, the share of general text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks._markdown import plus_minus, table

__all__ = ["WAYS", "general_share", "merge", "quantize_quality"]

Figures = Mapping[str, Any]

WAYS = {
    "beside": "adapter beside its base",
    "nearest": "one file, rounded to nearest",
    "importance": "one file, importance matrix",
    "compensated": "one file, compensated",
    "q8_0": "one file, Q8_0",
    "fit": "types chosen to fit, compensated",
}
TEXTS = ("domain", "general", "licence")


def merge(figures: Figures) -> str:
    """Return what is handed over, how big it is, and how much of the tuning is in it."""
    rows = [
        [
            f"{row['base'].upper()}: {WAYS[row['way']]}",
            f"{row['bytes'] / 1e6:.1f}",
            plus_minus(row["gain_kept"], "{:.0f} %", 100),
            plus_minus(row["loss"]["domain"]),
            plus_minus(row["kl"], "{:.4f}") if "kl" in row else "–",
            plus_minus(row["loss"]["general"]),
            plus_minus(row["loss"]["licence"]),
            plus_minus(row["seconds"], "{:.0f}") if "seconds" in row else "–",
            f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "–",
        ]
        for row in figures["means"]
        if row["way"] != "base"
    ]
    headings = (
        "base and what is handed over", "MB", "gain kept", "loss in the domain",
        "KL from the pair", "loss, general text", "loss, licence", "seconds", "peak memory, GB",
    )  # fmt: skip
    seeds = figures["means"][0]["gain_kept"]["n"]
    return (
        f"{table(headings, rows)}\n\n{seeds} seeds, 95 % intervals; LoRA r16, {figures['steps']} "
        "steps. Seconds and memory are those of the merge."
    )


def quantize_quality(figures: Figures) -> str:
    """Return the KL from the reference of each type and way of rounding."""
    rows = [
        [
            f"{row['type'].upper()}: {WAYS[row['way']].removeprefix('one file, ')}",
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{row['texts'][t]['kl']:.3f} ± {row['texts'][t]['kl_error']:.3f}" for t in TEXTS),
            f"{row['texts']['domain']['loss']:.3f}",
            f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "–",
        ]
        for row in figures["results"]
        if row["way"]
    ]
    headings = (
        "type and rounding", "MB", "KL, like the calibration's text", "KL, general text",
        "KL, a licence", "loss in the domain", "peak memory, GB",
    )  # fmt: skip
    return table(headings, rows)


def general_share(figures: Figures) -> str:
    """Return what each share of general text gives in the domain and costs outside it."""
    rows = [
        [
            row["way"],
            *(plus_minus(row[text]["loss"]) for text in TEXTS),
            *(plus_minus(row[t]["kl"], "{:.4f}") if "kl" in row[t] else "–" for t in TEXTS),
        ]
        for row in figures["means"]
    ]
    headings = (
        "merged with", "loss in the domain", "general text", "licence", "KL in the domain",
        "general text", "licence",
    )  # fmt: skip
    return table(headings, rows)
