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
from benchmarks._rounding_tables import WAYS
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "docs" / "figures"
MARKERS = {
    "beside": "*", "nearest": "v", "importance": "s", "compensated": "o", "q8_0": "D", "fit": "P"
}  # fmt: skip
COLOURS = ("#1b6ca8", "#c8553d", "#2e7d5b", "#7b4ea3", "#8a6d1d")


def main() -> None:
    """Draw what there are results for."""
    mpl.rcParams.update({"svg.hashsalt": "llamune", "svg.fonttype": "none", "font.size": 9})
    FIGURES.mkdir(parents=True, exist_ok=True)
    for draw in (merge, quantize_quality):
        for path in sorted(RESULTS.glob(f"{draw.__name__}-*.json"))[-1:]:
            draw(json.loads(path.read_text(encoding="utf-8"))["figures"])
            print(path.name)


def save(figure: Any, name: str) -> None:
    """Write a figure, the same bytes for the same numbers."""
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


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


if __name__ == "__main__":
    main()
