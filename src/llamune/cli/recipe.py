"""`llamune recipe`: the full set of choices of a training, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamune.cli import _screen

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """Write recipes: every choice of a training in one YAML file."""


@app.command()
def init(
    base: Annotated[str, typer.Argument(metavar="REF", help="base model: a name or a path")],
    data: Annotated[list[Path], typer.Option(help="file of examples; may be repeated")],
    name: Annotated[str, typer.Option(help="what to call the tuned model")] = "my-model",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="new file; default stdout")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="classic: the usual tutorial's settings")
    ] = None,
    hours: Annotated[float | None, typer.Option(help="fit the training to this time")] = None,
    method: Annotated[str | None, typer.Option(help="lora, dora, or full")] = None,
) -> None:
    """Write a commented recipe with every value filled in for this model, data and machine."""
    from llamune.files import write_text
    from llamune.jobs import recipe_for

    folder = Path.cwd() if out is None else out.parent
    text = recipe_for(
        base, data, name=name, preset=preset, hours=hours, folder=folder, method=method
    )
    if out is None:
        _screen.data(text.rstrip("\n"))
    else:
        write_text(out, text)
        _screen.data(str(out))
