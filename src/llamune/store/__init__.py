"""Names to files: stores in Ollama's format, our own library among them, paths and folders.

What finds models is there at once. What looks after a store, and what talks to servers, loads on
first use: an HTTP client costs a quarter of a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamune.store import media_types, starter
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
    GivenTemplate,
    bytes_to_copy,
    copy_model,
    publish,
    publish_adapter,
    publish_model,
    publish_starter,
    take_in,
)
from llamune.store.references import find_stored, is_stored, resolve, unreadable
from llamune.store.sharing import Sharing
from llamune.store.stores import Store

if TYPE_CHECKING:
    from llamune.store.ollama import LoadedModel, Ollama, OllamaError
    from llamune.store.placing import (
        Placed,
        check_place,
        lmstudio_folder,
        needs_merge,
        place_file,
        place_in_lmstudio,
        place_in_ollama,
    )
    from llamune.store.pulling import Pull, plan_pull, pull
    from llamune.store.pushing import folder_manifest, push, push_blobs
    from llamune.store.registry import RegistryError
    from llamune.store.upkeep import (
        Fault,
        Garbage,
        Piece,
        Removed,
        bytes_to_verify,
        collect_garbage,
        find_garbage,
        remove_model,
        repair,
        verify_models,
    )

ON_FIRST_USE = {
    "Fault": "llamune.store.upkeep",
    "Garbage": "llamune.store.upkeep",
    "LoadedModel": "llamune.store.ollama",
    "Ollama": "llamune.store.ollama",
    "OllamaError": "llamune.store.ollama",
    "Piece": "llamune.store.upkeep",
    "Placed": "llamune.store.placing",
    "Pull": "llamune.store.pulling",
    "RegistryError": "llamune.store.registry",
    "Removed": "llamune.store.upkeep",
    "bytes_to_verify": "llamune.store.upkeep",
    "check_place": "llamune.store.placing",
    "collect_garbage": "llamune.store.upkeep",
    "find_garbage": "llamune.store.upkeep",
    "folder_manifest": "llamune.store.pushing",
    "lmstudio_folder": "llamune.store.placing",
    "needs_merge": "llamune.store.placing",
    "place_file": "llamune.store.placing",
    "place_in_lmstudio": "llamune.store.placing",
    "place_in_ollama": "llamune.store.placing",
    "plan_pull": "llamune.store.pulling",
    "pull": "llamune.store.pulling",
    "push": "llamune.store.pushing",
    "push_blobs": "llamune.store.pushing",
    "remove_model": "llamune.store.upkeep",
    "repair": "llamune.store.upkeep",
    "verify_models": "llamune.store.upkeep",
}

__all__ = [
    "Adapter",
    "CopyNeededError",
    "DamagedError",
    "ExistsError",
    "Fault",
    "Garbage",
    "GivenTemplate",
    "Layer",
    "ListedModel",
    "LoadedModel",
    "Manifest",
    "Model",
    "ModelName",
    "NewLayer",
    "Ollama",
    "OllamaError",
    "Piece",
    "Placed",
    "Pull",
    "RegistryError",
    "Removed",
    "Sharing",
    "Store",
    "StoreError",
    "UnknownManifestError",
    "UnknownModelError",
    "bytes_to_copy",
    "bytes_to_verify",
    "check_place",
    "collect_garbage",
    "copy_model",
    "find_garbage",
    "find_stored",
    "folder_manifest",
    "home",
    "is_stored",
    "library",
    "list_models",
    "lmstudio_folder",
    "media_types",
    "model_of_name",
    "needs_merge",
    "place_file",
    "place_in_lmstudio",
    "place_in_ollama",
    "plan_pull",
    "publish",
    "publish_adapter",
    "publish_model",
    "publish_starter",
    "pull",
    "push",
    "push_blobs",
    "remove_model",
    "repair",
    "resolve",
    "search_path",
    "starter",
    "take_in",
    "unreadable",
    "verify_models",
]


def __getattr__(name: str) -> Any:
    if name in ON_FIRST_USE:
        return getattr(importlib.import_module(ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
