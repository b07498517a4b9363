"""Clones (reflinks) on a file system that has them: XFS in a file, mounted for these tests."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamune.cli._main import run
from llamune.store import bytes_to_copy, library, resolve, verify_models
from llamune.store.sharing import clone

pytestmark = [
    pytest.mark.usefixtures("without_system_stores"),
    pytest.mark.skipif(
        shutil.which("mkfs.xfs") is None or os.geteuid() != 0,
        reason="mounting needs root and mkfs.xfs (Debian: apt-get install xfsprogs)",
    ),
]
IMAGE_BYTES = 320 << 20  # mkfs.xfs makes none below 300 MiB; the file is sparse
DATA = random.Random(3).randbytes(8 << 20)


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder on XFS with reflinks."""
    folder = tmp_path_factory.mktemp("xfs")
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    done = subprocess.run(
        ["mount", "-o", "loop", image, mounted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system in a file cannot be mounted here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.fixture
def on_xfs(xfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a fresh folder on XFS; our library lies beside it."""
    folder = xfs / tmp_path.name
    folder.mkdir()
    monkeypatch.setenv("LLAMUNE_HOME", str(folder / "home"))
    return folder


def bytes_used(folder: Path) -> int:
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_a_clone_takes_no_room_and_keeps_its_bytes(on_xfs: Path) -> None:
    path = on_xfs / "file"
    path.write_bytes(DATA)
    before = bytes_used(on_xfs)
    assert clone(path, on_xfs / "clone")
    assert bytes_used(on_xfs) - before < len(DATA) // 8
    path.write_bytes(b"changed")
    assert (on_xfs / "clone").read_bytes() == DATA


def test_a_file_outside_a_store_is_cloned_into_the_library(
    on_xfs: Path, starter_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = on_xfs / "model.gguf"
    shutil.copyfile(starter_path, path)
    before = bytes_used(on_xfs)
    assert bytes_to_copy(resolve(str(path))) == 0
    assert run(["cp", str(path), "mine"]) == 0  # nobody is there to agree to a copy
    assert capsys.readouterr().out == "mine:latest\n"
    assert bytes_used(on_xfs) - before < 8 << 20
    taken = resolve("mine")
    assert not taken.path.samefile(path)
    path.write_bytes(b"changed")
    assert taken.size == starter_path.stat().st_size
    assert verify_models([(library(), name) for name in library().names()]) == []
