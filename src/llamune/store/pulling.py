"""Fetching a model from a registry: layers in parallel, going on where a cut connection stopped."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from llamune.errors import UnsupportedError
from llamune.store import media_types
from llamune.store.digests import blob_file_name, digest_of
from llamune.store.errors import DamagedError, ExistsError, StoreError
from llamune.store.locks import take
from llamune.store.manifests import MAX_MANIFEST_BYTES, Layer, Manifest, parse_manifest
from llamune.store.models import Model, model_of_name
from llamune.store.names import ModelName
from llamune.store.places import library, search_path
from llamune.store.registry import Registry, RegistryError
from llamune.store.stores import CHUNK_BYTES, Advance, Store, sync

__all__ = ["Pull", "plan_pull", "pull"]

MAX_PARALLEL_LAYERS = 4
MAX_TRIES_WITHOUT_PROGRESS = 5
SECONDS_BETWEEN_TRIES = 0.5


@dataclass(frozen=True)
class Pull:
    """What a pull will do.

    Args:
        name: the model.
        manifest: as the registry has it.
        missing: the blobs that the library lacks.
        bytes_to_fetch: of these, less what an interrupted pull left.
    """

    name: ModelName
    manifest: Manifest
    missing: tuple[Layer, ...]
    bytes_to_fetch: int


def plan_pull(name: ModelName, *, replace: bool = False) -> Pull:
    """Read a model's manifest from its registry and find out what is missing here.

    Raises:
        RegistryError: the registry cannot be reached, or has no such model.
        ExistsError: the library has another model of that name and `replace` is false.
        UnsupportedError: it is no model.
        StoreError: the disk is too small.
    """
    with Registry(name) as registry:
        manifest = read_manifest(registry, name.tag)
    refuse_other_kinds(name, manifest)
    place = library()
    name_to_write(place, name, manifest, replace=replace)
    missing = [layer for layer in manifest.blobs if not place.has(layer.digest, layer.size)]
    needed = sum(max(layer.size - partial_size(place, layer), 0) for layer in missing)
    place.blobs.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place.blobs).free
    if needed > free:
        raise StoreError(f"{name}: needs {needed:,} bytes, {place.blobs} has {free:,} left")
    return Pull(name, manifest, tuple(missing), needed)


def pull(plan: Pull, *, replace: bool = False, advance: Advance | None = None) -> Model:
    """Fetch what is missing and publish the model.

    Raises:
        RegistryError: a layer could not be fetched; what arrived is kept for the next time.
        DamagedError: a layer's bytes do not have its digest.
        ExistsError: another version came into the library meanwhile, and `replace` is false.
    """
    place = library()
    others = [store for store in search_path() if not store.ours]
    run_parallel(
        [
            partial(fetch_layer, store=place, others=others, layer=layer, advance=advance)
            for layer in plan.missing
        ],
        plan.name,
    )
    with place.lock(exclusive=False):
        target = name_to_write(place, plan.name, plan.manifest, replace=replace)
        for layer in plan.manifest.blobs:
            place.checked_blob(layer)
            place.keep_alive(layer.digest)
        place.write_manifest(target, plan.manifest)
    return model_of_name(place, target)


def name_to_write(place: Store, name: ModelName, manifest: Manifest, *, replace: bool) -> ModelName:
    """Return the spelling under which a manifest is written.

    Raises:
        ExistsError: the name has another version and `replace` is false.
    """
    taken = place.find(name)
    if taken is None:
        return name
    if not replace and place.manifest(taken).digest != manifest.digest:
        raise ExistsError(
            f"{taken}: the library has another version of it",
            hint="take the registry's with --replace",
        )
    return taken


def refuse_other_kinds(name: ModelName, manifest: Manifest) -> None:
    """Refuse what is no model before it is fetched.

    Raises:
        UnsupportedError: it is a package, a container image or another artifact.
    """
    if manifest.of_type(media_types.MODEL):
        return
    if manifest.artifact_type == media_types.PACKAGE:
        raise UnsupportedError(
            f"{name}: is a package, not a model",
            hint="fetch its files with an OCI tool, such as: oras pull",
        )
    kinds = sorted({layer.media_type for layer in manifest.layers})
    found = f"layers: {', '.join(kinds)[:200]}" if kinds else "it has no layers at all"
    raise UnsupportedError(f"{name}: has no GGUF layer to run or train ({found})")


def read_manifest(registry: Registry, reference: str) -> Manifest:
    """Fetch and check a manifest.

    Raises:
        RegistryError: there is none, or the connection failed.
        DamagedError: it breaks a rule, or is not what the registry says it sends.
    """
    where = f"{registry.base}/manifests/{reference}"
    accept = f"{media_types.MANIFEST}, {media_types.OCI_MANIFEST}"
    data = b""
    with registry.request(
        "GET", f"manifests/{reference}", accepted=(200,), headers={"Accept": accept}
    ) as response:
        claimed = response.headers.get("docker-content-digest")
        for piece in registry.pieces(response):
            data += piece
            if len(data) > MAX_MANIFEST_BYTES:
                break
    manifest = parse_manifest(data, where=where)
    if claimed and claimed != digest_of(data):
        raise DamagedError(f"{where}: the bytes do not have the digest that the registry names")
    return manifest


def run_parallel(jobs: Sequence[Callable[[Registry], object]], name: ModelName) -> None:
    """Do jobs over one registry connection, a few at a time; the first failure stops the rest."""
    with Registry(name) as registry, ThreadPoolExecutor(MAX_PARALLEL_LAYERS) as pool:
        futures = [pool.submit(job, registry) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            registry.stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def partial_path(store: Store, layer: Layer) -> Path:
    """Return where the bytes of an unfinished pull are kept."""
    return store.blobs / f"{blob_file_name(layer.digest)}-partial"


def partial_size(store: Store, layer: Layer) -> int:
    """Return how many bytes an interrupted pull left."""
    path = partial_path(store, layer)
    return path.stat().st_size if path.is_file() else 0


def fetch_layer(
    registry: Registry,
    store: Store,
    others: Sequence[Store],
    layer: Layer,
    advance: Advance | None,
) -> None:
    """Bring one blob into the store: from another store of this machine, else from the registry.

    Raises:
        RegistryError: it could not be fetched.
        DamagedError: its bytes do not have its digest.
    """
    for other in others:
        if other.has(layer.digest, layer.size):
            store.add_blob(other.blob_path(layer.digest), digest=layer.digest, advance=advance)
            return
    path = partial_path(store, layer)
    with open_partial(path) as file:
        if store.has(layer.digest, layer.size):  # another process was faster
            path.unlink(missing_ok=True)
            return
        part = Part(file, layer, advance)
        download(registry, part)
        sync(file)
    if part.digest != layer.digest:
        path.unlink(missing_ok=True)
        raise DamagedError(
            f"{registry.host}: layer {layer.digest} arrived with the digest {part.digest}",
            hint="pull it again; if it stays so, the registry's copy is damaged",
        )
    with suppress(FileNotFoundError):  # a process that waited for the file has placed it
        path.chmod(0o644)
        store.place(path, layer.digest)


def open_partial(path: Path) -> BinaryIO:
    """Open the file of an unfinished pull, alone: a second process waits here."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        take(handle, exclusive=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return os.fdopen(handle, "r+b")
        os.close(handle)  # the process that held it has finished or dropped that file


class Part:
    """A layer that arrives, its digest counted along.

    Args:
        file: what an interrupted pull left, open for reading and writing; read to its end here.
        layer: what it will be.
        advance: called with the number of bytes that arrived; negative when they are dropped.
    """

    def __init__(self, file: BinaryIO, layer: Layer, advance: Advance | None) -> None:
        self.file = file
        self.layer = layer
        self.advance = advance or (lambda _: None)
        self.hash = hashlib.sha256()
        self.size = 0
        while chunk := file.read(CHUNK_BYTES):
            self.hash.update(chunk)
            self.size += len(chunk)
        if self.size > layer.size:
            self.restart()

    @property
    def left(self) -> int:
        """How many bytes are missing."""
        return self.layer.size - self.size

    @property
    def digest(self) -> str:
        """The digest of what is there."""
        return f"sha256:{self.hash.hexdigest()}"

    def append(self, data: bytes) -> None:
        """Take bytes that arrived.

        Raises:
            DamagedError: they are more than the layer has.
        """
        if len(data) > self.left:
            raise DamagedError(
                f"{self.layer.digest}: the registry sends more than {self.layer.size:,} bytes"
            )
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)
        self.advance(len(data))

    def restart(self) -> None:
        """Drop everything: the registry begins anew."""
        self.advance(-self.size)
        self.file.seek(0)
        self.file.truncate()
        self.hash = hashlib.sha256()
        self.size = 0


def download(registry: Registry, part: Part) -> None:
    """Complete a layer, over as many connections as it takes.

    Raises:
        RegistryError: several tries in a row brought no new byte, or it is no passing fault.
    """
    tries = 0
    while part.left:
        before = part.size
        try:
            fetch_rest(registry, part)
            failure = RegistryError(f"{registry.host}: {part.layer.digest} ends too early")
        except RegistryError as error:
            if not error.passing:
                raise
            failure = error
        finally:
            part.file.flush()
        tries = 0 if part.size > before else tries + 1
        if part.left and tries >= MAX_TRIES_WITHOUT_PROGRESS:
            raise failure
        if part.left:
            registry.stop.wait(SECONDS_BETWEEN_TRIES)


def fetch_rest(registry: Registry, part: Part) -> None:
    """Append what one request delivers.

    Raises:
        RegistryError: the connection failed, or the registry sends another range.
        DamagedError: it sends more than the layer has.
    """
    headers = {"Range": f"bytes={part.size}-"} if part.size else {}
    with registry.request(
        "GET", f"blobs/{part.layer.digest}", accepted=(200, 206), headers=headers
    ) as response:
        if response.status_code == 200 and part.size:
            part.restart()
        elif part.size and not response.headers.get("content-range", "").startswith(
            f"bytes {part.size}-"
        ):
            raise RegistryError(f"{registry.host}: {part.layer.digest}: sends another range")
        for piece in registry.pieces(response):
            part.append(piece)
