"""`llamune size`: how big a model is, why, and how big it would be as anything else."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.convert import PredictedSize
    from llamune.gguf import ModelFile
    from llamune.store import Model


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say how big a model is and why, and how big it would be as every file type.

    Sizes are exact to the byte and come from the file's header alone.
    """
    from llamune.convert import predict_sizes
    from llamune.gguf import ModelFile
    from llamune.store import resolve

    model = resolve(ref)
    with ModelFile.open(model.paths, mapped=False) as file:
        sizes, refused = predict_sizes(file)
        if as_json:
            _screen.data_json(report(model, file, sizes, refused))
            return
        show_arithmetic(model, file)
        _screen.data("")
        show_sizes(sizes)
    for name, reason in refused.items():
        _screen.note(f"not as {name}: {reason}")


def report(
    model: Model, file: ModelFile, sizes: list[PredictedSize], refused: dict[str, str]
) -> dict[str, Any]:
    """Return everything as the JSON output has it."""
    from llamune.convert import type_shares

    return {
        "ref": model.ref,
        "size_bytes": file.size,
        "stored_as": [asdict(share) for share in type_shares(file)],
        "as": [
            {
                "type": size.file_type.name,
                "bytes": size.nbytes,
                "bits_per_weight": size.bpw,
                "main_type_bits_per_weight": size.file_type.base.bpw,
                "stored_as": [asdict(share) for share in size.shares],
                "needs_importance": size.needs_importance,
                "use": size.file_type.use,
            }
            for size in sizes
        ],
        "refused": refused,
    }


def show_arithmetic(model: Model, file: ModelFile) -> None:
    """Print where the bytes of the file come from: weights × bits, and the rest."""
    from rich.table import Table

    from llamune.convert import type_shares

    shares = type_shares(file)
    data_bytes = sum(share.nbytes for share in shares)
    n_weights = sum(share.n_weights for share in shares)
    grid = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("STORED AS", "WEIGHTS", "× BITS", "= BYTES"):
        grid.add_column(heading, justify="left" if heading == "STORED AS" else "right")
    for share in shares:
        grid.add_row(share.kind, f"{share.n_weights:,}", f"{share.bits:g}", f"{share.nbytes:,}")
    header = sum(file.data_offsets)
    grid.add_row("metadata and tokenizer", "", "", f"{header:,}")
    if file.size != data_bytes + header:
        grid.add_row("padding", "", "", f"{file.size - data_bytes - header:,}")
    bits = f"{8 * data_bytes / n_weights:.3f}" if n_weights else ""
    grid.add_row("total", f"{n_weights:,}", bits, f"{file.size:,}")
    _screen.data(
        _screen.plain(
            f"{model.ref}: {file.size:,} bytes\n= {file.size / 1e9:.3f} GB (decimal, as Ollama "
            f"counts) = {file.size / 2**30:.3f} GiB (as `ls -lh` counts)"
        )
    )
    _screen.data("")
    _screen.show(grid)


def show_sizes(sizes: list[PredictedSize]) -> None:
    """Print how big the model would be as each file type."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    grid.add_column("AS")
    for heading in ("BYTES", "GB", "GiB", "BITS"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("FOR", overflow="fold")
    for size in sizes:
        mark = " *" if size.needs_importance else ""
        grid.add_row(
            f"{size.file_type}{mark}",
            f"{size.nbytes:,}",
            f"{size.nbytes / 1e9:.3f}",
            f"{size.nbytes / 2**30:.3f}",
            f"{size.bpw:.2f}",
            size.file_type.use,
        )
    _screen.show(grid)
    _screen.data("BITS: for each weight, over all tensors")
    if any(size.needs_importance for size in sizes):
        _screen.data("* only with an importance matrix (`llamune imatrix`)")
