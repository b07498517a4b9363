"""Putting a model's file where other programs look for it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llamune.files import refuse_existing, sync_folder
from llamune.store import media_types
from llamune.store.errors import ExistsError, StoreError
from llamune.store.manifests import NewLayer
from llamune.store.models import Model, model_of_name
from llamune.store.names import DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from llamune.store.ollama import Ollama
from llamune.store.places import ollama_store
from llamune.store.publishing import carried_layers, config_of, layers_of
from llamune.store.stores import Advance, Store, copy_and_hash, share

__all__ = [
    "Placed",
    "check_place",
    "lmstudio_folder",
    "needs_merge",
    "place_file",
    "place_in_lmstudio",
    "place_in_ollama",
]

MAX_SETTINGS_BYTES = 1 << 20
REPLACE_HINT = "choose another name with --as, or replace it with --replace"


@dataclass(frozen=True)
class Placed:
    """Where a model was put.

    Args:
        where: a path, or the name in the program.
        how: in words.
        digest: of the file that the program keeps, where it is known.
    """

    where: str
    how: str
    digest: str | None = None


def needs_merge(model: Model, *, target: str) -> bool:
    """Whether a model's adapter must be merged before it can go somewhere.

    Args:
        model: the model.
        target: `ollama` (asked for its version when it runs), `lmstudio`, or a path.
    """
    if not model.adapters:
        return False
    if target != "ollama" or len(model.adapters) > 1:
        return True
    server = Ollama.find()
    if server is None:
        return True
    with server:
        return not server.takes_adapters


def check_place(target: str, name: ModelName, *, replace: bool) -> None:
    """Refuse what a place would refuse, before the work that makes the model rather than after it.

    Args:
        target: `ollama`, `lmstudio`, or a path.
        name: under which the model will appear.
        replace: whether what has that name there may be replaced.

    Raises:
        ExistsError: the name is taken in Ollama.
        LlamuneError: a file is there already.
        StoreError: no server of Ollama answers, and its store cannot be written to.
    """
    if target != "ollama":
        path = lmstudio_path(name) if target == "lmstudio" else file_at(Path(target), name)
        refuse_existing(path, replace=replace)
        return
    server = Ollama.find()
    if server is None:
        writable_store().free_name(name, replace=replace)
        return
    with server:
        refuse_taken(server, name, replace=replace)


def place_in_ollama(
    model: Model,
    name: ModelName,
    *,
    merged: Path | None = None,
    replace: bool = False,
    advance: Advance | None = None,
    on_status: Callable[[str], object] | None = None,
) -> Placed:
    """Put a model where `ollama run NAME` finds it: through the server, else into its store.

    Args:
        model: the model; with adapters, `merged` is wanted wherever `needs_merge` says so.
        name: under which it appears.
        merged: a file with the adapters folded in.
        replace: whether a model of that name may be replaced.
        advance: called with the number of bytes sent or copied.
        on_status: called with what the server says it is doing.

    Raises:
        ExistsError: the name is taken and `replace` is false.
        OllamaError: the server refuses.
        StoreError: no server answers, and its store cannot be written to.
    """
    server = Ollama.find()
    if server is None:
        return write_into_store(model, name, merged=merged, replace=replace, advance=advance)
    with server:
        refuse_taken(server, name, replace=replace)
        digest = server.create(name, model, merged=merged, advance=advance, on_status=on_status)
        return Placed(str(name), f"Ollama {server.version} at {server.address}", digest)


def refuse_taken(server: Ollama, name: ModelName, *, replace: bool) -> None:
    """Refuse a name that a server has already.

    Raises:
        ExistsError: it has, and it may not be replaced.
    """
    if not replace and server.has(name):
        raise ExistsError(f"{name}: exists already in Ollama", hint=REPLACE_HINT)


def writable_store() -> Store:
    """Return the store that Ollama will use when it starts.

    Raises:
        StoreError: it belongs to somebody else.
    """
    store = ollama_store()
    if not may_write(store.root):
        raise StoreError(
            f"{store.root}: is not ours to write to",
            hint="start Ollama (ollama serve) and publish again: its server does the writing",
        )
    return store


def write_into_store(
    model: Model, name: ModelName, *, merged: Path | None, replace: bool, advance: Advance | None
) -> Placed:
    """Write a model into the store that Ollama will use when it starts."""
    store = writable_store()
    files = [merged] if merged is not None else list(model.paths)
    own = layers_of(model) if merged is None else carried_layers(model)
    new = [NewLayer(media_types.MODEL, merged)] if merged is not None else []
    store.publish(
        name,
        [*new, *own],
        config=config_of(files, model),
        annotations=model.annotations,
        replace=replace,
        advance=advance,
    )
    kept = model_of_name(store, name).digest
    return Placed(str(name), f"written into {store.root}", kept)


def may_write(folder: Path) -> bool:
    """Whether we may write into a store, and what we write will belong to its owner."""
    there = folder
    while not there.exists():
        there = there.parent
    owned = not hasattr(os, "getuid") or there.stat().st_uid == os.getuid()
    return owned and os.access(there, os.W_OK)


def place_in_lmstudio(
    model: Model,
    name: ModelName,
    *,
    merged: Path | None = None,
    replace: bool = False,
    advance: Advance | None = None,
) -> Placed:
    """Put a model's file where LM Studio looks: `<models>/<publisher>/<model>/<file>.gguf`."""
    path = lmstudio_path(name)
    return place_file(model, path, merged=merged, replace=replace, advance=advance)


def lmstudio_path(name: ModelName) -> Path:
    """Return where LM Studio looks for a model of that name."""
    publisher = "llamune" if name.namespace == DEFAULT_NAMESPACE else name.namespace
    stem = file_stem(name)
    return lmstudio_folder() / publisher / stem / f"{stem}.gguf"


def lmstudio_folder() -> Path:
    """Return where LM Studio keeps models: as its settings say, else its usual place."""
    own = Path.home() / ".lmstudio"
    pointer = read_text(Path.home() / ".lmstudio-home-pointer").strip()
    if pointer:
        own = Path(pointer)
    try:
        chosen = json.loads(read_text(own / "settings.json"))["downloadsFolder"]
    except (ValueError, KeyError, TypeError, RecursionError):
        chosen = None
    return Path(chosen) if isinstance(chosen, str) and chosen else own / "models"


def place_file(
    model: Model,
    path: Path,
    *,
    merged: Path | None = None,
    replace: bool = False,
    advance: Advance | None = None,
) -> Placed:
    """Write a model's file somewhere, cloned where the file system can; whole or not at all.

    Args:
        model: the model; an adapter is not written, `merged` is wanted for that.
        path: a file, or a folder that is there.
        merged: a file with the adapters folded in.
        replace: whether a file already there may be replaced.
        advance: called with the number of bytes copied.

    Raises:
        LlamuneError: a file is there and `replace` is false.
    """
    path = file_at(path, model.name or model.path.stem)
    files = [merged] if merged is not None else list(model.paths)
    targets = [path]
    if len(files) > 1:
        targets = [
            path.with_name(f"{path.stem}-{number + 1:05d}-of-{len(files):05d}.gguf")
            for number in range(len(files))
        ]
    for target in targets:
        refuse_existing(target, replace=replace)
    digest = ""
    for source, target in zip(files, targets, strict=True):
        found = write_file(source, target, advance)
        digest = digest or found
    return Placed(str(targets[0]), "written", digest)


def file_at(path: Path, name: ModelName | str) -> Path:
    """Return the file that a path means: itself, or one of the model's name in a folder."""
    if not path.is_dir():
        return path
    return path / f"{name if isinstance(name, str) else file_stem(name)}.gguf"


def write_file(source: Path, target: Path, advance: Advance | None) -> str:
    """Clone or copy a file to its place, whole or not at all, and return its digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        found = share(source, temporary, None, advance)
        if found is None:
            found = copy_and_hash(source, temporary, advance)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def file_stem(name: ModelName) -> str:
    """Return a model's name as a file's, without its ending."""
    return name.model if name.tag == DEFAULT_TAG else f"{name.model}-{name.tag}"


def read_text(path: Path) -> str:
    """Read a small settings file; nothing when it cannot be read."""
    try:
        return path.read_bytes()[:MAX_SETTINGS_BYTES].decode("utf-8", errors="replace")
    except OSError:
        return ""
