"""`llamune cp`: give a model another name, or take a file into the library."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    source: Annotated[str, typer.Argument(help="model name, GGUF file or folder")],
    name: Annotated[str, typer.Argument(help="the new name in our library")],
    replace: Annotated[
        bool, typer.Option("--replace", help="replace a model of that name")
    ] = False,
    copy: Annotated[
        bool, typer.Option("--copy", help="copy the file where it cannot be shared")
    ] = False,
    no_copy: Annotated[
        bool,
        typer.Option("--no-copy", help="refer to the file where it cannot be shared"),
    ] = False,
) -> None:
    """Give a model another name in our library, or take a file into it.

    Blobs are shared, not copied, where the file system can: hard links for stored models, clones
    for other files.
    """
    from llamune.cli._taking import agreed_sharing
    from llamune.store import copy_model, resolve

    model = resolve(source)
    for text in model.notes:
        _screen.note(text)
    sharing = agreed_sharing(model, copy=copy, no_copy=no_copy)
    with _screen.progress(f"taking in {model}", total=model.size) as advance:
        copied = copy_model(model, name, replace=replace, sharing=sharing, advance=advance)
    _screen.data(str(copied))
