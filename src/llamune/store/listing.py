"""What `llamune models` lists: every model of every store, the damaged ones named too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamune.errors import LlamuneError
from llamune.store import manifests as kinds
from llamune.store.errors import DamagedError
from llamune.store.manifests import Manifest, parse_json
from llamune.store.models import read_text
from llamune.store.names import ModelName
from llamune.store.stores import Store

__all__ = ["ListedModel", "list_models"]

MAX_LICENSE_LINE = 60


@dataclass(frozen=True)
class ListedModel:
    """One line of the listing.

    Args:
        name: full name.
        store: where it lies.
        size_bytes: of all its blobs.
        modified_seconds: when its manifest was written, seconds since 1970.
        id: SHA-256 of its manifest, None when that cannot be read.
        kind: `model`, `adapter`, `cloud` (no weights here), `safetensors`, or `damaged`.
        file_type: as the store says, such as `Q4_K_M`.
        parameters: as the store says, such as `9.2B`.
        family: architecture.
        license: the first line of its licence text.
        problem: why it is damaged.
    """

    name: ModelName
    store: Store
    size_bytes: int
    modified_seconds: float
    id: str | None
    kind: str
    file_type: str | None = None
    parameters: str | None = None
    family: str | None = None
    license: str | None = None
    problem: str | None = None


def list_models(stores: Sequence[Store]) -> list[ListedModel]:
    """Return every model of the stores that may be read, in the order of lookup."""
    listed = []
    for store in stores:
        try:
            names = store.names()
        except PermissionError:
            continue  # `unreadable` names these
        listed += [describe(store, name) for name in names]
    return listed


def describe(store: Store, name: ModelName) -> ListedModel:
    """Return the line of one model."""
    modified = store.manifest_path(name).stat().st_mtime
    try:
        manifest = store.manifest(name)
        config = parse_json(read_text(store, manifest.config).encode(), where=f"{name}: config")
        kind = kind_of(manifest, config)
        if kind in ("model", "adapter"):
            for layer in manifest.layers:
                store.checked_blob(layer)
    except LlamuneError as error:
        return ListedModel(name, store, 0, modified, None, "damaged", problem=error.message)
    text = kinds.optional_text
    return ListedModel(
        name=name,
        store=store,
        size_bytes=manifest.size,
        modified_seconds=modified,
        id=manifest.digest,
        kind=kind,
        file_type=text(config.get("file_type")),
        parameters=text(config.get("model_type")),
        family=text(config.get("model_family")),
        license=license_line(store, manifest),
    )


def kind_of(manifest: Manifest, config: dict[str, object]) -> str:
    """Return what sort of model a manifest describes."""
    if config.get("remote_host"):
        return "cloud"
    if manifest.of_type(kinds.ADAPTER):
        return "adapter"
    if manifest.of_type(kinds.MODEL):
        return "model"
    if config.get("model_format") == "safetensors" or manifest.of_type(kinds.TENSOR):
        return "safetensors"
    raise DamagedError("its manifest names no model file")


def license_line(store: Store, manifest: Manifest) -> str | None:
    """Return the first line of the licence text."""
    for layer in manifest.of_type(kinds.LICENSE):
        for line in read_text(store, layer).splitlines():
            if line.strip():
                return line.strip()[:MAX_LICENSE_LINE]
    return None
