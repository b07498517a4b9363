"""`llamune diff`: what differs between two models, or what an adapter changes in its base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.anatomy import Effect, FileDifference, KeyChange, TensorChange
    from llamune.store import Model

TEXT_CHARACTERS = 30
N_SHOWN = 20


def command(
    before: Annotated[str, typer.Argument(metavar="A", help="model name, GGUF file or folder")],
    after: Annotated[
        str, typer.Argument(metavar="B", help="another model, or an adapter (GGUF or PEFT folder)")
    ],
    every: Annotated[
        bool, typer.Option("--all", help=f"list every tensor, not the first {N_SHOWN}")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what differs between two models, or how much an adapter changes its base."""
    from llamune.adapter import is_peft_folder
    from llamune.store import resolve

    base = resolve(before)
    for text in base.notes:
        _screen.note(text)
    folder = Path(after).expanduser()
    if is_peft_folder(folder):
        show_adapter(base, [folder], as_json=as_json)
        return
    other = resolve(after)
    for text in other.notes:
        _screen.note(text)
    if is_adapter_file(other.path):
        show_adapter(base, list(other.paths), as_json=as_json)
    elif other.adapters and other.paths == base.paths:
        show_adapter(base, [adapter.path for adapter in other.adapters], as_json=as_json)
    else:
        if other.adapters:
            _screen.note(f"{other} applies {len(other.adapters)} adapters; only files are compared")
        show_models(base, other, every=every, as_json=as_json)


def is_adapter_file(path: Path) -> bool:
    """Whether a GGUF file holds an adapter."""
    from llamune.gguf import ModelFile

    with ModelFile.open(path, mapped=False) as file:
        return file.metadata.get("general.type") == "adapter"


def show_models(base: Model, other: Model, *, every: bool, as_json: bool) -> None:
    """Print what differs between two models."""
    from llamune.anatomy import compare
    from llamune.gguf import ModelFile

    with (
        ModelFile.open(base.paths, mapped=base.store is not None) as first,
        ModelFile.open(other.paths, mapped=other.store is not None) as second,
    ):
        total = sum(tensor.nbytes for tensor in first.tensors.values())
        with _screen.progress("compare", total=total) as advance:
            found = compare(first, second, advance=advance)
    if as_json:
        _screen.data_json(report(found))
        return
    if found.is_same:
        _screen.data("same metadata, same tensors")
        return
    show_keys("METADATA", found.keys)
    show_keys("TOKENIZER", found.tokenizer_keys)
    for label, tensors in (("only in A", found.only_before), ("only in B", found.only_after)):
        for tensor in tensors[: None if every else N_SHOWN]:
            _screen.data(_screen.plain(f"{label}: {tensor.name} {tensor.shape} {tensor.type}"))
    for one, another in found.reshaped:
        _screen.data(_screen.plain(f"shape: {one.name} {one.shape} -> {another.shape}"))
    show_sections(found)
    show_tensors(found.changed, every=every)


def report(found: FileDifference) -> dict[str, Any]:
    """Return a difference as the JSON output has it."""
    return {
        "same": found.is_same,
        "metadata": [asdict(change) for change in found.keys],
        "tokenizer": [asdict(change) for change in found.tokenizer_keys],
        "only_in_a": [tensor.name for tensor in found.only_before],
        "only_in_b": [tensor.name for tensor in found.only_after],
        "reshaped": [
            {"name": one.name, "a": list(one.shape), "b": list(another.shape)}
            for one, another in found.reshaped
        ],
        "sections": [
            {
                "name": section.name,
                "tensors": section.n_tensors,
                "changed_tensors": section.n_changed_tensors,
                "changed_share": section.share,
                "relative_change": finite(section.relative),
            }
            for section in found.sections()
        ],
        "tensors": [
            {
                "name": change.before.name,
                "type_a": change.before.type.name,
                "type_b": change.after.type.name,
                "bits_change": change.bits_change,
                "changed_share": change.share,
                "largest_change": finite(change.largest),
                "relative_change": finite(change.relative),
                "samples": [asdict(sample) for sample in change.samples],
            }
            for change in found.changed
        ],
    }


def finite(value: float) -> float | None:
    """Return a number, or null for JSON where there is none."""
    return value if math.isfinite(value) else None


def show_keys(heading: str, changes: Sequence[KeyChange]) -> None:
    """Print metadata that differs."""
    from rich.table import Table

    if not changes:
        _screen.data(f"{heading.lower()}: same")
        return
    grid = Table(box=None, pad_edge=False, show_edge=False)
    for column in (heading, "A", "B"):
        grid.add_column(column, overflow="fold")
    for change in changes:
        cells = (change.key, value_text(change.before), value_text(change.after))
        grid.add_row(*(_screen.plain(cell) for cell in cells))
    _screen.show(grid)


def value_text(value: str | None) -> str:
    """Return the beginning of a value in one line."""
    if value is None:
        return "-"
    text = " ".join(value.split())
    return text if len(text) <= TEXT_CHARACTERS else f"{text[:TEXT_CHARACTERS]}…"


def show_sections(found: FileDifference) -> None:
    """Print the changes of each section."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("SECTION")
    for heading in ("TENSORS", "CHANGED", "VALUES CHANGED", "RELATIVE CHANGE"):
        grid.add_column(heading, justify="right")
    for section in found.sections():
        grid.add_row(
            section.name,
            str(section.n_tensors),
            str(section.n_changed_tensors),
            f"{100 * section.share:.2f} %",
            f"{section.relative:.3g}",
        )
    _screen.data("")
    _screen.show(grid)


def show_tensors(changes: Sequence[TensorChange], *, every: bool) -> None:
    """Print the tensors that differ."""
    from rich.table import Table

    if not changes:
        return
    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("TENSOR", overflow="fold", ratio=1)
    grid.add_column("STORED AS", no_wrap=True)
    for heading in ("VALUES", "LARGEST", "RELATIVE"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for change in changes[: None if every else N_SHOWN]:
        before, after = change.before.type, change.after.type
        kind = f"{before}>{after} {change.bits_change:+g} bit" if before != after else before.name
        grid.add_row(
            _screen.plain(change.before.name.removesuffix(".weight")),
            kind,
            f"{100 * change.share:.1f} %",
            f"{change.largest:.3g}",
            f"{change.relative:.3g}",
        )
        for sample in change.samples:
            grid.add_row(f"  {sample.before:.5g} -> {sample.after:.5g}")
    _screen.data("")
    _screen.show(grid)
    if not every and len(changes) > N_SHOWN:
        _screen.note(f"{len(changes) - N_SHOWN} more tensors differ: --all lists them")


def show_adapter(base: Model, paths: Sequence[Path], *, as_json: bool) -> None:
    """Print how much adapters change their base."""
    from llamune.adapter import read_adapter
    from llamune.anatomy import adapter_effects, by_block, by_module
    from llamune.arch import describe
    from llamune.gguf import ModelFile

    results = []
    with ModelFile.open(base.paths, mapped=base.store is not None) as file:
        family = describe(file)
        for path in paths:
            adapter = read_adapter(path, family)
            total = sum(file.tensors[name].nbytes for name in adapter.pairs if name in file.tensors)
            with _screen.progress("compare", total=total) as advance:
                effects = adapter_effects(file, adapter, advance=advance)
            tables = {"block": by_block(effects), "module": by_module(effects)}
            results.append((path, adapter, effects, tables))
    if as_json:
        _screen.data_json(
            [
                {
                    "adapter": str(path),
                    "parameters": adapter.n_parameters,
                    "ranks": list(adapter.ranks),
                    "tensors": as_json_list(effects),
                    "blocks": as_json_list(tables["block"]),
                    "modules": as_json_list(tables["module"]),
                }
                for path, adapter, effects, tables in results
            ]
        )
        return
    for path, adapter, _, tables in results:
        ranks = ", ".join(str(rank) for rank in adapter.ranks)
        _screen.data(_screen.plain(f"{path}: rank {ranks}, {adapter.n_parameters:,} weights"))
        for heading, effects in tables.items():
            show_effects(heading, effects)


def as_json_list(effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """Return effects as the JSON output has them."""
    return [{"name": one.name, "relative_change": finite(one.relative)} for one in effects]


def show_effects(heading: str, effects: Sequence[Effect]) -> None:
    """Print how much each block or module changes, relative to the base."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column(heading.upper(), min_width=20)
    grid.add_column("CHANGE / WEIGHTS", justify="right")
    for effect in effects:
        grid.add_row(_screen.plain(effect.name), f"{100 * effect.relative:.3f} %")
    _screen.data("")
    _screen.show(grid)
