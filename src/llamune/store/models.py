"""A resolved model: the files that make it and what its layers say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamune.errors import UnsupportedError
from llamune.store import media_types
from llamune.store.digests import digest_of
from llamune.store.errors import DamagedError, StoreError
from llamune.store.manifests import Layer, Manifest, optional_text, parse_json
from llamune.store.names import ModelName
from llamune.store.stores import Store

__all__ = ["Adapter", "Model", "model_of_name"]

MAX_TEXT_BYTES = 16 << 20


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of a model.

    Args:
        path: its GGUF file.
        digest: `sha256:<hex>`, None for a file outside a store.
        scale: by which its effect is multiplied.
    """

    path: Path
    digest: str | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Model:
    """What a model reference stands for. Nothing of the model file itself is read here.

    Args:
        ref: what the person typed.
        paths: the GGUF file, or its shards in order.
        name: the full name in its store, None for a path.
        digest: of the first file, None outside a store.
        store: where it was found, None for a path.
        manifest: the stored manifest, None for a path.
        adapters: LoRA adapters to apply, in order.
        projector: a vision or audio projector beside the text model.
        template: chat template of the store (Go's template language), None when absent.
        system: system prompt, None when absent.
        parameters: generation options such as `stop` and `temperature`.
        messages: an opening conversation.
        licenses: licence texts.
        config: the description in the config blob.
        annotations: lineage: `llamune.base.digest`, `llamune.run` and so on.
        notes: what a person should be told about how the reference was understood.
    """

    ref: str
    paths: tuple[Path, ...]
    name: ModelName | None = None
    digest: str | None = None
    store: Store | None = None
    manifest: Manifest | None = None
    adapters: tuple[Adapter, ...] = ()
    projector: Path | None = None
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    licenses: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.name) if self.name is not None else str(self.path)

    @property
    def path(self) -> Path:
        """The GGUF file, or its first shard."""
        return self.paths[0]

    @property
    def size(self) -> int:
        """Bytes of the model file, all shards."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def renderer(self) -> str | None:
        """Name of Ollama's built-in prompt renderer, if the model asks for one."""
        return optional_text(self.config.get("renderer"))

    @property
    def parser(self) -> str | None:
        """Name of Ollama's built-in output parser, if the model asks for one."""
        return optional_text(self.config.get("parser"))

    @property
    def carried_template(self) -> str | None:
        """Jinja chat template that the model was tuned with, if that is not the file's own."""
        return optional_text(self.config.get("chat_template"))

    @property
    def is_layered(self) -> bool:
        """Whether something beside the model file may say how it is prompted."""
        layers = (self.template, self.renderer, self.parser, self.carried_template)
        return any(layer is not None for layer in layers)


def model_of_name(store: Store, name: ModelName, *, ref: str | None = None) -> Model:
    """Read a model's manifest and its small layers.

    Raises:
        UnknownModelError: the store does not hold it.
        DamagedError: a rule of the format is broken.
        UnsupportedError: it has no GGUF file (a cloud stub, or safetensors layers).
    """
    name = store.find(name) or name
    manifest = store.manifest(name)
    config = parse_json(read_text(store, manifest.config).encode(), where=f"{name}: config")
    weights = manifest.of_type(media_types.MODEL)
    if not weights:
        refuse_without_weights(name, manifest, config)
    projectors = manifest.of_type(media_types.PROJECTOR)
    return Model(
        ref=ref if ref is not None else str(name),
        name=name,
        paths=tuple(store.checked_blob(layer) for layer in weights),
        digest=weights[0].digest,
        store=store,
        manifest=manifest,
        adapters=tuple(
            Adapter(store.checked_blob(layer), layer.digest)
            for layer in manifest.of_type(media_types.ADAPTER)
        ),
        projector=store.checked_blob(projectors[0]) if projectors else None,
        template=last_text(store, manifest, media_types.TEMPLATE, media_types.PROMPT),
        system=last_text(store, manifest, media_types.SYSTEM),
        parameters=parameters_of(store, manifest),
        messages=messages_of(store, manifest),
        licenses=tuple(read_text(store, layer) for layer in manifest.of_type(media_types.LICENSE)),
        config=config,
        annotations=manifest.annotations,
    )


def refuse_without_weights(name: ModelName, manifest: Manifest, config: Mapping[str, Any]) -> None:
    """Say why a model without a GGUF layer cannot be used.

    Raises:
        UnsupportedError: always.
    """
    if host := optional_text(config.get("remote_host")):
        raise UnsupportedError(
            f"{name}: runs on {host}; there are no weights on this machine",
            hint="choose a model whose file is here: llamune models",
        )
    if config.get("model_format") == "safetensors" or manifest.of_type(media_types.TENSOR):
        raise UnsupportedError(
            f"{name}: is stored as safetensors tensors, not as a GGUF file",
            hint="pull a GGUF of it",
        )
    raise StoreError(f"{name}: its manifest names no model file")


def read_text(store: Store, layer: Layer) -> str:
    """Read a small text layer.

    Raises:
        DamagedError: it is missing, of another size, or too large for a text.
    """
    path = store.checked_blob(layer)
    if layer.size > MAX_TEXT_BYTES:
        raise DamagedError(f"{path}: {layer.size:,} bytes are too many for a text layer")
    data = path.read_bytes()
    if digest_of(data) != layer.digest:
        raise DamagedError(
            f"{path}: its bytes do not have the digest in its name", hint="pull the model again"
        )
    return data.decode("utf-8", errors="replace")


def last_text(store: Store, manifest: Manifest, *media_types: str) -> str | None:
    """Return the text of the last layer of one of some types; the last one wins in Ollama too."""
    layers = [layer for layer in manifest.layers if layer.media_type in media_types]
    return read_text(store, layers[-1]) if layers else None


def parameters_of(store: Store, manifest: Manifest) -> dict[str, Any]:
    """Return the generation options of all parameter layers."""
    options: dict[str, Any] = {}
    for layer in manifest.of_type(media_types.PARAMS):
        text = read_text(store, layer)
        options |= parse_json(text.encode(), where=str(store.blob_path(layer.digest)))
    return options


def messages_of(store: Store, manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    """Return the opening conversation of all message layers."""
    found: list[Mapping[str, Any]] = []
    for layer in manifest.of_type(media_types.MESSAGES):
        where = str(store.blob_path(layer.digest))
        wrapped = f'{{"messages":{read_text(store, layer)}}}'
        entries = parse_json(wrapped.encode(), where=where)["messages"]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DamagedError(f"{where}: a list of messages expected")
        found += entries
    return tuple(found)
