"""Putting models into our library: an adapter beside its base, or a whole model file.

What a base says beside its weights (template, system prompt, parameters, licences, renderer and
parser) goes with whatever is made from it; a blob that the library has already, or that can be
linked from another store, takes no second place on the disk.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamune.store import media_types
from llamune.store.describing import describe_gguf
from llamune.store.manifests import Layer, NewLayer
from llamune.store.models import Model, model_of_name
from llamune.store.names import ModelName
from llamune.store.places import library
from llamune.store.sharing import Sharing, can_link
from llamune.store.stores import Advance, Store

__all__ = [
    "GivenTemplate",
    "bytes_to_copy",
    "copy_model",
    "publish",
    "publish_adapter",
    "publish_model",
    "publish_starter",
    "take_in",
]

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
TEMPLATES = (media_types.TEMPLATE, media_types.PROMPT)
BIG = (media_types.MODEL, media_types.PROJECTOR, media_types.DRAFT)
DEFAULT_CONFIG = {"model_format": "gguf", "architecture": "amd64", "os": "linux"}


@dataclasses.dataclass(frozen=True)
class GivenTemplate:
    """A chat template that takes the place of the base's own.

    A store's TEMPLATE layer is written in Go's language; a Jinja template stands in the config,
    where our own runtime looks first.

    Args:
        text: the template.
        language: `Jinja` or `Go`.
    """

    text: str
    language: str

    def put(
        self, layers: Sequence[Layer | NewLayer], config: Mapping[str, Any]
    ) -> tuple[list[Layer | NewLayer], dict[str, Any]]:
        """Return layers and config with this template alone."""
        kept = [layer for layer in layers if layer.media_type not in TEMPLATES]
        if self.language == "Go":
            return [*kept, NewLayer(media_types.TEMPLATE, self.text.encode())], dict(config)
        return kept, {**config, "chat_template": self.text}


def publish(
    name: str | ModelName,
    layers: Sequence[Layer | NewLayer],
    *,
    config: Mapping[str, Any],
    annotations: Mapping[str, str] | None = None,
    replace: bool = False,
    sharing: Sharing = "copy",
    store: Store | None = None,
    advance: Advance | None = None,
) -> Model:
    """Write a model into a store and return it as `resolve` would.

    Args:
        name: under which it appears.
        layers: its parts in order.
        config: the description that goes into the config blob.
        annotations: lineage, such as `llamune.base.digest`.
        replace: whether a model of that name may be replaced.
        sharing: how far to go when a file can be neither linked nor cloned.
        store: default our library.
        advance: called with the number of bytes hashed or copied.

    Raises:
        ExistsError: the name is taken and `replace` is false.
        CopyNeededError: only a copy would do and `sharing` is "link".
    """
    place = store or library()
    full = ModelName.parse(name) if isinstance(name, str) else name
    place.publish(
        full,
        layers,
        config=config,
        annotations=annotations,
        replace=replace,
        sharing=sharing,
        advance=advance,
    )
    return model_of_name(place, full)


def publish_adapter(
    name: str | ModelName,
    base: Model,
    adapter_gguf: Path,
    annotations: Mapping[str, str] | None = None,
    *,
    template: GivenTemplate | None = None,
    replace: bool = False,
    sharing: Sharing = "copy",
    advance: Advance | None = None,
) -> Model:
    """Publish a base with an adapter on it; the base's own adapters are not taken along.

    Args:
        name: under which it appears.
        base: the model that the adapter was trained on.
        adapter_gguf: the adapter's GGUF file.
        annotations: lineage; `llamune.base.digest` is added when the base has a digest.
        template: the chat template to serve it with; default the base's own.
        replace: whether a model of that name may be replaced.
        sharing: how far to go when the base can be neither linked nor cloned.
        advance: called with the number of bytes hashed or copied.
    """
    kept = [layer for layer in layers_of(base) if layer.media_type != media_types.ADAPTER]
    lineage = {"llamune.base.digest": base.digest} if base.digest else {}
    layers: list[Layer | NewLayer] = [
        *kept,
        NewLayer(media_types.ADAPTER, adapter_gguf, sharing="copy"),
    ]
    described = {**({} if base.manifest else config_of(base.paths)), **base.config}
    if template is not None:
        layers, described = template.put(layers, described)
    return publish(
        name,
        layers,
        config=described,
        annotations={**lineage, **(annotations or {})},
        replace=replace,
        sharing=sharing,
        advance=advance,
    )


def publish_model(
    name: str | ModelName,
    gguf: Path | Sequence[Path],
    like: Model | None = None,
    annotations: Mapping[str, str] | None = None,
    *,
    licenses: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    template: GivenTemplate | None = None,
    replace: bool = False,
    sharing: Sharing = "copy",
    advance: Advance | None = None,
) -> Model:
    """Publish a whole model file.

    Args:
        name: under which it appears.
        gguf: the file, or its shards in order.
        like: the model whose template, parameters, system prompt, licences and other small
            layers go along.
        annotations: lineage.
        licenses: licence texts to add.
        config: entries that replace those of `like` and of the file's header.
        template: the chat template to serve it with; default that of `like`, or the file's.
        replace: whether a model of that name may be replaced.
        sharing: how far to go when the file can be neither linked nor cloned.
        advance: called with the number of bytes hashed or copied.
    """
    files = [gguf] if isinstance(gguf, Path) else list(gguf)
    layers: list[Layer | NewLayer] = [
        *(NewLayer(media_types.MODEL, path) for path in files),
        *(carried_layers(like) if like is not None else []),
        *(NewLayer(media_types.LICENSE, text.encode()) for text in licenses),
    ]
    described = {**config_of(files, like), **(config or {})}
    if template is not None:
        layers, described = template.put(layers, described)
    return publish(
        name,
        layers,
        config=described,
        annotations=annotations,
        replace=replace,
        sharing=sharing,
        advance=advance,
    )


def publish_starter(gguf: Path, license_text: str) -> Model:
    """Publish the starter model; the cached file is immutable, so that it is linked."""
    from llamune.store.starter import GGUF_SHA256, NAME

    return publish(
        NAME,
        [
            NewLayer(media_types.MODEL, gguf, digest=f"sha256:{GGUF_SHA256}"),
            NewLayer(media_types.LICENSE, license_text.encode()),
        ],
        config=config_of([gguf]),
        replace=True,
    )


def copy_model(
    model: Model,
    name: str | ModelName,
    *,
    replace: bool = False,
    sharing: Sharing = "copy",
    advance: Advance | None = None,
) -> Model:
    """Give a model another name in our library, its blobs shared; a file is taken in.

    Args:
        model: from any store, or a file.
        name: the new name.
        replace: whether a model of that name may be replaced.
        sharing: how far to go when a file can be neither linked nor cloned.
        advance: called with the number of bytes hashed or copied.
    """
    if model.manifest is None or model.store is None:
        return publish_model(name, model.paths, replace=replace, sharing=sharing, advance=advance)
    full = ModelName.parse(name) if isinstance(name, str) else name
    place = library()
    with place.lock(exclusive=False):
        target = place.free_name(full, replace=replace)
        for layer in model.manifest.blobs:
            place.add_blob(
                model.store.checked_blob(layer),
                digest=layer.digest,
                sharing=sharing if layer.media_type in BIG else "copy",
                advance=advance,
            )
        place.write_manifest(target, model.manifest)
    return model_of_name(place, target)


def take_in(model: Model, *, sharing: Sharing = "copy", advance: Advance | None = None) -> Model:
    """Return a model whose file cannot change: one outside a store is taken into the library.

    It gets the name `imported/<file name>:<first 12 digits of its digest>`. With "reference"
    the file is mapped where it lies, and changing it would break everything made on it.
    """
    if model.store is not None:
        return model
    place = library()
    with place.lock(exclusive=False):
        digests = [place.add_blob(path, sharing=sharing, advance=advance) for path in model.paths]
    sizes = [place.blob_path(digest).stat().st_size for digest in digests]
    stem = NOT_IN_NAMES.sub("-", model.path.stem).lstrip("-.") or "model"
    taken = publish(
        ModelName(namespace="imported", model=stem[:80], tag=digests[0][7:19]),
        [
            Layer(media_types.MODEL, digest, size)
            for digest, size in zip(digests, sizes, strict=True)
        ],
        config=config_of(model.paths),
        replace=True,
    )
    return dataclasses.replace(taken, ref=model.ref)


def layers_of(model: Model) -> list[NewLayer]:
    """Return a model's parts as layers for another manifest."""
    if model.manifest is None or model.store is None:
        return [NewLayer(media_types.MODEL, path, digest=model.digest) for path in model.paths]
    return [
        NewLayer(
            layer.media_type,
            model.store.checked_blob(layer),
            origin=str(model.name) if layer.media_type == media_types.MODEL else layer.origin,
            digest=layer.digest,
            sharing=None if layer.media_type in BIG else "copy",
        )
        for layer in model.manifest.layers
    ]


def carried_layers(model: Model) -> list[NewLayer]:
    """Return what goes along with new weights: everything but the old ones and their adapters."""
    weights = (media_types.MODEL, media_types.ADAPTER)
    return [layer for layer in layers_of(model) if layer.media_type not in weights]


def config_of(files: Sequence[Path], like: Model | None = None) -> dict[str, Any]:
    """Return the config of a model file: as `like` has it, its header having the last word."""
    carried = like.config if like is not None else {}
    return {**DEFAULT_CONFIG, **carried, **describe_gguf(files)}


def bytes_to_copy(model: Model, *, store: Store | None = None) -> int:
    """Return how many bytes publishing something on this model would copy: 0 when all are shared.

    A blob in another store can be hard-linked or cloned; a file outside a store only cloned.
    """
    place = store or library()
    total = 0
    for layer in layers_of(model):
        path = layer.source
        if isinstance(path, bytes) or layer.sharing == "copy":
            continue
        if layer.digest is not None and place.has(layer.digest):
            continue
        if not can_link(path, place.blobs, immutable=layer.digest is not None):
            total += path.stat().st_size
    return total
