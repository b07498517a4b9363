r"""From what a person types to a model: a name in a store, a GGUF file, its shards, or a folder.

A reference is a path when it looks like one (`./x`, `/x`, `~/x`, `x.gguf`, `C:\x`); anything
else is a name first, looked up along the search path, and a path only when no store holds it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamune.errors import UnsupportedError
from llamune.gguf import shard_paths
from llamune.store.errors import StoreError, UnknownModelError
from llamune.store.models import Model, model_of_name
from llamune.store.names import ModelName
from llamune.store.places import search_path
from llamune.store.stores import Store

__all__ = ["find_stored", "is_stored", "resolve", "unreadable"]

LOOKS_LIKE_PATH = re.compile(r"(\.{0,2}[/\\])|~|[A-Za-z]:[/\\]|\.{1,2}$|.*\.gguf$", re.IGNORECASE)


def resolve(ref: str, *, stores: Sequence[Store] | None = None) -> Model:
    """Return the model that a reference stands for.

    Args:
        ref: a name, a path to a GGUF file (or the first of its shards), or a folder with one.
        stores: where names are looked up; default `search_path()`.

    Raises:
        UnknownModelError: nothing is there; the hint names what comes nearest.
        StoreError: the reference is empty, or a folder holds several models.
        DamagedError: what is there breaks a rule of the store format.
        UnsupportedError: what is there is a model in another format.
    """
    if not ref.strip() or "\0" in ref:
        raise StoreError("the model reference is empty or holds a NUL character")
    if LOOKS_LIKE_PATH.match(ref):
        return model_of_path(Path(ref).expanduser(), ref=ref)
    places = search_path() if stores is None else stores
    name = ModelName.maybe(ref)
    holders = [store for store in places if name is not None and store.holds(name)]
    path = Path(ref)
    if name is None or not holders:
        if is_there(path):
            return model_of_path(path, ref=ref)
        raise unknown(ref, places)
    model = model_of_name(holders[0], name, ref=ref)
    return replace(model, notes=notes_on(model, holders, path))


def is_stored(ref: str) -> bool:
    """Whether a reference is read as a name that a store holds, not as a path."""
    name = None if LOOKS_LIKE_PATH.match(ref) else ModelName.maybe(ref)
    return name is not None and any(store.holds(name) for store in search_path())


def is_there(path: Path) -> bool:
    """Whether something lies at `path`; what no file system could hold is not there."""
    return os.path.exists(path)  # noqa: PTH110  Path.exists raises on over-long names


def find_stored(ref: str, *, stores: Sequence[Store]) -> tuple[Store, ModelName]:
    """Return where a name is stored, whatever the state of its blobs.

    Raises:
        UnknownModelError: no store that may be read has it.
    """
    name = ModelName.parse(ref)
    for store in stores:
        if store.holds(name):
            return store, store.find(name) or name
    raise unknown(ref, stores)


def notes_on(model: Model, holders: Sequence[Store], path: Path) -> tuple[str, ...]:
    """Say how an ambiguous reference was understood."""
    notes = []
    if len(holders) > 1:
        others = ", ".join(f"{store.label} ({store.root})" for store in holders[1:])
        notes.append(f"{model} is taken from {holders[0].label}; it is also in {others}")
    if is_there(path):
        notes.append(f"{model} is taken from {holders[0].label}; write ./{path} for the path")
    return tuple(notes)


def unknown(ref: str, places: Sequence[Store]) -> UnknownModelError:
    """Return the error for a reference that nothing answers to."""
    known = [str(name) for store in places for name in readable_names(store)]
    near = difflib.get_close_matches(ref, known, n=3) or difflib.get_close_matches(
        ref, [name.partition(":")[0] for name in known], n=3
    )
    closed = [f"{store.root} ({why})" for store, why in unreadable(places)]
    where = ", ".join(str(store.root) for store in places if store.root.is_dir()) or "no store yet"
    message = f"{ref}: no model of that name and no such file (looked in: {where})"
    if closed:
        message += f"; could not look in {', '.join(closed)}"
    if ref in ("starter", "starter:latest"):
        hint = "fetch it first: llamune pull starter"
    elif near:
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?"
    else:
        hint = "llamune models lists what is here; llamune pull NAME fetches a model"
    return UnknownModelError(message, hint=hint)


def readable_names(store: Store) -> list[ModelName]:
    """Return the names in a store, none when it may not be read."""
    try:
        return store.names()
    except PermissionError:
        return []


def unreadable(places: Sequence[Store]) -> list[tuple[Store, str]]:
    """Return the stores that are there but may not be read, with the reason."""
    found = []
    for store in places:
        try:
            store.names()
        except PermissionError as error:
            found.append((store, f"{error.strerror}: {error.filename}"))
    return found


def model_of_path(path: Path, *, ref: str) -> Model:
    """Return the model in a file or folder."""
    if path.is_dir():
        return model_of_folder(path, ref=ref)
    if not is_there(path):
        raise UnknownModelError(f"{path}: no such file", hint="llamune models lists stored models")
    if not path.is_file():
        raise StoreError(f"{path}: not a regular file")
    return Model(ref=ref, paths=shards_of(path))


def model_of_folder(folder: Path, *, ref: str) -> Model:
    """Return the one model in a folder.

    Raises:
        StoreError: there is none, or more than one.
        UnsupportedError: it is a transformers model or a PEFT adapter.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    firsts = sorted({shards_of(path)[0] for path in files if path.is_file()})
    models = [path for path in firsts if "mmproj" not in path.name.lower()]
    if len(models) == 1:
        return Model(ref=ref, paths=shards_of(models[0]))
    if len(models) > 1:
        names = ", ".join(path.name for path in models[:5])
        raise StoreError(f"{folder}: holds {len(models)} models: {names}", hint="name one of them")
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedError(
            f"{folder}: is a PEFT adapter, not a model",
            hint="llamune adapter import takes it in beside its base",
        )
    if (folder / "config.json").is_file():
        raise UnsupportedError(
            f"{folder}: is a transformers model, not a GGUF file",
            hint="llamune convert writes a GGUF from it",
        )
    raise UnknownModelError(f"{folder}: no GGUF file in this folder")


def shards_of(path: Path) -> tuple[Path, ...]:
    """Return all shards of a split file in order; a file that is not split stands alone.

    Raises:
        StoreError: a shard is missing.
        GgufError: the count in the name is absurd.
    """
    shards = tuple(shard_paths(path))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise StoreError(
            f"{path}: {len(missing)} of {len(shards)} shards missing, first {missing[0]}",
            hint="put all shards into one folder",
        )
    return shards
