"""The tables of what training leaves, from committed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks._full_case import WAYS as COMPARED
from benchmarks._markdown import plus_minus, table

__all__ = ["full", "in_order", "served_quality", "weights_and_optimizer"]

Figures = Mapping[str, Any]
WAYS = {
    "dense-f32": ("dense F32", "AdamW"),
    "dense-f32-wide": ("dense F32", "AdamW"),
    "lora-r16": ("LoRA r16, all linear layers", "AdamW"),
}
OPTIMIZERS = {"factored": "factored (default)", "adamw8": "AdamW in 8 bits"}
ROUNDING = {
    "trained": "as trained",
    "nearest": "rounded to nearest",
    "compensated": "rounded with compensation",
}


def served_quality(figures: Figures) -> str:
    """Return the loss as served of what was trained on the served bytes, on 16 bits, on NF4."""
    base = {one["base"]: one["loss"]["mean"] for one in figures["bases"]}
    found = {(one["base"], one["trained_on"]): one for one in figures["ways"]}
    headings = (
        "base", "itself", "packed", "16-bit", "NF4", "packed, merged", "16-bit, merged",
        "NF4, merged", "packed, merged with compensation",
    )  # fmt: skip
    rows = [
        [kind.upper(), f"{loss:.3f}"]
        + [
            interval(found[kind, way][result])
            for result in ("adapter", "merged")
            for way in ("packed", "16-bit", "nf4")
        ]
        + [interval(found[kind, "packed"]["compensated"])]
        for kind, loss in base.items()
    ]
    return (
        f"{table(headings, rows)}\n\nHeld-out loss, nats a token, over {figures['seeds']} "
        f"seeds, with 95 % intervals over text and seeds; rank {figures['rank']}, "
        f"{figures['steps']} steps of {figures['tokens_a_step']} tokens."
    )


def interval(value: Mapping[str, float]) -> str:
    """Return a mean and half the width of its interval."""
    return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


def full(figures: Figures) -> str:
    """Return what each way to train every weight reaches, what its file keeps, and the 9B step."""
    parts = [ways(figures[part]) for part in ("quality", "long") if part in figures]
    parts += [final_types(figures["served"]["rows"]), nine(figures["nine"])]
    return "\n\n".join(parts)


def ways(part: Figures) -> str:
    """Return loss, seconds a step and memory of each way, beside dense AdamW on the same model."""
    against = {row["way"]: row for row in part["against_dense"]}
    rows = []
    for mean in in_order(part["means"]):
        name = mean["way"]
        model = "wide starter" if mean["model"].startswith("wide") else "starter"
        weights, optimizer = weights_and_optimizer(name)
        beside = against.get(name)  # dense training may be left out
        rows.append((
            f"{model}, {weights}",
            optimizer,
            f"{mean['rate']:g}",
            plus_minus(mean["loss_after"], "{:.3f}"),
            "–" if beside is None else f"{100 * (beside['loss'] - 1):+.1f} %",
            noise(mean),
            f"{mean['step_seconds']['mean']:.2f} s",
            "–" if beside is None else f"{beside['step_seconds']:.2f} ×",
            f"{mean['peak_bytes']['mean'] / 1e9:.2f} GB",
        ))  # fmt: skip
    headings = (
        "weights", "optimizer", "rate", "held-out loss", "to dense", "rounding (forecast)",
        "a step", "to dense", "peak",
    )  # fmt: skip
    steps, sizes = part["means"][0]["steps"], part["measured"]
    before = part["cases"][0]["loss_before"]
    return (
        f"{table(headings, rows)}\n\n{steps} steps of {sizes['batch']} × {sizes['length']} tokens "
        f"of English prose; {before:.3f} before. Rounding: what it added to a weight over the run, "
        f"root mean square, in thousandths."
    )


def in_order(means: Sequence[Figures]) -> list[Figures]:
    """Return the ways in the order of the comparison: each is measured when there is time."""
    order = list(COMPARED)
    return sorted(means, key=lambda mean: (COMPARED[mean["way"]].wide, order.index(mean["way"])))


def noise(row: Figures) -> str:
    """Return what rounding added, measured and forecast; a dash where nothing is rounded."""
    if row.get("rounding") is None:
        return "–"
    forecast = row.get("rounding_forecast")
    return f"{1e3 * row['rounding']:.2f}" + ("" if forecast is None else f" ({1e3 * forecast:.2f})")


def weights_and_optimizer(way: str) -> tuple[str, str]:
    """Return in words how a way keeps its weights, and what moves them."""
    if way in WAYS:
        return WAYS[way]
    _, kind, optimizer = way.split("-")
    return f"packed {kind}", OPTIMIZERS[optimizer]


def final_types(rows: list[Figures]) -> str:
    """Return what is left of the wide starter's training at each final type."""
    trained = rows[0]
    gain = trained["before"] - trained["loss"]
    lines = [
        (
            f"{row['type']}, {ROUNDING[row['round']]}",
            f"{row['loss']:.3f}",
            f"{row['kl']:.3f}",
            f"{100 * (trained['before'] - row['loss']) / gain:.0f} %",
        )
        for row in rows
    ]
    headings = ("wide starter, trained in Q8_0", "loss in llama.cpp", "KL", "of the gain")
    return f"{table(headings, lines)}\n\nThe base's own loss: {trained['before']:.3f}."


def nine(row: Figures) -> str:
    """Return the measured step on gemma2:9b's shapes in words."""
    trained = f"{row['parameters_trained'] / 1e9:.2f} billion weights of its {row['layers']} layers"
    limit = f"{row['limit_bytes'] / 1e9:.0f} GB (`{row['limited_by']}`)"
    peak, planned = row["peak_resident_bytes"] / 1e9, row["predicted_bytes"] / 1e9
    return (
        f"One step of {row['tokens']} tokens on a model with gemma2:9b's shapes and random "
        f"weights, all {trained} trained in Q8_0, in a process that may allocate no more than "
        f"{limit}: {peak:.2f} GB resident at the peak, {planned:.2f} GB planned; "
        f"{row['step_seconds'] / 60:.1f} minutes."
    )
