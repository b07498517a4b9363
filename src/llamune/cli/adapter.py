"""`llamune adapter`: LoRA adapters in and out of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamune.cli import _screen

app = typer.Typer(help="Bring LoRA adapters in and out: PEFT folders and GGUF files.")


@app.command("import")
def import_(
    adapter: Annotated[Path, typer.Argument(help="PEFT folder or GGUF adapter file")],
    base: Annotated[str, typer.Option(help="the model that it was trained on")],
    name: Annotated[str, typer.Option(help="publish it as a model under this name")],
    force: Annotated[
        bool, typer.Option("--force", help="although it says that it is for another base")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="replace a model of that name")
    ] = False,
) -> None:
    """Check an adapter against its base and publish both as a model."""
    from llamune.jobs import import_adapter

    model = import_adapter(adapter, base, name=name, force=force, replace_existing=replace)
    _screen.data(_screen.plain(str(model)))


@app.command("export")
def export(
    name: Annotated[
        str, typer.Argument(help="a tuned model or run, a GGUF adapter or a PEFT folder")
    ],
    out: Annotated[
        Path, typer.Argument(help="new PEFT folder; or a file that ends in .gguf, for llama.cpp")
    ],
    base: Annotated[str | None, typer.Option(help="its base, where NAME does not say it")] = None,
) -> None:
    """Write an adapter as a PEFT folder or as a GGUF file."""
    from llamune.jobs import export_adapter

    adapter = export_adapter(name, out, base=base)
    ranks = ", ".join(str(rank) for rank in adapter.ranks)
    _screen.note(f"{adapter.n_parameters:,} parameters, rank {ranks}")
    _screen.data(_screen.plain(str(out)))
