"""What a command prints: data on stdout, talk on stderr, plain text where nobody watches."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "confirm",
    "data",
    "data_json",
    "error",
    "is_terminal",
    "mute",
    "note",
    "plain",
    "progress",
    "settings",
    "show",
    "warn",
]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PIPE_WIDTH = 80


@dataclass
class Settings:
    """What the person asked of the whole program."""

    debug: bool = False


settings = Settings()


def plain(text: str) -> str:
    """Return `text` without characters that steer a terminal: strings in files are hostile."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def data(text: str) -> None:
    """Print a line of the command's result on stdout."""
    sys.stdout.write(f"{text}\n")


def data_json(value: Any) -> None:
    """Print the command's result as JSON on stdout."""
    data(json.dumps(value, ensure_ascii=False, indent=2))


def show(renderable: RenderableType) -> None:
    """Print a Rich table, tree or text on stdout; without colour codes when piped."""
    stdout_console().print(renderable)


def note(text: str) -> None:
    """Say something on stderr; where nobody can hear it, the work goes on without."""
    try:
        sys.stderr.write(f"{plain_lines(text)}\n")
    except OSError:  # a full disk, or a reader that has gone
        mute()


def mute() -> None:
    """Drop all talk from here on."""
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open to the end


def warn(text: str) -> None:
    """Say on stderr what the person should know before going on."""
    note(f"warning: {text}")


def error(message: str, *, hint: str | None = None) -> None:
    """Say on stderr what is wrong, in one line, and what to do about it."""
    note(f"error: {' '.join(message.split())}")
    if hint:
        note(f"\nhint: {hint}")


def plain_lines(text: str) -> str:
    """Return `text` cleaned line by line, its line ends kept."""
    return "\n".join(plain(line) for line in text.split("\n"))


def is_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> bool:
    """Ask a yes-or-no question; without a terminal the answer is no unless `yes` is set."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes", "はい"}


@contextmanager
def progress(label: str, *, total: int, unit: str = "B") -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yields `advance(n)`.

    Args:
        label: what is going on.
        total: how many units there are in all.
        unit: `B` shows bytes and their rate, anything else shows counts.
    """
    if not is_terminal():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
    )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(plain(label), total=total)
        yield lambda n: bar.update(task, advance=n)


@cache
def console_of_width(width: int | None) -> Console:
    """Return a console on stdout of a fixed width, or the terminal's own."""
    from rich.console import Console

    return Console(width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


def stdout_console() -> Console:
    """Return the console for results: as wide as the terminal, or 80 columns when piped."""
    return console_of_width(None if sys.stdout.isatty() else PIPE_WIDTH)
