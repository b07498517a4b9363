"""Files that appear whole or not at all, and digests of what is there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llamune.errors import LlamuneError

__all__ = ["new_file", "new_folder", "sha256_of", "sync_folder", "write_text"]

CHUNK_BYTES = 4 << 20


@contextmanager
def new_file(
    path: Path, *, replace: bool = False, scratch: Path | None = None
) -> Iterator[BinaryIO]:
    """Yield a temporary file that becomes `path` when the block ends without an error.

    Args:
        path: where the file will appear.
        replace: whether a file already there may be replaced.
        scratch: folder for the temporary file, on the same file system; default `path`'s own.

    Raises:
        LlamuneError: `path` exists and `replace` is false.
    """
    refuse_existing(path, replace=replace)
    folder = scratch or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o644)
        refuse_existing(path, replace=replace)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    Raises:
        LlamuneError: `path` exists.
    """
    refuse_existing(path, replace=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", suffix=".part", dir=path.parent
    ) as scratch:
        inner = Path(scratch) / "new"
        inner.mkdir()
        yield inner
        refuse_existing(path, replace=False)
        inner.rename(path)
        sync_folder(path.parent)


def refuse_existing(path: Path, *, replace: bool) -> None:
    """Raise if something stands at `path` and may not be replaced."""
    if not replace and path.exists():
        raise LlamuneError(f"{path}: exists already", hint="choose another name, or remove it")


def write_text(path: Path, text: str, *, replace: bool = False) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with new_file(path, replace=replace) as out:
        out.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can."""
    if os.name == "nt":  # Windows cannot open a folder for fsync
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    Args:
        path: the file, read in chunks.
        advance: called with the number of bytes just read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()
