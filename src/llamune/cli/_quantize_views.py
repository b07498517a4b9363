"""What `llamune quantize` shows: a plan by section, a choice of types, errors of rounding again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.convert import QuantizePlan, TensorError
    from llamune.jobs import Fit

COPY = "COPY"


def fit_lines(fit: Fit) -> list[str]:
    """Return what was chosen, and the standard mixes beside the best types at their sizes."""
    lines = [f"{size_text(fit.plan.nbytes)}: predicted to add {fit.loss:.4f} nats a token"]
    lines += [
        f"  {mix.name}, {mix.nbytes / 1e9:.3f} GB: {mix.loss:.4f}; the best types at that size: "
        f"{mix.best_loss:.4f}"
        for mix in fit.standard
    ]
    return lines


def warn_of_errors(errors: Sequence[TensorError]) -> None:
    """Say what rounding a second time did."""
    worst = max(errors, key=lambda error: error.relative)
    total = sum(error.squared for error in errors), sum(e.squared_before for e in errors)
    relative = (total[0] / total[1]) ** 0.5 if total[1] else 0.0
    _screen.warn(
        f"rounding again added {100 * relative:.2f} % of the weights' size "
        f"(most in {worst.name}: {100 * worst.relative:.2f} %)"
    )


def fallbacks(plan: QuantizePlan) -> list[str]:
    """Return what to say about rows that do not divide into the blocks that were asked for."""
    if plan.file_type is None:
        return []
    base = plan.file_type.base
    tensors = plan.source.tensors
    uneven = [name for name in plan.changed if tensors[name].n_columns % base.block_size]
    if not uneven:
        return []
    kinds = sorted({plan.types[name].name for name in uneven})
    return [
        f"rows of {len(uneven)} tensors do not divide into {base} blocks of {base.block_size}: "
        f"stored as {', '.join(kinds)}"
    ]


def plan_report(plan: QuantizePlan, fit: Fit | None) -> dict[str, Any]:
    """Return a plan as the JSON output has it."""
    from llamune.convert import section_bytes

    report: dict[str, Any] = {
        "type": COPY if plan.file_type is None else plan.file_type.name,
        "bytes": plan.nbytes,
        "sections": section_bytes(plan),
        "tensors": {name: kind.name for name, kind in plan.types.items()},
        "needs_importance": list(plan.needs_importance),
        "requantized": list(plan.requantized),
    }
    if fit is not None:
        standard = [asdict(mix) for mix in fit.standard]
        report["fit"] = {"predicted_loss": fit.loss, "standard": standard}
    return report


def show_plan(plan: QuantizePlan, fit: Fit | None, *, as_json: bool) -> None:
    """Print what would be written: sections, types and bytes."""
    from rich.table import Table

    report = plan_report(plan, fit)
    if as_json:
        _screen.data_json(report)
        return
    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("SECTION")
    grid.add_column("BYTES", justify="right")
    grid.add_column("STORED AS", overflow="fold")
    for label, nbytes, kinds in folded(plan, report["sections"]):
        grid.add_row(label, f"{nbytes:,}", ", ".join(kinds))
    grid.add_row("total", f"{plan.nbytes:,}", size_text(plan.nbytes))
    _screen.show(grid)
    if plan.needs_importance:
        _screen.note(f"{len(plan.needs_importance)} tensors need an importance matrix (--imatrix)")


def folded(plan: QuantizePlan, sections: dict[str, int]) -> list[tuple[str, int, list[str]]]:
    """Return sections with bytes and types; blocks of the same types and size together."""
    from llamune.arch import section_of

    kinds: dict[str, set[str]] = {}
    for name, kind in plan.types.items():
        kinds.setdefault(section_of(name), set()).add(kind.name)
    rows: dict[tuple[Any, ...], list[str]] = {}
    for section, nbytes in sections.items():
        stored = tuple(sorted(kinds.get(section, ())))
        alike = (section.startswith("block ") or section, nbytes, stored)
        rows.setdefault(alike, []).append(section)
    result = []
    for (_, nbytes, stored), names in rows.items():
        label = names[0] if len(names) == 1 else f"{len(names)} blocks like {names[0]}"
        result.append((label, nbytes * len(names), list(stored)))
    return result


def size_text(n_bytes: int) -> str:
    """Return a size in the two units that people confuse."""
    return f"{n_bytes / 1e9:.3f} GB ({n_bytes / 2**30:.3f} GiB)"
