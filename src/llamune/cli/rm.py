"""`llamune rm`: remove models from our library."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    names: Annotated[list[str], typer.Argument(help="names of models in our library")],
) -> None:
    """Remove models from our library.

    Blobs that other models need stay. Models in Ollama's stores are never touched.
    """
    from llamune.store import ModelName, StoreError, library, remove_model, search_path

    ours = library()
    wanted = [ModelName.parse(name) for name in names]
    for name in wanted:
        if ours.find(name) is not None:
            continue
        others = [store for store in search_path() if not store.ours and store.holds(name)]
        raise StoreError(
            f"{name}: not in our library ({ours.root}); nothing was removed",
            hint=f"it is in {others[0].label}: ollama rm {name}" if others else "llamune models",
        )
    for name in wanted:
        removed = remove_model(ours, name)
        for reason in removed.kept:
            _screen.warn(f"blobs are kept because of another manifest: {reason}")
        _screen.data(f"removed {name}, {removed.bytes_freed:,} bytes freed")
