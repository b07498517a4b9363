"""A package to a model hub."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamune.errors import LlamuneError
from llamune.package import PackageError, verify_package

__all__ = ["upload"]

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def upload(
    folder: Path, repository: str, *, dry_run: bool = False, private: bool = False
) -> Mapping[str, int]:
    """Send a package to a model hub.

    Args:
        folder: a folder that `package` made; it is verified first.
        repository: `USER/REPO`.
        dry_run: send nothing.
        private: whether a new repository is private.

    Returns:
        Bytes by path inside the package, of what goes.

    Raises:
        PackageError: the package is damaged.
        LlamuneError: the name is no repository, the hub refuses, or it cannot be reached.
    """
    if not REPOSITORY.fullmatch(repository):
        raise LlamuneError(f"{repository!r} is no repository", hint="USER/REPO")
    found = verify_package(folder)
    if found.faults:
        raise PackageError(
            f"{folder}: {found.faults[0]}", hint="`llamune package verify DIR` lists every fault"
        )
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    if not dry_run:
        send(folder, repository, private=private)
    return sizes


def send(folder: Path, repository: str, *, private: bool) -> None:
    """Create the repository where it is missing, and commit the folder to it."""
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise LlamuneError(
            "uploading needs the package `huggingface_hub`", hint="pip install 'llamune[train]'"
        ) from error
    faults = (hub.errors.HfHubHTTPError, OSError, ValueError)
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Package made by llamune"
        )
    except faults as error:
        line = " ".join(str(error).split())[:300]
        raise LlamuneError(
            f"{repository}: the hub did not take it: {line}",
            hint="log in with `hf auth login`, and check the name",
        ) from error
