"""Draw the figures and tables of the docs from committed results.

    python -m benchmarks._figures          # docs/figures/*.svg and the tables beside them

Nothing is measured here: every number comes from `benchmarks/results/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FIGURES = HERE.parent / "docs" / "figures"
WAYS = {
    "beside": "adapter beside its base",
    "nearest": "one file, rounded to nearest",
    "importance": "one file, importance matrix",
    "compensated": "one file, compensated",
    "q8_0": "one file, Q8_0",
    "fit": "types chosen to fit, compensated",
}
MARKERS = {
    "beside": "*", "nearest": "v", "importance": "s", "compensated": "o", "q8_0": "D", "fit": "P"
}  # fmt: skip
COLOURS = ("#1b6ca8", "#c8553d", "#2e7d5b", "#7b4ea3", "#8a6d1d")


def main() -> None:
    """Draw what there are results for."""
    mpl.rcParams.update({"svg.hashsalt": "llamune", "svg.fonttype": "none", "font.size": 9})
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name, draw in (("merge", merge), ("quantize_quality", quality), ("general_share", share)):
        for path in sorted(RESULTS.glob(f"{name}-*.json"))[-1:]:
            kept = json.loads(path.read_text(encoding="utf-8"))
            source = f"Source: `benchmarks/results/{path.name}`"
            text = f"{draw(kept['figures'])}\n\n{source}, {kept['machine']['processor']}.\n"
            (FIGURES / f"{name}.md").write_text(text, encoding="utf-8")
            print(path.name)


def save(figure: Any, name: str) -> None:
    """Write a figure, the same bytes for the same numbers."""
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def plus_minus(value: dict[str, Any], pattern: str = "{:.3f}", scale: float = 1.0) -> str:
    """Return a mean over seeds with half of its interval, where there is more than one seed."""
    text = pattern.format(scale * value["mean"])
    half = value["half_width"]
    return text if half is None else f"{text} ± {pattern.format(scale * half)}"


def merge(figures: dict[str, Any]) -> str:
    """Draw size against the share of the gain that is kept; return the table."""
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
    rows = [
        [
            row["base"].upper(),
            WAYS[row["way"]],
            f"{row['bytes'] / 1e6:.1f}",
            plus_minus(row["gain_kept"], "{:.0f} %", 100),
            plus_minus(row["loss"]["domain"]),
            plus_minus(row["kl"], "{:.4f}") if "kl" in row else "",
            plus_minus(row["loss"]["general"]),
            plus_minus(row["loss"]["licence"]),
            plus_minus(row["seconds"], "{:.0f}") if "seconds" in row else "",
            f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "",
        ]
        for row in means
    ]
    headings = (
        "base", "handed over", "MB", "gain kept", "loss", "KL from the pair", "general text",
        "licence", "seconds", "peak GB",
    )  # fmt: skip
    return table(headings, rows)


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


def quality(figures: dict[str, Any]) -> str:
    """Draw KL from the reference against size; return the table."""
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
    names = ("domain", "general", "licence")
    cells = [
        [
            row["type"].upper(),
            WAYS[row["way"]].removeprefix("one file, "),
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{row['texts'][t]['kl']:.3f} ± {row['texts'][t]['kl_error']:.3f}" for t in names),
            f"{row['texts']['domain']['loss']:.3f}",
            f"{row['seconds']:.0f}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        ]
        for row in rows
    ]
    headings = (
        "type", "rounded", "MB", "KL, like the calibration's", "KL, general text",
        "KL, licence", "loss in the domain", "seconds", "peak GB",
    )  # fmt: skip
    return table(headings, cells)


def share(figures: dict[str, Any]) -> str:
    """Return the table of general shares."""
    rows = [
        [
            row["way"],
            *(plus_minus(row[text]["loss"]) for text in ("domain", "general", "licence")),
            plus_minus(row["domain"]["kl"], "{:.4f}") if "kl" in row["domain"] else "",
            plus_minus(row["licence"]["kl"], "{:.4f}") if "kl" in row["licence"] else "",
        ]
        for row in figures["means"]
    ]
    headings = (
        "merged",
        "loss, domain",
        "loss, general text",
        "loss, licence",
        "KL, domain",
        "KL, licence",
    )
    return table(headings, rows)


if __name__ == "__main__":
    main()
