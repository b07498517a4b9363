"""`llamune convert`: a transformers folder to a GGUF file, and back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llamune.cli import _screen


class Target(StrEnum):
    """What to write."""

    GGUF = "gguf"
    TRANSFORMERS = "transformers"


def command(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="transformers folder; with --to, a model or GGUF"),
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="new GGUF file, or new folder")],
    kind: Annotated[
        str | None,
        typer.Option("--type", help="file type (f16, q8_0, q4_k_m …); a folder: f32, f16 or bf16"),
    ] = None,
    to: Annotated[Target, typer.Option("--to", help="what to write")] = Target.GGUF,
    pure: Annotated[bool, typer.Option("--pure", help="one type for all matrices")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="replace an existing file")] = False,
) -> None:
    """Turn a transformers folder (safetensors, tokenizer) into a GGUF file, or a model into one.

    The other way, `--to transformers` writes a folder that plain transformers loads; F32 keeps
    every value of the file.
    """
    if to is Target.GGUF:
        to_gguf(Path(source), out, kind or "f16", pure=pure, replace=replace)
    else:
        to_folder(source, out, kind or "f32")
    _screen.data(str(out))


def to_gguf(folder: Path, out: Path, kind: str, *, pure: bool, replace: bool) -> None:
    """Write a GGUF file from a folder."""
    from llamune.convert import from_transformers
    from llamune.errors import LlamuneError

    if not folder.is_dir():
        raise LlamuneError(
            f"{folder}: no such folder", hint="a model already in GGUF: llamune quantize SRC DST"
        )
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    with _screen.progress("converting", total=total) as advance:
        family = from_transformers(folder, out, kind, pure=pure, replace=replace, advance=advance)
    sizes = family.sizes
    _screen.note(f"{family.name}: {sizes.n_layer} blocks, {out.stat().st_size:,} bytes")


def to_folder(source: str, out: Path, kind: str) -> None:
    """Write a transformers folder from a model."""
    from llamune.convert import to_transformers
    from llamune.gguf import ModelFile
    from llamune.store import resolve

    with ModelFile.open(resolve(source).paths) as file:
        total = 4 * sum(info.n_elements for info in file.tensors.values())
        with _screen.progress("converting", total=total) as advance:
            family = to_transformers(file, out, kind, advance=advance)
    _screen.note(f"{family.model_class}: {family.sizes.n_layer} blocks")
