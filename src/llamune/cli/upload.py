"""`llamune upload`: a package to a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    folder: Annotated[Path, typer.Argument(help="a folder that `llamune package` made")],
    repository: Annotated[str, typer.Argument(help="USER/REPO on the hub")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would go")] = False,
    private: Annotated[bool, typer.Option("--private", help="a new repository is private")] = False,
) -> None:
    """Send a verified package to a model hub, through `huggingface_hub` and its login.

    The package is checked first; a damaged one does not go. `HF_ENDPOINT` names another hub.
    """
    from llamune.jobs import upload

    files = upload(folder, repository, dry_run=dry_run, private=private)
    for name, nbytes in files.items():
        _screen.note(_screen.plain(f"  {name}: {nbytes:,} bytes"))
    if dry_run:
        _screen.note(f"{len(files)} files would go to {repository}; nothing was sent")
    _screen.data(_screen.plain(repository))
