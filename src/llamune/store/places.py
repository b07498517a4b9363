"""Where models are looked for, in order: our library, then the stores that Ollama uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llamune.store.stores import Store

__all__ = ["home", "library", "ollama_store", "search_path"]

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


def home() -> Path:
    """Return our own folder: `$LLAMUNE_HOME`, or `~/.llamune`."""
    chosen = os.environ.get("LLAMUNE_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".llamune"


def library() -> Store:
    """Return our own store, which may be empty still."""
    return Store(home() / "models", "library", ours=True)


def search_path() -> list[Store]:
    """Return the stores in the order in which names are looked up.

    With `OLLAMA_MODELS` set, that is the one store that Ollama itself uses in this environment;
    the others follow it, since a service may run with another one.
    """
    stores = [library(), *ollama_stores()]
    unique = {real(store.root): store for store in reversed(stores)}
    return [store for store in stores if unique[real(store.root)] is store]


def ollama_stores() -> list[Store]:
    """Return the stores that an Ollama on this machine may use, the likeliest first."""
    stores = []
    chosen = os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'")
    if chosen:
        stores.append(Store(Path(chosen).expanduser(), "OLLAMA_MODELS"))
    stores.append(Store(Path.home() / ".ollama" / "models", "~/.ollama/models"))
    if sys.platform == "linux":
        stores.append(Store(SERVICE_STORE, "Ollama's service"))
    return stores


def ollama_store() -> Store:
    """Return the store that Ollama uses: the one it was told of, else the first that is there."""
    stores = ollama_stores()
    told = stores[0].label == "OLLAMA_MODELS"
    return next((store for store in stores if told or store.root.is_dir()), stores[0])


def real(path: Path) -> Path:
    """Return a path without links, as far as it may be followed."""
    return Path(os.path.realpath(path))
