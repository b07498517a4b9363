"""What `run`, `chat` and `compare` share: opening an engine, and printing an answer as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llamune.cli import _screen
from llamune.errors import UnsupportedError

if TYPE_CHECKING:
    from llamune.engine import Engine, Piece

__all__ = ["opened", "write"]


def opened(
    name: str,
    *,
    engine: str | None = None,
    adapters: Sequence[str] = (),
    n_ctx: int | None = None,
    n_threads: int | None = None,
) -> Engine:
    """Open a model here, or on the server that `engine` names.

    Raises:
        UnsupportedError: adapters on a remote engine.
    """
    from llamune.engine import adapters_named, open_engine, open_remote

    if engine is not None:
        if adapters:
            raise UnsupportedError(
                "--adapter works in the embedded engine only", hint="leave out --engine"
            )
        return open_remote(engine, name)
    from llamune.store import resolve

    base = resolve(name)
    for note in base.notes:
        _screen.note(note)
    extra = [found for text in adapters for found in adapters_named(text, base=base)]
    return open_engine(base, adapters=extra, n_ctx=n_ctx, n_threads=n_threads)


def write(pieces: Iterator[Piece]) -> str:
    """Print an answer as it comes and return it; a model's words may not steer the terminal."""
    clean = _screen.plain_lines if sys.stdout.isatty() else str
    texts: list[str] = []
    was_cut = False
    for piece in pieces:
        if piece.text:
            texts.append(piece.text)
            sys.stdout.write(clean(piece.text))
            sys.stdout.flush()
        was_cut = was_cut or piece.finish_reason == "length"
    text = "".join(texts)
    if not text.endswith("\n"):
        sys.stdout.write("\n")
        sys.stdout.flush()
    if was_cut:
        _screen.warn("the answer was cut at --max-tokens")
    return text
