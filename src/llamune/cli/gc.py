"""`llamune gc`: find, and on request delete, files of our library that no model needs."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    delete: Annotated[
        bool, typer.Option("--delete", help="delete them; without it they are only listed")
    ] = False,
    grace_minutes: Annotated[
        int, typer.Option(min=0, help="leave files younger than this alone, minutes")
    ] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the files of our library that no model needs; with `--delete`, delete them."""
    from llamune.store import collect_garbage, find_garbage, library

    work = collect_garbage if delete else find_garbage
    garbage = work(library(), grace_seconds=grace_minutes * 60)
    for reason in garbage.unknown:
        _screen.warn(f"its blobs are kept: {reason}")
    if as_json:
        _screen.data_json(
            {
                "deleted": delete,
                "size_bytes": garbage.size_bytes,
                "files": [
                    {
                        "path": str(piece.path),
                        "size_bytes": piece.size_bytes,
                        "reason": piece.reason,
                    }
                    for piece in garbage.pieces
                ],
                "unknown_manifests": list(garbage.unknown),
            }
        )
        return
    for piece in garbage.pieces:
        _screen.data(_screen.plain(f"{piece.size_bytes:>15,}  {piece.path}  ({piece.reason})"))
    verb = "deleted" if delete else "to delete"
    _screen.note(f"{len(garbage.pieces)} files {verb}, {garbage.size_bytes:,} bytes")
    if garbage.pieces and not delete:
        _screen.note("\nhint: llamune gc --delete")
