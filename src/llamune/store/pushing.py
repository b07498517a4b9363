"""Sending a model, or any other set of blobs, to a registry: blobs first, the manifest last.

Blobs that the registry has are skipped. They go up in pieces; after a cut connection the registry
says how far it came, and sending goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx

from llamune.files import sha256_of
from llamune.store import media_types
from llamune.store.digests import digest_of
from llamune.store.errors import StoreError
from llamune.store.manifests import Layer, Manifest
from llamune.store.models import Model
from llamune.store.names import ModelName
from llamune.store.pulling import (
    MAX_TRIES_WITHOUT_PROGRESS,
    SECONDS_BETWEEN_TRIES,
    run_parallel,
)
from llamune.store.registry import Registry, RegistryError
from llamune.store.stores import Advance

__all__ = ["folder_manifest", "push", "push_blobs"]

EMPTY = b"{}"
TITLE = "org.opencontainers.image.title"
PATCH_BYTES = 64 << 20
PIECE_BYTES = 1 << 18


def push(model: Model, target: ModelName, *, advance: Advance | None = None) -> str:
    """Send a stored model to a registry and return its digest there.

    Args:
        model: from any store on this machine.
        target: the name whose host is the registry.
        advance: called with the number of bytes sent or found there already.

    Raises:
        StoreError: it is a file outside a store.
        RegistryError: the registry cannot be reached or refuses.
    """
    if model.manifest is None or model.store is None:
        raise StoreError(
            f"{model}: only stored models can be pushed",
            hint=f"take it into the library first: llamune cp {model.ref} NAME",
        )
    sources: dict[str, Path | bytes] = {
        layer.digest: model.store.checked_blob(layer) for layer in model.manifest.blobs
    }
    return push_blobs(target, model.manifest, sources, advance=advance)


def push_blobs(
    target: ModelName,
    manifest: Manifest,
    sources: Mapping[str, Path | bytes],
    *,
    advance: Advance | None = None,
) -> str:
    """Send blobs and the manifest that names them; return the manifest's digest.

    Args:
        target: the name whose host is the registry.
        manifest: what is written last.
        sources: digest → file or bytes, for every blob of the manifest.
        advance: called with the number of bytes sent or found there already.

    Raises:
        RegistryError: the registry cannot be reached or refuses.
    """
    told = advance or (lambda _: None)
    jobs = [
        partial(send_layer, layer=layer, source=sources[layer.digest], advance=told)
        for layer in manifest.blobs
    ]
    run_parallel(jobs, target)
    data = manifest.encode()
    headers = {"Content-Type": manifest.media_type}
    with (
        Registry(target) as registry,
        registry.request(
            "PUT",
            f"manifests/{target.tag}",
            accepted=(200, 201, 202),
            headers=headers,
            content=data,
        ) as response,
    ):
        kept = response.headers.get("docker-content-digest", digest_of(data))
    if kept != digest_of(data):
        raise RegistryError(f"{target}: the registry keeps another manifest, {kept}")
    return digest_of(data)


def folder_manifest(folder: Path) -> tuple[Manifest, dict[str, Path | bytes]]:
    """Return a package folder as an OCI artifact: the manifest, and where its blobs lie.

    Every file is a layer that bears its path below the folder as its title, which is how other
    tools (ORAS) find the file names again.

    Raises:
        StoreError: it has no file, or holds a link or a special file.
    """
    layers = []
    sources: dict[str, Path | bytes] = {digest_of(EMPTY): EMPTY}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file():
            raise StoreError(f"{path}: only regular files can be pushed")
        title = path.relative_to(folder).as_posix()
        digest = f"sha256:{sha256_of(path)}"
        kind = media_types.PACKAGE_GGUF if path.suffix == ".gguf" else media_types.PACKAGE_FILE
        sources[digest] = path
        layers.append(Layer(kind, digest, path.stat().st_size, annotations={TITLE: title}))
    if not layers:
        raise StoreError(f"{folder}: holds no file")
    manifest = Manifest(
        config=Layer(media_types.OCI_EMPTY, digest_of(EMPTY), len(EMPTY)),
        layers=layers,
        media_type=media_types.OCI_MANIFEST,
        artifact_type=media_types.PACKAGE,
    )
    return manifest, sources


def send_layer(registry: Registry, *, layer: Layer, source: Path | bytes, advance: Advance) -> None:
    """Send one blob, unless the registry has it.

    Raises:
        RegistryError: several tries in a row sent no new byte, or the registry refuses.
    """
    with registry.request("HEAD", f"blobs/{layer.digest}", accepted=(200, 404)) as response:
        if response.status_code == 200:
            advance(layer.size)
            return
    upload = Upload(registry, layer, source, advance)
    tries, furthest = 0, 0
    while True:
        try:
            upload.go_on()
        except RegistryError as error:
            if not error.passing or tries >= MAX_TRIES_WITHOUT_PROGRESS:
                raise
            registry.stop.wait(SECONDS_BETWEEN_TRIES)
            upload.ask_how_far()
            tries = 0 if upload.sent > furthest else tries + 1
            furthest = max(furthest, upload.sent)
        else:
            return


class Upload:
    """One blob on its way up.

    Args:
        registry: the connection.
        layer: the blob.
        source: its bytes.
        advance: called with the number of bytes sent; negative when the registry lost some.

    Attributes:
        sent: bytes that the registry has, or that are on the way in the current request.
        location: where the registry takes the next piece; empty before it said so.
    """

    def __init__(
        self, registry: Registry, layer: Layer, source: Path | bytes, advance: Advance
    ) -> None:
        self.registry = registry
        self.layer = layer
        self.source = source
        self.advance = advance
        self.sent = 0
        self.location = ""

    def go_on(self) -> None:
        """Send what is left and finish.

        Raises:
            RegistryError: the connection failed, or the registry refuses.
        """
        if not self.location:
            with self.registry.request("POST", "blobs/uploads/", accepted=(202,)) as response:
                self.follow(response)
        while self.sent < self.layer.size:
            self.send_piece(min(PATCH_BYTES, self.layer.size - self.sent))
        finish = str(httpx.URL(self.location).copy_merge_params({"digest": self.layer.digest}))
        with self.registry.request("PUT", finish, accepted=(201, 204), content=b""):
            pass

    def send_piece(self, n_bytes: int) -> None:
        """Send some bytes in one request."""
        start = self.sent
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(n_bytes),
            "Content-Range": f"{start}-{start + n_bytes - 1}",
        }
        with self.registry.request(
            "PATCH",
            self.location,
            accepted=(202,),
            headers=headers,
            content=partial(self.pieces, start, n_bytes),
        ) as response:
            self.follow(response)
            self.correct(end_of_range(response, default=start + n_bytes))

    def pieces(self, start: int, n_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of one request, counted as they leave."""
        self.correct(start)
        for piece in read_pieces(self.source, start, n_bytes):
            if self.registry.stop.is_set():
                raise RegistryError(f"{self.registry.host}: stopped")
            yield piece
            self.correct(self.sent + len(piece))

    def ask_how_far(self) -> None:
        """Find out what arrived before the connection was cut; begin anew if nobody knows.

        Docker's own registry forgets an upload that was cut inside a piece; others go on.
        """
        if self.location:
            try:
                with self.registry.request("GET", self.location, accepted=(204, 404)) as response:
                    if response.status_code == 204:
                        self.follow(response)
                        self.correct(end_of_range(response, default=0))
                        return
            except RegistryError as error:
                if not error.passing:
                    raise
                return
        self.location = ""
        self.correct(0)

    def follow(self, response: httpx.Response) -> None:
        """Remember where the registry wants the next piece."""
        if location := response.headers.get("location"):
            self.location = self.registry.url(location)
        elif not self.location:
            raise RegistryError(f"{self.registry.host}: does not say where to send a blob")

    def correct(self, sent: int) -> None:
        """Set how many bytes are there, and tell the difference."""
        self.advance(sent - self.sent)
        self.sent = sent


def end_of_range(response: httpx.Response, *, default: int) -> int:
    """Return how many bytes a registry has, by its `Range: 0-N` header.

    `0-0` tells nothing: a registry says so of nothing as well as of a single byte.
    """
    first, _, last = response.headers.get("range", "").removeprefix("bytes=").partition("-")
    known = first == "0" and last.isdecimal() and int(last) > 0
    return int(last) + 1 if known else default


def read_pieces(source: Path | bytes, start: int, n_bytes: int) -> Iterator[bytes]:
    """Yield some bytes of a file or of bytes in pieces."""
    if isinstance(source, bytes):
        for offset in range(start, start + n_bytes, PIECE_BYTES):
            yield source[offset : min(offset + PIECE_BYTES, start + n_bytes)]
        return
    with source.open("rb") as file:
        file.seek(start)
        left = n_bytes
        while left and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece
