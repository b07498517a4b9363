"""A store: a folder of blobs named by their SHA-256 and manifests named like models.

    blobs/sha256-<64 hex>                               content, never changed once there
    manifests/<host>/<namespace>/<model>/<tag>          JSON: which blobs make the model

Writing follows one order: blobs first, each to a temporary file in `blobs/`, synced and renamed;
the manifest last, through a temporary file outside `manifests/`, since readers take every file
below it for a model. A process killed at any moment leaves the old model or the new one, and at
most a temporary file that `gc` removes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llamune.files import new_file, sha256_of, sync_folder
from llamune.store import media_types
from llamune.store.digests import blob_file_name, digest_of
from llamune.store.errors import (
    CopyNeededError,
    DamagedError,
    ExistsError,
    StoreError,
    UnknownModelError,
)
from llamune.store.locks import locked
from llamune.store.manifests import (
    MAX_MANIFEST_BYTES,
    Layer,
    Manifest,
    NewLayer,
    encode_json,
    parse_manifest,
)
from llamune.store.names import ModelName
from llamune.store.sharing import Sharing, clone, hard_link

__all__ = ["Store"]

BLOB_MODE = 0o644
CHUNK_BYTES = 4 << 20
SECONDS_BEFORE_SECOND_LOOK = 0.05  # other programs write manifests in place

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Store:
    """A folder in Ollama's on-disk format.

    Args:
        root: the folder that holds `blobs/` and `manifests/`.
        label: what a person calls it.
        ours: whether it is our library, which has a lock.
    """

    root: Path
    label: str
    ours: bool = False

    @property
    def blobs(self) -> Path:
        """The folder of blobs."""
        return self.root / "blobs"

    @property
    def manifests(self) -> Path:
        """The folder of manifests."""
        return self.root / "manifests"

    def blob_path(self, digest: str) -> Path:
        """Return where a blob lies or would lie."""
        return self.blobs / blob_file_name(digest)

    def manifest_path(self, name: ModelName) -> Path:
        """Return where a model's manifest lies or would lie.

        Raises:
            StoreError: the file system has no such file names.
        """
        if os.name == "nt" and ":" in name.host:  # there it would open a stream of another file
            raise StoreError(
                f"{name}: Windows cannot store a model whose host has a port",
                hint="reach the registry under a name without a port",
            )
        return self.manifests / name.relative_path

    def lock(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """Hold the library's lock; a store of another program has none."""
        return locked(self.root, exclusive=exclusive) if self.ours else nullcontext()

    # reading

    def names(self) -> list[ModelName]:
        """Return the names of all models, sorted.

        Raises:
            PermissionError: the folder of manifests may not be read.
        """
        found = []
        for path in manifest_files(self.manifests):
            host, namespace, model, tag = path.relative_to(self.manifests).parts
            name = ModelName.maybe(f"{host}/{namespace}/{model}:{tag}")
            if name is not None:
                found.append(name)
        return sorted(found, key=lambda name: name.key)

    def find(self, name: ModelName) -> ModelName | None:
        """Return the stored spelling of a name: case does not matter, an exact match wins."""
        if is_file(self.manifest_path(name)):
            return name
        return next((other for other in self.names() if other.key == name.key), None)

    def holds(self, name: ModelName) -> bool:
        """Whether the store may be read and has a model of that name."""
        try:
            return self.find(name) is not None
        except PermissionError:
            return False

    def manifest(self, name: ModelName) -> Manifest:
        """Read and check a model's manifest.

        Raises:
            UnknownModelError: there is none.
            DamagedError: it breaks a rule of the format.
            UnknownManifestError: it is of a kind that we do not know.
        """
        path = self.manifest_path(self.find(name) or name)
        try:
            return parse_manifest(read_small(path), where=str(path))
        except FileNotFoundError as error:
            raise UnknownModelError(f"{name}: not in {self.label}") from error
        except DamagedError:
            time.sleep(SECONDS_BEFORE_SECOND_LOOK)
            return parse_manifest(read_small(path), where=str(path))

    def checked_blob(self, layer: Layer) -> Path:
        """Return the path of a layer's blob, after comparing its size with the manifest.

        Raises:
            DamagedError: it is missing, not a regular file, or of another size.
        """
        path = self.blob_path(layer.digest)
        try:
            status = path.stat()
        except FileNotFoundError as error:
            lost = f"the file it refers to is gone: {path.readlink()}" if path.is_symlink() else ""
            raise DamagedError(f"{path}: {lost or 'blob missing'}") from error
        except OSError as error:
            raise DamagedError(f"{path}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path}: not a regular file")
        if status.st_size != layer.size:
            raise DamagedError(
                f"{path}: {status.st_size:,} bytes, the manifest says {layer.size:,}"
            )
        return path

    # writing

    def add_blob(
        self,
        source: Path | bytes,
        *,
        digest: str | None = None,
        sharing: Sharing = "copy",
        advance: Advance | None = None,
    ) -> str:
        """Bring bytes into the store and return their digest.

        Args:
            source: a file's path, or the bytes.
            digest: the file is an immutable blob of this digest already (in a store of this
                machine): it is hard-linked where possible, and not hashed again.
            sharing: how far to go when the bytes can be neither linked nor cloned.
            advance: called with the number of bytes hashed or copied.

        Raises:
            CopyNeededError: only a copy would do and `sharing` is "link".
            DamagedError: the file changes while it is copied, or lacks the digest it should have.
        """
        self.blobs.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            return self.add_bytes(source)
        size = source.stat().st_size
        if digest is not None and self.has(digest, size):
            return self.keep_alive(digest)
        with self.scratch() as temporary:
            if found := share(source, temporary, digest, advance):
                return self.place(temporary, found)
        found = digest or hash_file(source, advance)
        if self.has(found, size):
            return self.keep_alive(found)
        if sharing == "link":
            raise CopyNeededError(source, size)
        with self.scratch() as temporary:
            if sharing == "reference":
                temporary.symlink_to(source.resolve())
            elif copy_and_hash(source, temporary, advance if digest else None) != found:
                raise DamagedError(f"{source}: its bytes do not have the digest {found}")
            return self.place(temporary, found)

    def add_bytes(self, data: bytes) -> str:
        """Write a small blob."""
        digest = digest_of(data)
        if self.has(digest, len(data)):
            return self.keep_alive(digest)
        with self.scratch() as temporary:
            with temporary.open("xb") as out:
                out.write(data)
                sync(out)
            temporary.chmod(BLOB_MODE)
            return self.place(temporary, digest)

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether a blob is there, whole as far as its size tells."""
        path = self.blob_path(digest)
        return is_file(path) and (size is None or path.stat().st_size == size)

    def keep_alive(self, digest: str) -> str:
        """Mark a blob as fresh, so that no clean-up takes it before its manifest is written."""
        with suppress(OSError):  # another user's file: theirs to clean up
            os.utime(self.blob_path(digest))
        return digest

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an unused path in `blobs/`; what is left there afterwards is removed."""
        path = self.blobs / f"sha256-{secrets.token_hex(8)}.part"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def place(self, temporary: Path, digest: str) -> str:
        """Give a finished temporary file its name among the blobs, unless it is there already."""
        path = self.blob_path(digest)
        if self.has(digest, temporary.stat().st_size):
            return self.keep_alive(digest)
        temporary.replace(path)
        sync_folder(self.blobs)
        return digest

    def publish(
        self,
        name: ModelName,
        layers: Sequence[Layer | NewLayer],
        *,
        config: Mapping[str, object],
        annotations: Mapping[str, str] | None = None,
        replace: bool = False,
        sharing: Sharing = "copy",
        advance: Advance | None = None,
    ) -> Manifest:
        """Write a model: blobs first, its manifest last.

        Args:
            name: under which it appears.
            layers: `Layer` for blobs that are in this store, `NewLayer` for what is to be added.
            config: the description that goes into the config blob.
            annotations: lineage.
            replace: whether a model of that name may be replaced.
            sharing: see `add_blob`.
            advance: called with the number of bytes hashed or copied.

        Raises:
            ExistsError: the name is taken and `replace` is false.
            DamagedError: a `Layer` names a blob that is not here.
        """
        with self.lock(exclusive=False):
            target = self.free_name(name, replace=replace)
            self.blobs.mkdir(parents=True, exist_ok=True)
            placed = [self.placed(layer, sharing, advance) for layer in layers]
            text = encode_json(dict(config))
            manifest = Manifest(
                config=Layer(media_types.CONFIG, self.add_bytes(text), len(text)),
                layers=placed,
                annotations=annotations or {},
            )
            self.write_manifest(target, manifest)
            return manifest

    def free_name(self, name: ModelName, *, replace: bool) -> ModelName:
        """Return the spelling under which `name` is written.

        Raises:
            ExistsError: it is taken and may not be replaced.
        """
        taken = self.find(name)
        if taken is not None and not replace:
            raise ExistsError(
                f"{taken}: exists already in {self.label}",
                hint="choose another name, or replace it with --replace",
            )
        return taken or name

    def placed(self, layer: Layer | NewLayer, sharing: Sharing, advance: Advance | None) -> Layer:
        """Return a layer whose blob is in this store."""
        if isinstance(layer, Layer):
            self.checked_blob(layer)
            self.keep_alive(layer.digest)
            return layer
        digest = self.add_blob(
            layer.source, digest=layer.digest, sharing=layer.sharing or sharing, advance=advance
        )
        size = self.blob_path(digest).stat().st_size
        return Layer(layer.media_type, digest, size, origin=layer.origin)

    def write_manifest(self, name: ModelName, manifest: Manifest) -> None:
        """Write a manifest whose blobs are all here, whole or not at all."""
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, replace=True, scratch=self.root) as out:
            out.write(manifest.encode())


def manifest_files(folder: Path) -> list[Path]:
    """Return the files that stand where manifests stand."""
    if not folder.is_dir():
        return []
    os.scandir(folder).close()  # glob passes over folders that may not be read: say so instead
    return [path for path in folder.glob("*/*/*/*") if path.is_file()]


def is_file(path: Path) -> bool:
    """Whether a regular file, or a link to one, lies at `path`.

    Raises:
        PermissionError: nobody but others may know.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError):  # nothing there, a link to itself, a name too long
        return False


def read_small(path: Path) -> bytes:
    """Read a manifest-sized regular file without ever waiting for a pipe.

    Raises:
        DamagedError: it is not a regular file, or too large for a manifest.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as source:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{path}: not a regular file")
        if status.st_size > MAX_MANIFEST_BYTES:
            raise DamagedError(f"{path}: {status.st_size:,} bytes are too many for a manifest")
        return source.read(MAX_MANIFEST_BYTES + 1)


def share(source: Path, target: Path, digest: str | None, advance: Advance | None) -> str | None:
    """Link or clone a file to `target`; return its digest, or None when neither can be done.

    Args:
        source: the file.
        target: a path that is not taken.
        digest: of a blob; a file without one may change, and is cloned only.
        advance: called with the number of bytes hashed.
    """
    if digest is not None and hard_link(source, target):
        return digest
    if clone(source, target):
        target.chmod(BLOB_MODE)
        return digest or hash_file(target, advance)
    return None


def hash_file(path: Path, advance: Advance | None) -> str:
    """Return the digest of a file."""
    return f"sha256:{sha256_of(path, advance)}"


def copy_and_hash(source: Path, target: Path, advance: Advance | None) -> str:
    """Copy a file into a new one, synced, and return the digest of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as old, target.open("xb") as new:
        while chunk := old.read(CHUNK_BYTES):
            digest.update(chunk)
            new.write(chunk)
            if advance is not None:
                advance(len(chunk))
        sync(new)
    target.chmod(BLOB_MODE)
    return f"sha256:{digest.hexdigest()}"


def sync(out: BinaryIO) -> None:
    """Bring a file's bytes to the disk."""
    out.flush()
    os.fsync(out.fileno())
