"""Draws `docs/figures/served_quality.svg` from the committed figures of `served_quality`.

python -m benchmarks._served_plot
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "docs" / "figures" / "served_quality.svg"
COLOURS = {"packed": "tab:blue", "16-bit": "tab:orange", "nf4": "tab:green"}
LABELS = {
    "packed": "trained on the packed base it is served with",
    "16-bit": "trained on the 16-bit reference",
    "nf4": "trained on an NF4-like rounding",
}
WIDTH = 0.12


def main() -> None:
    """Draw one group of points a base type."""
    path = max((HERE / "results").glob("served_quality-*.json"), key=lambda p: p.stat().st_mtime)
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    rcParams["svg.hashsalt"] = "llamune"  # the same figures make the same file
    figure = Figure(figsize=(8, 4), layout="constrained")
    canvas = FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(figures["bases"]), sharey=False)
    for axes, base in zip(panels, figures["bases"], strict=True):
        draw(axes, base, [one for one in figures["ways"] if one["base"] == base["base"]])
    panels[0].set_ylabel("held-out loss as served, nats a token")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1, fontsize=8)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_figure(str(OUT), format="svg", metadata={"Date": None})
    # editors and git like lines that do not end in blanks
    lines = OUT.read_text(encoding="utf-8").splitlines()
    OUT.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
    print(OUT)


def draw(axes: Any, base: dict[str, Any], ways: list[dict[str, Any]]) -> None:
    """Draw the base's own loss, and each way beside it: the adapter, and merged."""
    axes.axhline(base["loss"]["mean"], color="grey", linestyle=":", label="the base itself")
    for number, way in enumerate(ways):
        for place, key in enumerate(("adapter", "merged")):
            value = way[key]
            axes.errorbar(
                place + (number - 1) * WIDTH,
                value["mean"],
                yerr=[[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
                fmt="o",
                color=COLOURS[way["trained_on"]],
                label=LABELS[way["trained_on"]] if place == 0 else None,
                capsize=3,
            )
        if "compensated" in way:
            value = way["compensated"]
            axes.errorbar(
                1 + 2 * WIDTH,
                value["mean"],
                yerr=[[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
                fmt="s",
                color=COLOURS[way["trained_on"]],
                label="the same, merged with compensation",
                capsize=3,
            )
    axes.set_xticks([0, 1], ["adapter", "merged"])
    axes.set_title(base["base"].upper())
    axes.grid(axis="y", alpha=0.3)


if __name__ == "__main__":
    main()
