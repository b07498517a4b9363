"""`llamune push`: send a stored model to a registry."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    source: Annotated[str, typer.Argument(help="a stored model's name, or a package folder")],
    target: Annotated[str, typer.Argument(help="HOST/NAMESPACE/MODEL:TAG")],
) -> None:
    """Send a stored model or a package to a registry that speaks the OCI distribution protocol.

    A package folder goes up as an OCI artifact whose layers bear the names of its files. Blobs
    that the registry has are skipped. Plain HTTP goes to this machine only. Where the registry
    wants a login, the one of `docker login` is used.
    """
    from pathlib import Path

    from llamune.errors import LlamuneError
    from llamune.store import ModelName, folder_manifest, is_stored, push, push_blobs, resolve

    wanted = ModelName.parse(target)
    if target.count("/") < 2:
        raise LlamuneError(f"{target!r} names no registry", hint="write HOST/NAMESPACE/MODEL:TAG")
    if Path(source).is_dir() and not is_stored(source):
        manifest, sources = folder_manifest(Path(source))
        with _screen.progress(f"pushing {source}", total=manifest.size) as advance:
            digest = push_blobs(wanted, manifest, sources, advance=advance)
    else:
        model = resolve(source)
        for text in model.notes:
            _screen.note(text)
        total = model.manifest.size if model.manifest is not None else model.size
        with _screen.progress(f"pushing {model}", total=total) as advance:
            digest = push(model, wanted, advance=advance)
    _screen.note(f"{wanted}: {digest}")
    _screen.data(str(wanted))
