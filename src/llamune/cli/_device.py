"""The option `--device` of every command that loads a model into torch."""

from __future__ import annotations

import os
from typing import Annotated

import typer

__all__ = ["DeviceOption", "use_device"]

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cuda, mps or cpu; default the best present"),
]


def use_device(name: str | None) -> None:
    """Make this process, and those it starts, compute on a device: `nn.best_device` reads it."""
    if name is not None:
        from llamune.runs import machine

        os.environ[machine.DEVICE_VARIABLE] = name
