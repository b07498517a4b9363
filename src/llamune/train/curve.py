"""The loss curve of a run: read from `metrics.jsonl`, drawn as PNG and SVG, or as text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LossCurve", "draw_loss_curve", "loss_curve", "plot_text"]

EIGHTHS = " ▁▂▃▄▅▆▇█"
SMOOTHED_SHARE = 20  # the line drawn is a mean over a twentieth of the run


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """Losses by step, nats a trained token."""

    training: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]


def loss_curve(metrics: Path) -> LossCurve:
    """Read a run's `metrics.jsonl`; a half-written last line is passed over."""
    training, validation = [], []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if "loss" in entry:
            training.append((entry["step"], entry["loss"]))
        if "validation_loss" in entry:
            validation.append((entry["step"], entry["validation_loss"]))
    return LossCurve(training=tuple(training), validation=tuple(validation))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return running means over a twentieth of the run, looking back only."""
    width = max(1, len(losses) // SMOOTHED_SHARE)
    return [
        sum(losses[max(0, i + 1 - width) : i + 1]) / len(losses[max(0, i + 1 - width) : i + 1])
        for i in range(len(losses))
    ]


def draw_loss_curve(curve: LossCurve, folder: Path, *, title: str) -> list[Path]:
    """Draw the curve into `loss.png` and `loss.svg`; return their paths.

    Args:
        curve: what to draw; nothing is drawn when it is empty.
        folder: where the files appear.
        title: above the curve.
    """
    if not curve.training:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [step for step, _ in curve.training]
    losses = [loss for _, loss in curve.training]
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=1)
    axes.plot(steps, smoothed(losses), color="tab:blue", label="training")
    if curve.validation:
        axes.plot(
            *zip(*curve.validation, strict=True), "o-", color="tab:orange", label="validation"
        )
    axes.set(xlabel="step", ylabel="loss, nats a token", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    paths = [folder / "loss.png", folder / "loss.svg"]
    for path in paths:
        figure.savefig(path)
    return paths


def plot_text(losses: Sequence[float], *, width: int = 60, height: int = 8) -> list[str]:
    """Return a curve as lines of block characters, the highest loss on top.

    Args:
        losses: in the order of the steps.
        width: columns, at most.
        height: lines.
    """
    if not losses:
        return []
    columns = min(width, len(losses))
    bounds = [round(i * len(losses) / columns) for i in range(columns + 1)]
    means = [sum(losses[low:high]) / (high - low) for low, high in itertools.pairwise(bounds)]
    top, bottom = max(means), min(means)
    span = (top - bottom) or 1.0
    levels = [round((mean - bottom) / span * (8 * height - 1)) + 1 for mean in means]
    lines = []
    for row in reversed(range(height)):
        label = f"{bottom + span * (row + 1) / height:8.3f} "
        lines.append(label + "".join(EIGHTHS[min(8, max(0, level - 8 * row))] for level in levels))
    return lines
