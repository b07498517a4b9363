"""Looking after a store: are its blobs what their names say, and which are of no use any more?"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llamune.errors import LlamuneError
from llamune.store.digests import digest_of_file_name, digests_in
from llamune.store.errors import DamagedError, StoreError, UnknownModelError
from llamune.store.locks import LOCK_FILE
from llamune.store.manifests import (
    MAX_MANIFEST_BYTES,
    Layer,
    UnknownManifestError,
    parse_manifest,
)
from llamune.store.names import ModelName
from llamune.store.stores import Advance, Store, hash_file, read_small

__all__ = [
    "Fault",
    "Garbage",
    "Piece",
    "Removed",
    "bytes_to_verify",
    "collect_garbage",
    "find_garbage",
    "remove_model",
    "repair",
    "verify_models",
]

GRACE_SECONDS = 3600.0  # a blob this young may belong to a publish that goes on; Ollama's own grace

Target = tuple[Store, ModelName]


@dataclass(frozen=True)
class Fault:
    """Something wrong with a stored model.

    Args:
        store: where it lies.
        name: the model.
        path: the manifest or blob.
        problem: what is wrong with it.
        layer: the blob as the manifest names it, None when the manifest is at fault.
    """

    store: Store
    name: ModelName
    path: Path
    problem: str
    layer: Layer | None = None


@dataclass(frozen=True)
class Piece:
    """A file that no model needs.

    Args:
        path: where it lies.
        size_bytes: what deleting it frees; 0 for a file with another hard link.
        reason: why it is not needed.
    """

    path: Path
    size_bytes: int
    reason: str


@dataclass(frozen=True)
class Garbage:
    """What a clean-up would delete.

    Args:
        pieces: the files.
        unknown: manifests of kinds that we do not know; every blob that they name is kept.
    """

    pieces: tuple[Piece, ...]
    unknown: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes that deleting it frees."""
        return sum(piece.size_bytes for piece in self.pieces)


@dataclass(frozen=True)
class Removed:
    """What removing a model did.

    Args:
        bytes_freed: of blobs that nothing else needed.
        kept: why blobs were kept though this model was removed; empty in the usual case.
    """

    bytes_freed: int
    kept: tuple[str, ...] = ()


# verifying


def verify_models(targets: Sequence[Target], *, advance: Advance | None = None) -> list[Fault]:
    """Hash every blob of some models again and return all faults.

    Args:
        targets: stores and the models in them.
        advance: called with the number of bytes just read.
    """
    faults = []
    known: dict[tuple[int, int], str] = {}  # hard links of one file are read once
    for store, name in targets:
        try:
            manifest = store.manifest(name)
        except LlamuneError as error:
            faults.append(Fault(store, name, store.manifest_path(name), error.message))
            continue
        faults += [
            Fault(store, name, store.blob_path(layer.digest), problem, layer)
            for layer in manifest.blobs
            if (problem := blob_problem(store, layer, known, advance))
        ]
    return faults


def blob_problem(
    store: Store, layer: Layer, known: dict[tuple[int, int], str], advance: Advance | None
) -> str | None:
    """Return what is wrong with a blob, or None."""
    try:
        path = store.checked_blob(layer)
    except DamagedError as error:
        return error.message.removeprefix(f"{store.blob_path(layer.digest)}: ")
    status = path.stat()
    key = (status.st_dev, status.st_ino)
    if key not in known:
        known[key] = hash_file(path, advance)
    if known[key] != layer.digest:
        return f"damaged: its bytes have the digest {known[key]}"
    return None


def bytes_to_verify(targets: Sequence[Target]) -> int:
    """Return how many bytes `verify_models` will read."""
    sizes: dict[tuple[int, int], int] = {}
    for store, name in targets:
        with suppress(LlamuneError):
            for layer in store.manifest(name).blobs:
                with suppress(DamagedError):
                    status = store.checked_blob(layer).stat()
                    sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def repair(fault: Fault, others: Sequence[Store]) -> bool:
    """Mend a damaged or lost blob of our library; return whether it is whole again.

    A sound blob of another store is linked in its place. Where there is none, the damaged bytes
    are dropped, so that a pull fetches them anew.

    Args:
        fault: one that `verify_models` found in our library.
        others: stores that may have the blob.
    """
    layer = fault.layer
    if layer is None or not fault.store.ours:
        return False
    with fault.store.lock(exclusive=True):
        if blob_problem(fault.store, layer, {}, None) is None:
            return True  # mended already, for another model that shares it
        fault.path.unlink(missing_ok=True)
        for other in others:
            if not other.ours and blob_problem(other, layer, {}, None) is None:
                fault.store.add_blob(other.blob_path(layer.digest), digest=layer.digest)
                return True
    return False


# deleting


def remove_model(store: Store, name: ModelName) -> Removed:
    """Remove a model and every blob of it that no other manifest names.

    Raises:
        UnknownModelError: there is no such model.
    """
    with store.lock(exclusive=True):
        found = store.find(name)
        if found is None:
            raise UnknownModelError(f"{name}: not in {store.label}")
        path = store.manifest_path(found)
        blobs: list[Layer] = []
        with suppress(LlamuneError):  # a damaged manifest can be removed too
            blobs = store.manifest(found).blobs
        path.unlink()
        remove_empty_folders(path.parent, store.manifests)
        live, unknown, damaged = live_digests(store)
        if damaged:
            return Removed(0, kept=tuple(damaged))
        freed = sum(
            delete(store.blob_path(layer.digest)) for layer in blobs if layer.digest not in live
        )
        return Removed(freed, kept=tuple(unknown))


def find_garbage(store: Store, *, grace_seconds: float = GRACE_SECONDS) -> Garbage:
    """Return what no model needs; deletes nothing.

    Args:
        store: our library.
        grace_seconds: files younger than this are left alone.

    Raises:
        StoreError: a manifest is damaged, so that nobody can say what it needs.
    """
    live, unknown, damaged = live_digests(store)
    if damaged:
        raise StoreError(
            f"nothing can be cleaned up beside a damaged manifest: {damaged[0]}",
            hint="llamune rm removes the model; llamune pull or publish writes it anew",
        )
    oldest_to_keep = time.time() - grace_seconds
    pieces = []
    for path in [*sorted_files(store.blobs), *sorted(store.root.glob(".*.part"))]:
        status = path.lstat()
        digest = digest_of_file_name(path.name) if path.parent == store.blobs else None
        if digest in live or status.st_mtime > oldest_to_keep or not is_plain(status.st_mode):
            continue
        reason = "no model needs it" if digest else "left over from an interrupted write"
        pieces.append(Piece(path, status.st_size if status.st_nlink == 1 else 0, reason))
    return Garbage(tuple(pieces), tuple(unknown))


def collect_garbage(store: Store, *, grace_seconds: float = GRACE_SECONDS) -> Garbage:
    """Delete what no model needs, under the library's lock, and return what that was."""
    with store.lock(exclusive=True):
        garbage = find_garbage(store, grace_seconds=grace_seconds)
        for piece in garbage.pieces:
            delete(piece.path)
        return garbage


def live_digests(store: Store) -> tuple[set[str], list[str], list[str]]:
    """Return the digests that some manifest names, the unknown manifests, and the damaged ones.

    Every file of the store that is not a blob counts as a manifest, wherever it lies: newer
    layouts put them elsewhere, and a blob too many is no harm.
    """
    live: set[str] = set()
    unknown, damaged = [], []
    for path in files_outside_blobs(store):
        try:
            data = read_small(path)
            live |= {blob.digest for blob in parse_manifest(data, where=str(path)).blobs}
        except UnknownManifestError as error:
            live |= reachable(store, digests_in(data.decode("utf-8", errors="replace")))
            unknown.append(error.message)
        except DamagedError as error:
            damaged.append(error.message)
    return live, unknown, damaged


def reachable(store: Store, digests: set[str]) -> set[str]:
    """Return digests and those that small blobs of theirs name: manifests may be blobs too."""
    found: set[str] = set()
    waiting = list(digests)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        found.add(digest)
        path = store.blob_path(digest)
        with suppress(OSError, DamagedError):
            if path.stat().st_size <= MAX_MANIFEST_BYTES:
                waiting += digests_in(read_small(path).decode("utf-8", errors="replace"))
    return found


def files_outside_blobs(store: Store) -> Iterator[Path]:
    """Yield every file of a store that is neither a blob nor a temporary or lock file."""
    for folder, folders, files in os.walk(store.root, onerror=raise_it):
        here = Path(folder)
        if here == store.root:
            folders[:] = [name for name in folders if name != store.blobs.name]
        for name in files:
            own = name == LOCK_FILE or (name.startswith(".") and name.endswith(".part"))
            if not (here == store.root and own):
                yield here / name


def raise_it(error: OSError) -> None:
    """Stop a walk at a folder that may not be read: what it holds may be needed."""
    raise error


def sorted_files(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing when there is no folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_plain(mode: int) -> bool:
    """Whether a clean-up may delete it: a regular file or a reference."""
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def delete(path: Path) -> int:
    """Delete a file and return the bytes that this freed."""
    try:
        status = path.lstat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return status.st_size if status.st_nlink == 1 and stat.S_ISREG(status.st_mode) else 0


def remove_empty_folders(folder: Path, top: Path) -> None:
    """Remove a folder and its parents up to `top` as far as they are empty."""
    while folder != top and folder.is_relative_to(top):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
