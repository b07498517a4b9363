"""`llamune imatrix`: which inputs of each layer matter, for quantizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    ref: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the new file")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="data or plain text to read; default: general text that ships"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="tokens to read, at most", min=1)] = 8192,
    replace: Annotated[bool, typer.Option("--replace", help="replace a file that exists")] = False,
) -> None:
    """Write a model's importance matrix: what llama.cpp's quantizer and `quantize --imatrix` take.

    `quantize --calibrate` needs none: it uses the same pass, and more of what it tells.
    """
    from llamune.jobs import make_importance

    n_tokens = make_importance(
        ref,
        data or (),
        out,
        n_tokens=tokens,
        replace=replace,
        on_step=lambda step: _screen.note(f"· {step}"),
    )
    _screen.note(f"made from {n_tokens:,} tokens")
    _screen.data(_screen.plain(str(out)))
