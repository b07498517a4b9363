"""Manifests: the JSON files that say which blobs make a model.

The format is Ollama's, which is Docker's image manifest with layer types of its own. A manifest
comes from outside and is hostile until checked: its size is capped, every digest is matched in
full, every size is a whole number, and kinds that we do not know are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamune.errors import UnsupportedError
from llamune.store import media_types
from llamune.store.digests import digest_of, parse_digest
from llamune.store.errors import DamagedError
from llamune.store.sharing import Sharing

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Layer",
    "Manifest",
    "NewLayer",
    "UnknownManifestError",
    "encode_json",
    "optional_text",
    "parse_json",
    "parse_manifest",
]

MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 100_000  # safetensors models keep one layer a tensor
MAX_BLOB_BYTES = 1 << 50


class UnknownManifestError(UnsupportedError):
    """A manifest of a kind that we do not know; its blobs stay alive."""


@dataclass(frozen=True)
class NewLayer:
    """A layer that is not in the store yet.

    Args:
        media_type: one of `media_types`.
        source: a file's path or the bytes themselves.
        origin: where it came from, kept as `from` in the manifest.
        digest: of an immutable blob of another store on this machine; never of any other file.
        sharing: overrides how far the whole publish may go; small files are simply copied.
    """

    media_type: str
    source: Path | bytes
    origin: str | None = None
    digest: str | None = None
    sharing: Sharing | None = None


@dataclass(frozen=True)
class Layer:
    """One blob of a model.

    Args:
        media_type: what the blob is.
        digest: `sha256:<hex>`.
        size: bytes.
        origin: the parent model or file it came from (`from` in the JSON).
        name: tensor or file name within models that keep many small blobs.
        annotations: free text by key.
    """

    media_type: str
    digest: str
    size: int
    origin: str | None = None
    name: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the layer as it stands in a manifest."""
        entry: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.origin is not None:
            entry["from"] = self.origin
        if self.name is not None:
            entry["name"] = self.name
        if self.annotations:
            entry["annotations"] = dict(self.annotations)
        return entry


@dataclass(frozen=True)
class Manifest:
    """Which blobs make a model, and what is said about it.

    Args:
        config: the small JSON blob that describes the model.
        layers: its parts in order.
        annotations: our lineage; readers that do not know it ignore it.
        media_type: Docker's or OCI's image manifest.
        artifact_type: what an OCI artifact is, when it is not a model.
        data: the bytes it was read from; a new manifest has none yet.
    """

    config: Layer
    layers: Sequence[Layer]
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = media_types.MANIFEST
    artifact_type: str | None = None
    data: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        """Return the bytes it was read from, else new ones, the same for the same content."""
        if self.data:
            return self.data
        value: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type is not None:
            value["artifactType"] = self.artifact_type
        value["config"] = self.config.as_json()
        value["layers"] = [layer.as_json() for layer in self.layers]
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        return encode_json(value)

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: what Ollama calls the model's ID."""
        return digest_of(self.encode())

    @property
    def blobs(self) -> list[Layer]:
        """Every blob, each digest once, the config last."""
        return list({layer.digest: layer for layer in [*self.layers, self.config]}.values())

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(layer.size for layer in self.blobs)

    def of_type(self, media_type: str) -> list[Layer]:
        """Return the layers of one type, in order."""
        return [layer for layer in self.layers if layer.media_type == media_type]


def encode_json(value: Any) -> bytes:
    """Return compact JSON with a line end, as stores write it.

    Raises:
        ValueError: it holds half a character, or a number that JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def parse_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Read a JSON object from outside.

    Raises:
        DamagedError: it is not UTF-8, not JSON, nested too deep, not an object, or holds what
            could not be written again (half a character, a number beyond all bounds).
    """
    try:
        value = json.loads(data.decode("utf-8"))
        encode_json(value)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{where}: JSON object expected, found {type(value).__name__}")
    return value


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Read and check a manifest.

    Raises:
        UnknownManifestError: it is a manifest list or another kind that we do not know.
        DamagedError: it breaks a rule of the format.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise DamagedError(f"{where}: manifest larger than {MAX_MANIFEST_BYTES:,} bytes")
    value = parse_json(data, where=where)
    media_type = value.get("mediaType", media_types.MANIFEST)
    if (
        media_type not in (media_types.MANIFEST, media_types.OCI_MANIFEST)
        or value.get("schemaVersion") != 2
    ):
        raise UnknownManifestError(
            f"{where}: unsupported manifest kind {str(media_type)[:100]!r}, "
            f"schema version {str(value.get('schemaVersion'))[:20]}",
            hint="its blobs are left alone; a newer llamune may read it",
        )
    layers = value.get("layers") or []
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise DamagedError(f"{where}: `layers` is not a list of at most {MAX_LAYERS:,} entries")
    return Manifest(
        config=parse_layer(value.get("config"), where=f"{where}: config"),
        layers=tuple(
            parse_layer(entry, where=f"{where}: layer {index}")
            for index, entry in enumerate(layers)
        ),
        annotations=texts(value.get("annotations")),
        media_type=media_type,
        artifact_type=optional_text(value.get("artifactType")),
        data=data,
    )


def parse_layer(entry: object, *, where: str) -> Layer:
    """Read and check one layer of a manifest."""
    if not isinstance(entry, dict):
        raise DamagedError(f"{where}: JSON object expected, found {type(entry).__name__}")
    size = entry.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_BLOB_BYTES:
        raise DamagedError(f"{where}: size {str(size)[:40]!r} is not a number of bytes")
    media_type = entry.get("mediaType")
    if not isinstance(media_type, str) or not media_type:
        raise DamagedError(f"{where}: has no media type")
    return Layer(
        media_type=media_type,
        digest=parse_digest(entry.get("digest"), where=where),
        size=size,
        origin=optional_text(entry.get("from")),
        name=optional_text(entry.get("name")),
        annotations=texts(entry.get("annotations")),
    )


def optional_text(value: object) -> str | None:
    """Return a non-empty string, or None for anything else."""
    return value if isinstance(value, str) and value else None


def texts(value: object) -> dict[str, str]:
    """Return the string-to-string pairs of a JSON object; anything else is dropped."""
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}
