"""`llamune inspect`: what is in a model file, to the byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _facts, _screen

if TYPE_CHECKING:
    from llamune.anatomy import Section, Summary, TensorNumbers
    from llamune.gguf import ModelFile
    from llamune.store import Model

JSON_SCHEMA = 1  # raise it when a field changes its meaning; adding fields is free
PREVIEW_ELEMENTS = 4
PREVIEW_CHARACTERS = 60
BAR_WIDTH = 48


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    blocks: Annotated[
        bool, typer.Option("--blocks", help="show every block and every tensor")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="show every metadata key")] = False,
    tensor: Annotated[
        str | None, typer.Option("--tensor", metavar="NAME", help="show the numbers of one tensor")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what is in a model file: its facts, and sections that add up to its size."""
    from llamune.anatomy import sections_of, summarize
    from llamune.gguf import ModelFile
    from llamune.store import resolve

    model = resolve(ref)
    for text in model.notes:
        _screen.note(text)
    with ModelFile.open(model.paths, mapped=model.store is not None) as file:
        if tensor is not None:
            show_tensor(file, tensor, as_json=as_json)
            return
        summary = summarize(file)
        sections = sections_of(file)
        if as_json:
            _screen.data_json(report(model, file, summary, sections, blocks=blocks, keys=keys))
            return
        show_facts(model, file, summary)
        _screen.data("")
        show_sections(file, sections, blocks=blocks)
        if keys:
            _screen.data("")
            show_keys(file)
    for text in summary.warnings:
        _screen.warn(text)


def report(
    model: Model,
    file: ModelFile,
    summary: Summary,
    sections: Sequence[Section],
    *,
    blocks: bool,
    keys: bool,
) -> dict[str, Any]:
    """Return everything as the JSON output has it."""
    result: dict[str, Any] = {
        "schema": JSON_SCHEMA,
        "ref": model.ref,
        "paths": [str(path) for path in file.paths],
        "digest": model.digest,
        "facts": asdict(summary),
        "size_bytes": file.size,
        "sections": [
            {
                "name": section.name,
                "bytes": section.nbytes,
                "parameters": section.n_parameters,
                "bytes_by_type": section.types,
                "parts": {part.name: part.nbytes for part in section.parts},
            }
            for section in sections
        ],
        "adapters": [
            {"path": str(adapter.path), "digest": adapter.digest, **asdict(facts)}
            for adapter, facts in _facts.stored_adapters(model)
        ],
    }
    if blocks:
        result["tensors"] = [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "type": tensor.type.name,
                "offset": tensor.offset,
                "bytes": tensor.nbytes,
                "shard": tensor.shard,
            }
            for tensor in file.tensors.values()
        ]
    if keys:
        result["metadata"] = [
            {"key": key, "type": type_text(file, key), "value": preview(file, key)}
            for key in file.metadata
        ]
    return result


def show_facts(model: Model, file: ModelFile, summary: Summary) -> None:
    """Print the facts, a line each."""
    show_grid(_facts.facts(model, file, summary))


def show_grid(rows: Iterable[tuple[str, str]]) -> None:
    """Print labels and texts in two columns, long texts wrapped."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(label, _screen.plain(text))
    _screen.show(grid)


def show_sections(file: ModelFile, sections: Sequence[Section], *, blocks: bool) -> None:
    """Print the sections with bytes and shares, and the total."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("SECTION", overflow="fold")
    grid.add_column("BYTES", justify="right", no_wrap=True)
    grid.add_column("SHARE", justify="right", no_wrap=True)
    grid.add_column("STORED AS", overflow="fold")

    def row(label: str, nbytes: int, stored: str = "") -> None:
        share = f"{100 * nbytes / file.size:.2f} %"
        grid.add_row(_screen.plain(label), f"{nbytes:,}", share, _screen.plain(stored))

    for label, alike in grouped(sections, apart=blocks):
        row(label, sum(section.nbytes for section in alike), ", ".join(alike[0].types))
        if blocks and alike[0].layout:
            tensors = tensors_of(file, alike[0])
            for tensor in tensors:
                shape = " x ".join(str(size) for size in tensor.shape)
                row(f"  {tensor.name}", tensor.nbytes, f"{tensor.type} {shape}")
            padding = alike[0].nbytes - sum(tensor.nbytes for tensor in tensors)
            if padding:
                row("  padding", padding)
            continue
        if len(alike[0].parts) > 1:
            for place, part in enumerate(alike[0].parts):
                total = sum(section.parts[place].nbytes for section in alike)
                row(f"  {part.name}", total, ", ".join(part.types or ()))
    if "output.weight" not in file.tensors and "token_embd.weight" in file.tensors:
        row("output matrix (tied: the token embedding)", 0)
    row("total", sum(section.nbytes for section in sections))
    _screen.show(grid)


def grouped(sections: Sequence[Section], *, apart: bool) -> Iterator[tuple[str, list[Section]]]:
    """Yield sections with their labels, blocks that are built alike together.

    Args:
        sections: in order.
        apart: leave every block by itself.
    """
    groups: dict[object, list[Section]] = {}
    for section in sections:
        alike = section.layout if section.block is not None and not apart else section.name
        groups.setdefault(alike, []).append(section)
    for alike_sections in groups.values():
        numbers = [section.block for section in alike_sections if section.block is not None]
        label = alike_sections[0].name
        if len(numbers) > 1:
            label = f"blocks {ranges(numbers)} ({len(numbers)} alike)"
        yield label, alike_sections


def ranges(numbers: Iterable[int]) -> str:
    """Return rising numbers as ranges: `0-3, 5, 7-8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def tensors_of(file: ModelFile, section: Section) -> list[Any]:
    """Return the tensors of a section, in file order."""
    from llamune.arch import section_of

    return [tensor for tensor in file.tensors.values() if section_of(tensor.name) == section.name]


def show_keys(file: ModelFile) -> None:
    """Print every metadata key with its type and the beginning of its value."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("KEY", overflow="fold")
    grid.add_column("TYPE", no_wrap=True)
    grid.add_column("VALUE", overflow="fold")
    for key in file.metadata:
        grid.add_row(
            _screen.plain(key), type_text(file, key), _screen.plain(preview_text(file, key))
        )
    _screen.show(grid)


def type_text(file: ModelFile, key: str) -> str:
    """Return the type of a metadata value in words: `u32`, `string[49152]`."""
    element_type = file.metadata.element_type(key)
    if element_type is None:
        return file.metadata.value_type(key).name.lower()
    return f"{element_type.name.lower()}[{file.metadata.length(key)}]"


def preview(file: ModelFile, key: str) -> Any:
    """Return a single value whole, and the first elements of an array."""
    value = file.metadata[key]
    if file.metadata.element_type(key) is None:
        return value
    return [one.item() if hasattr(one, "item") else one for one in value[:PREVIEW_ELEMENTS]]


def preview_text(file: ModelFile, key: str) -> str:
    """Return the beginning of a value as text."""
    value = preview(file, key)
    if isinstance(value, list):
        text = ", ".join(repr(one) for one in value)
        more = file.metadata.length(key) > len(value)
        return f"{text[:PREVIEW_CHARACTERS]}, …" if more else text
    text = str(value).replace("\n", " ")
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}…"


def show_tensor(file: ModelFile, name: str, *, as_json: bool) -> None:
    """Print the numbers of one tensor: extremes, spread, histogram."""
    from llamune.anatomy import tensor_numbers

    found = tensor_numbers(file, name)
    if as_json:
        _screen.data_json({"schema": JSON_SCHEMA, **tensor_report(found)})
        return
    tensor = found.tensor
    shape = " x ".join(str(size) for size in tensor.shape)
    lines = {
        "tensor": tensor.name,
        "shape": f"{shape} = {tensor.n_elements:,} weights",
        "stored as": f"{tensor.type}, {tensor.type.bpw:g} bits a weight",
        "bytes": f"{tensor.nbytes:,} at {tensor.offset:,}",
        "first": ", ".join(f"{number:.6g}" for number in found.first),
        "range": f"{found.minimum:.6g} to {found.maximum:.6g}",
        "mean, std": f"{found.mean:.6g}, {found.std:.6g}",
        "zeros": f"{found.n_zero:,} ({100 * found.n_zero / tensor.n_elements:.2f} %)",
    }
    if found.n_not_finite:
        lines["not finite"] = f"{found.n_not_finite:,}"
    show_grid(lines.items())
    most = max(found.counts, default=0)
    if most:
        _screen.data("")
    for place, count in enumerate(found.counts):
        bar = "#" * -(-BAR_WIDTH * count // most)
        _screen.data(f"{found.edges[place]:>12.5g}  {count:>12,}  {bar}".rstrip())


def tensor_report(found: TensorNumbers) -> dict[str, Any]:
    """Return a tensor's numbers as the JSON output has them; what is no number is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    tensor = found.tensor
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "type": tensor.type.name,
        "offset": tensor.offset,
        "bytes": tensor.nbytes,
        "first": [number(value) for value in found.first],
        "minimum": number(found.minimum),
        "maximum": number(found.maximum),
        "mean": number(found.mean),
        "std": number(found.std),
        "zeros": found.n_zero,
        "not_finite": found.n_not_finite,
        "histogram": {"edges": list(found.edges), "counts": list(found.counts)},
    }
