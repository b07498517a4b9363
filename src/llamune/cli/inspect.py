"""`llamune inspect`: what is in a model file, to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.anatomy import AdapterFacts, Rope, Section, Summary, TokenizerFacts
    from llamune.gguf import ModelFile
    from llamune.store import Model

JSON_SCHEMA = 1  # raise it when a field changes its meaning; adding fields is free
PREVIEW_ELEMENTS = 4
PREVIEW_CHARACTERS = 60


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    blocks: Annotated[
        bool, typer.Option("--blocks", help="show every block and every tensor")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="show every metadata key")] = False,
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
            for adapter, facts in stored_adapters(model)
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


def stored_adapters(model: Model) -> Iterator[tuple[Any, AdapterFacts]]:
    """Yield the adapters that a stored model applies, with their facts."""
    from llamune.anatomy import adapter_facts
    from llamune.gguf import ModelFile

    for adapter in model.adapters:
        with ModelFile.open(adapter.path, mapped=False) as file:
            facts = adapter_facts(file)
        if facts is not None:
            yield adapter, facts


def show_facts(model: Model, file: ModelFile, summary: Summary) -> None:
    """Print the facts, a line each."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts(model, file, summary):
        grid.add_row(label, _screen.plain(text))
    _screen.show(grid)


def facts(model: Model, file: ModelFile, summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield the facts as label and text; facts that the file lacks are left out."""
    yield "model", model.ref if summary.name is None else f"{model.ref}: {summary.name}"
    yield "file", "\n".join(str(path) for path in file.paths)
    kind = f"{summary.architecture or 'unknown architecture'}, {summary.kind}"
    yield "kind", f"{kind}, GGUF version {summary.version}"
    yield "size", size_text(file.size)
    yield "licence", summary.license or "not stated in the file"
    if summary.adapter is not None:
        yield "adapter", adapter_text(summary.adapter)
    yield "parameters", f"{summary.n_parameters:,} in {summary.n_tensors:,} tensors"
    yield "precision", precision_text(summary)
    if summary.context_length is not None:
        yield "context", f"{count_text(summary.context_length)} tokens"
    if summary.n_layer is not None:
        yield "blocks", block_text(summary)
    if summary.n_head is not None:
        yield "attention", attention_text(summary)
        yield "RoPE", rope_text(summary.rope)
    if summary.tokenizer is not None:
        yield from tokenizer_lines(summary.tokenizer)
    for adapter, found in stored_adapters(model):
        yield "applies", f"{adapter_text(found)}, {adapter.path}"


def size_text(n_bytes: int) -> str:
    """Return a size in bytes, and in the two units that people confuse."""
    return f"{n_bytes:,} bytes = {n_bytes / 1e9:.3f} GB = {n_bytes / 2**30:.3f} GiB"


def precision_text(summary: Summary) -> str:
    """Say which file type it is and what that costs a weight."""
    label = summary.file_type or "file type not stated"
    nominal = ""
    if summary.nominal_bpw is not None and summary.kind == "model":
        nominal = f"; its main type alone has {summary.nominal_bpw:g}"
    return f"{label}, {summary.bpw:.3f} bits a weight{nominal}"


def block_text(summary: Summary) -> str:
    """Say how many blocks there are, and how wide."""
    parts = [count_text(summary.n_layer)]
    if summary.d_model is not None:
        parts.append(f"width {count_text(summary.d_model)}")
    if summary.d_ff is not None:
        parts.append(f"feed-forward {count_text(summary.d_ff)}")
    if summary.n_expert:
        parts.append(f"{count_text(summary.n_expert)} experts")
    return ", ".join(parts)


def attention_text(summary: Summary) -> str:
    """Say how many heads there are, how they share keys, and how far they look."""
    heads, shared = summary.n_head, summary.n_head_kv
    parts = [f"{count_text(heads)} heads of {count_text(summary.head_dim)}"]
    if isinstance(heads, int) and isinstance(shared, int) and shared:
        if shared == heads:
            parts.append("each with keys of its own")
        else:
            parts.append(f"{shared} key/value heads (GQA, {heads / shared:g} share one)")
    elif shared is not None:
        parts.append(f"key/value heads {count_text(shared)}")
    if summary.sliding_window:
        parts.append(f"sliding window {count_text(summary.sliding_window)}")
    return ", ".join(parts)


def rope_text(rope: Rope) -> str:
    """Say how positions are encoded."""
    parts = ["base not stated" if rope.base is None else f"base {rope.base:,.10g}"]
    if rope.n_dimensions is not None:
        parts.append(f"{rope.n_dimensions} dimensions of a head")
    if rope.scaling is None:
        parts.append("no scaling")
    else:
        factor = "" if rope.factor is None else f" by {rope.factor:g}"
        parts.append(f"scaling {rope.scaling}{factor}")
    if rope.original_context is not None:
        parts.append(f"trained for {rope.original_context:,} tokens")
    return ", ".join(parts)


def tokenizer_lines(tokenizer: TokenizerFacts) -> Iterator[tuple[str, str]]:
    """Yield what the file says about its tokenizer."""
    pre = "" if tokenizer.pre is None else f", pre-tokenizer {tokenizer.pre}"
    yield "tokenizer", f"{tokenizer.model or 'unknown'}{pre}, {tokenizer.n_vocab:,} tokens"
    special = [
        f"{role} {number}" + ("" if text is None else f" {text!r}")
        for role, (number, text) in tokenizer.special.items()
    ]
    if special:
        yield "special", ", ".join(special)
    template = tokenizer.chat_template
    yield "template", "none" if template is None else f"Jinja, {len(template):,} characters"


def adapter_text(adapter: AdapterFacts) -> str:
    """Say what a LoRA file changes."""
    ranks = ", ".join(str(rank) for rank in adapter.ranks)
    alpha = "not stated" if adapter.alpha is None else f"{adapter.alpha:g}"
    base = "" if adapter.base is None else f", trained on {adapter.base}"
    return (
        f"LoRA, rank {ranks}, alpha {alpha}, {adapter.n_pairs} tensors "
        f"({', '.join(adapter.targets)}), {adapter.n_parameters:,} weights{base}"
    )


def count_text(value: int | tuple[int, ...] | None) -> str:
    """Return a count, or the range of counts that differ from block to block."""
    if value is None:
        return "?"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{min(value):,} to {max(value):,}" if value else "none"


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
