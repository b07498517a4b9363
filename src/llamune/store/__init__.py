"""Names to files: stores in Ollama's format, our own library among them, paths and folders."""

from __future__ import annotations

from llamune.store import starter
from llamune.store.errors import (
    CopyNeededError,
    DamagedError,
    ExistsError,
    StoreError,
    UnknownModelError,
)
from llamune.store.listing import ListedModel, list_models
from llamune.store.manifests import (
    Layer,
    Manifest,
    NewLayer,
    UnknownManifestError,
)
from llamune.store.models import Adapter, Model, model_of_name
from llamune.store.names import ModelName
from llamune.store.places import home, library, search_path
from llamune.store.publishing import (
    bytes_to_copy,
    publish,
    publish_adapter,
    publish_model,
    publish_starter,
)
from llamune.store.references import resolve, unreadable
from llamune.store.sharing import Sharing
from llamune.store.stores import Store

__all__ = [
    "Adapter",
    "CopyNeededError",
    "DamagedError",
    "ExistsError",
    "Layer",
    "ListedModel",
    "Manifest",
    "Model",
    "ModelName",
    "NewLayer",
    "Sharing",
    "Store",
    "StoreError",
    "UnknownManifestError",
    "UnknownModelError",
    "bytes_to_copy",
    "home",
    "library",
    "list_models",
    "model_of_name",
    "publish",
    "publish_adapter",
    "publish_model",
    "publish_starter",
    "resolve",
    "search_path",
    "starter",
    "unreadable",
]
