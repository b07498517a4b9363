"""Asking before a model file is copied into the library, the same in every command that does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamune.cli import _screen

if TYPE_CHECKING:
    from llamune.store import Model, Sharing


def agreed_sharing(model: Model, *, copy: bool, no_copy: bool) -> Sharing:
    """Return how a model's bytes come into the library, after asking where they must be copied.

    Args:
        model: the model whose file is wanted there.
        copy: the person agreed to a copy beforehand (`--copy`).
        no_copy: the person wants a reference only (`--no-copy`).

    Raises:
        CopyNeededError: a copy is needed and nobody agreed to it.
        LlamuneError: both options are given.
    """
    from llamune.errors import LlamuneError
    from llamune.store import CopyNeededError, bytes_to_copy

    if copy and no_copy:
        raise LlamuneError("--copy and --no-copy exclude each other")
    n_bytes = bytes_to_copy(model)
    if n_bytes == 0:
        return "link"
    if no_copy:
        _screen.warn(f"{model.path} stays where it lies; changing it breaks what refers to it")
        return "reference"
    if copy or _screen.confirm(f"copy {n_bytes:,} bytes of {model} into the library?", yes=False):
        return "copy"
    raise CopyNeededError(model.path, n_bytes)
