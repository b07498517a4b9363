"""What `llamune models` lists: every model of every store, the damaged ones named too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llamune.errors import LlamuneError
from llamune.gguf import GgufError
from llamune.store import media_types
from llamune.store.describing import describe_gguf, license_key
from llamune.store.errors import DamagedError
from llamune.store.manifests import Manifest, optional_text, parse_json
from llamune.store.models import read_text
from llamune.store.names import ModelName
from llamune.store.stores import Store

__all__ = ["ListedModel", "list_models"]

LICENSE_KEY = "general.license"


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
        licenses: its licence texts.
        license_key: what `general.license` of its file says; read when there is no text.
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
    licenses: tuple[str, ...] = ()
    license_key: str | None = None
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
        said = described(store, manifest, config) if kind in ("model", "adapter") else config
    except LlamuneError as error:
        return ListedModel(name, store, 0, modified, None, "damaged", problem=error.message)
    text = optional_text
    return ListedModel(
        name=name,
        store=store,
        size_bytes=manifest.size,
        modified_seconds=modified,
        id=manifest.digest,
        kind=kind,
        file_type=text(said.get("file_type")),
        parameters=text(said.get("model_type")),
        family=text(said.get("model_family")),
        license_key=text(said.get(LICENSE_KEY)),
        licenses=tuple(read_text(store, layer) for layer in manifest.of_type(media_types.LICENSE)),
    )


def described(store: Store, manifest: Manifest, config: dict[str, object]) -> Mapping[str, object]:
    """Return the config with what it does not say read from the model file's header."""
    known = all(config.get(key) for key in ("file_type", "model_type", "model_family"))
    if known and manifest.of_type(media_types.LICENSE):
        return config
    try:
        paths = [store.blob_path(layer.digest) for layer in manifest.of_type(media_types.MODEL)]
        said = {key: value for key, value in config.items() if value}
        return {**describe_gguf(paths), **said, LICENSE_KEY: license_key(paths)}
    except GgufError:  # listing a name is not the place to refuse its file
        return config


def kind_of(manifest: Manifest, config: dict[str, object]) -> str:
    """Return what sort of model a manifest describes."""
    if config.get("remote_host"):
        return "cloud"
    if manifest.of_type(media_types.ADAPTER):
        return "adapter"
    if manifest.of_type(media_types.MODEL):
        return "model"
    if config.get("model_format") == "safetensors" or manifest.of_type(media_types.TENSOR):
        return "safetensors"
    raise DamagedError("its manifest names no model file")
