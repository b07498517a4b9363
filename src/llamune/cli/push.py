"""`llamune push`: send a stored model to a registry."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    source: Annotated[str, typer.Argument(help="the name of a stored model")],
    target: Annotated[str, typer.Argument(help="HOST/NAMESPACE/MODEL:TAG")],
) -> None:
    """Send a stored model to a registry that speaks the OCI distribution protocol.

    Blobs that the registry has are skipped. Plain HTTP goes to this machine only. Where the
    registry wants a login, the one of `docker login` is used.
    """
    from llamune.errors import LlamuneError
    from llamune.store import ModelName, push, resolve

    wanted = ModelName.parse(target)
    if target.count("/") < 2:
        raise LlamuneError(f"{target!r} names no registry", hint="write HOST/NAMESPACE/MODEL:TAG")
    model = resolve(source)
    for text in model.notes:
        _screen.note(text)
    total = model.manifest.size if model.manifest is not None else model.size
    with _screen.progress(f"pushing {model}", total=total) as advance:
        digest = push(model, wanted, advance=advance)
    _screen.note(f"{wanted}: {digest}")
    _screen.data(str(wanted))
