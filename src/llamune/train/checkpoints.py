"""Checkpoints: folders that appear whole or not at all, with a checksum of every file."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llamune.files import sha256_of, sync_folder

__all__ = [
    "FULL_DISK",
    "checkpoint_folder",
    "checkpoint_steps",
    "keep",
    "newest_sound",
    "sound",
    "writing",
]

CHECKSUMS = "checksums.json"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FREE_ON_A_FULL_DISK_BYTES = 1 << 20  # a last block or two stay free when a write fails
FOLDER = re.compile(r"step-(\d{6,})")


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:06d}"


def checkpoint_steps(checkpoints: Path) -> list[int]:
    """Return the steps that have a checkpoint, lowest first."""
    if not checkpoints.is_dir():
        return []
    found = (FOLDER.fullmatch(entry.name) for entry in checkpoints.iterdir())
    return sorted(int(match[1]) for match in found if match)


@contextmanager
def writing(
    checkpoints: Path, step: int, *, leader: bool = True, barrier: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Yield a folder that becomes the checkpoint of `step` when the block ends without an error.

    Args:
        checkpoints: folder of all checkpoints.
        step: optimizer steps done.
        leader: whether this process makes the folder; the others write into it.
        barrier: waits for all processes.
    """
    final = checkpoint_folder(checkpoints, step)
    scratch = final.with_name(f".{final.name}.part")
    meet = barrier or (lambda: None)
    if leader:
        shutil.rmtree(scratch, ignore_errors=True)  # left by a run that was killed
        scratch.mkdir(parents=True)
    meet()
    try:
        with full_disk_named(scratch):
            yield scratch
            meet()
            if leader:
                seal(scratch)
                if final.exists():  # a resumed run comes by the same step again
                    shutil.rmtree(final)
                scratch.rename(final)
                sync_folder(checkpoints)
        meet()
    finally:
        if leader:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn what libraries say of a full disk, each in its own words, into the system's error.

    Raises:
        OSError: ENOSPC, for a write that failed where no room is left.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:  # torch says only that writing failed
        says_so = any(f"os error {number}" in str(error) for number in FULL_DISK)
        if says_so or shutil.disk_usage(folder).free < FREE_ON_A_FULL_DISK_BYTES:
            raise OSError(errno.ENOSPC, "no room is left", str(folder)) from error
        raise


def seal(folder: Path) -> None:
    """Write the checksums of a folder's files, and make all of it survive a power cut."""
    sums = {}
    for path in sorted(folder.iterdir()):
        sums[path.name] = sha256_of(path)
        sync_file(path)
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2), encoding="utf-8")
    sync_file(folder / CHECKSUMS)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Make the bytes of a file survive a power cut."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sound(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every file is as it was written."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{CHECKSUMS} cannot be read"
    for name, digest in sums.items():
        path = folder / Path(name).name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != digest:
            return f"{name} is damaged"
    return None


def newest_sound(checkpoints: Path, *, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint whose files are as they were written, None without one.

    Args:
        checkpoints: folder of all checkpoints.
        say: called with a line for each damaged one that is passed over.
    """
    for step in reversed(checkpoint_steps(checkpoints)):
        folder = checkpoint_folder(checkpoints, step)
        fault = sound(folder)
        if fault is None:
            return folder
        say(f"{folder}: {fault}: passed over")
    return None


def keep(checkpoints: Path, *, newest: int, best_step: int | None) -> None:
    """Delete checkpoints but the newest few and the best."""
    for step in checkpoint_steps(checkpoints)[:-newest]:
        if step != best_step:
            shutil.rmtree(checkpoint_folder(checkpoints, step))
