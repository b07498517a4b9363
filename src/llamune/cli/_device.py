"""The option `--device` of every command that loads a model into torch."""

from __future__ import annotations

import os
from typing import Annotated

import typer

__all__ = ["DeviceOption", "use_device"]

VARIABLE = "LLAMUNE_DEVICE"  # read by `nn.best_device`, which must not be imported here

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cuda, mps or cpu; default the best present"),
]


def use_device(name: str | None) -> None:
    """Make this process, and those it starts, compute on a device."""
    if name is not None:
        os.environ[VARIABLE] = name
