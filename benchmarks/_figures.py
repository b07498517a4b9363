"""Draw the pictures of the docs from committed results.

    python -m benchmarks._figures          # docs/figures/*.svg

Nothing is measured here: every number comes from `benchmarks/results/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from benchmarks._rounding_tables import WAYS
from benchmarks._training_tables import in_order, weights_and_optimizer
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "docs" / "figures"
MARKERS = {
    "beside": "*", "nearest": "v", "importance": "s", "compensated": "o", "q8_0": "D", "fit": "P"
}  # fmt: skip
TRAINED_ON = {
    "packed": "trained on the packed base it is served with",
    "16-bit": "trained on the 16-bit reference",
    "nf4": "trained on an NF4-like rounding",
}
APART = 0.12  # of points that belong together
COLOURS = ("#1b6ca8", "#c8553d", "#2e7d5b", "#7b4ea3", "#8a6d1d", "#555")


def main() -> None:
    """Draw what there are results for."""
    mpl.rcParams.update({"svg.hashsalt": "llamune", "svg.fonttype": "none", "font.size": 9})
    FIGURES.mkdir(parents=True, exist_ok=True)
    for draw in (merge, quantize_quality, served_quality, full):
        for path in sorted(RESULTS.glob(f"{draw.__name__}-*.json"))[-1:]:
            draw(json.loads(path.read_text(encoding="utf-8"))["figures"])
            print(path.name)


def save(figure: Any, name: str) -> None:
    """Write a figure, the same bytes for the same numbers, and no line that ends in blanks."""
    path = FIGURES / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def merge(figures: dict[str, Any]) -> None:
    """Draw size against the share of the gain that is kept."""
    means = [row for row in figures["means"] if row["way"] != "base"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    bases = list(dict.fromkeys(row["base"] for row in means))
    for row in means:
        gain = row["gain_kept"]
        axes.errorbar(
            row["bytes"] / 1e6,
            100 * gain["mean"],
            yerr=None if gain["half_width"] is None else 100 * gain["half_width"],
            marker=MARKERS[row["way"]],
            markersize=11 if row["way"] == "beside" else 7,
            color=COLOURS[bases.index(row["base"])],
            linestyle="none",
            capsize=2,
        )
    legend(axes, bases, [way for way in WAYS if any(row["way"] == way for row in means)])
    axes.axhline(100, color="#999", linewidth=0.6)
    axes.set_xlabel("what you hand over, MB")
    axes.set_ylabel("share of the tuning's gain in it, %")
    axes.grid(alpha=0.25)
    save(figure, "merge")


def legend(axes: Any, colours: Sequence[str], ways: Sequence[str]) -> None:
    """Explain colours and markers."""
    line = mpl.lines.Line2D
    handles = [
        line([], [], color=COLOURS[i], marker="o", linestyle="none", label=name.upper())
        for i, name in enumerate(colours)
    ]
    handles += [
        line([], [], color="#444", marker=MARKERS[way], linestyle="none", label=WAYS[way])
        for way in ways
    ]
    axes.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def quantize_quality(figures: dict[str, Any]) -> None:
    """Draw KL from the reference against size."""
    rows = [row for row in figures["results"] if row["way"]]
    texts = {"domain": "text like the calibration's", "licence": "text of neither calibration"}
    figure, panes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    types = list(dict.fromkeys(row["type"] for row in rows))
    for axes, (text, title) in zip(panes, texts.items(), strict=True):
        for row in rows:
            axes.plot(
                row["bytes"] / 1e6,
                row["texts"][text]["kl"],
                marker=MARKERS[row["way"]],
                color=COLOURS[types.index(row["type"])],
                linestyle="none",
            )
        axes.set_yscale("log")
        axes.set_xlabel("file, MB")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.25)
    panes[0].set_ylabel("KL from the F32 model, nats a token")
    legend(panes[1], types, list(dict.fromkeys(row["way"] for row in rows)))
    save(figure, "quantize_quality")


def served_quality(figures: dict[str, Any]) -> None:
    """Draw the loss as served, a pane a base type: the adapter beside it, and merged."""
    bases = figures["bases"]
    figure, panes = plt.subplots(1, len(bases), figsize=(8, 4), layout="constrained")
    for axes, base in zip(panes, bases, strict=True):
        axes.axhline(base["loss"]["mean"], color="#888", linestyle=":", label="the base itself")
        ways = [one for one in figures["ways"] if one["base"] == base["base"]]
        for number, way in enumerate(ways):
            colour = COLOURS[number]
            label = TRAINED_ON[way["trained_on"]]
            shift = (number - 1) * APART
            with_interval(axes, shift, way["adapter"], color=colour, label=label)
            with_interval(axes, 1 + shift, way["merged"], color=colour)
            if "compensated" in way:
                label = "the same, merged with compensation"
                place = 1 + 2 * APART
                with_interval(axes, place, way["compensated"], color=colour, label=label, fmt="s")
        axes.set_xticks([0, 1], ["adapter", "merged"])
        axes.set_title(base["base"].upper(), fontsize=9)
        axes.grid(axis="y", alpha=0.25)
    panes[0].set_ylabel("held-out loss as served, nats a token")
    handles, labels = panes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8)
    save(figure, "served_quality")


def with_interval(axes: Any, place: float, value: dict[str, float], **look: Any) -> None:
    """Draw a mean and its interval."""
    below, above = value["mean"] - value["low"], value["high"] - value["mean"]
    look = {"fmt": "o", "capsize": 3, **look}
    axes.errorbar(place, value["mean"], yerr=[[below], [above]], **look)


def full(figures: dict[str, Any]) -> None:
    """Draw held-out loss against tokens and against seconds, a row of panes a model."""
    part = figures["quality"]
    means = in_order(part["means"])
    models = list(dict.fromkeys(row["model"] for row in means))
    figure, grid = plt.subplots(
        len(models), 2, figsize=(9, 3.4 * len(models)), sharey="row", layout="constrained"
    )
    for model, panes in zip(models, grid, strict=True):
        for number, mean in enumerate(row for row in means if row["model"] == model):
            label = ", ".join(weights_and_optimizer(mean["way"]))
            curves = [
                case["curve"]
                for case in part["cases"]
                if (case["way"], case["rate"]) == (mean["way"], mean["rate"])
            ]
            for axes, unit in zip(panes, ("tokens", "seconds"), strict=True):
                curve_of(axes, curves, unit, color=COLOURS[number], label=label)
        panes[0].set_ylabel("held-out loss, nats a token")
        panes[1].legend(fontsize=7)
        panes[0].set_title("wide starter" if model.startswith("wide") else "starter", fontsize=9)
        for axes in panes:
            axes.grid(alpha=0.25)
    grid[-1][0].set_xlabel("tokens trained")
    grid[-1][1].set_xlabel("seconds of training")
    save(figure, "full")


def curve_of(
    axes: Any, curves: Sequence[Sequence[dict[str, float]]], unit: str, **look: Any
) -> None:
    """Draw the mean of some curves over seeds, and the range they lie in."""
    losses = np.array([[point["loss"] for point in curve] for curve in curves])
    places = np.array([[point[unit] for point in curve] for curve in curves]).mean(axis=0)
    axes.plot(places, losses.mean(axis=0), marker=".", **look)
    axes.fill_between(
        places, losses.min(axis=0), losses.max(axis=0), alpha=0.2, color=look["color"]
    )


if __name__ == "__main__":
    main()
