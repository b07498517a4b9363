"""Bringing a file's bytes into a store without a second copy, where the file system can.

A hard link shares an immutable blob; a clone (reflink) shares the bytes of any file until one
side changes; a copy costs the whole size, so somebody has to agree to it; a reference is a
symbolic link to where the file lies, which breaks when that file goes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["Sharing", "can_link", "clone", "hard_link"]

Sharing = Literal["link", "copy", "reference"]
"""How far `add_blob` may go: share the bytes or refuse; copy if need be; refer if need be."""

FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
NOT_HERE = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EBADF,
}


def hard_link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system or its owner does not allow it."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno in NOT_HERE:
            return False
        raise
    return True


def clone(source: Path, target: Path) -> bool:
    """Make `target`, a new file, share the bytes of `source`; False where that is not possible."""
    try:
        if sys.platform == "linux":
            clone_on_linux(source, target)
        elif sys.platform == "darwin":
            clone_on_macos(source, target)
        else:
            return False
    except OSError as error:
        if error.errno in NOT_HERE:
            target.unlink(missing_ok=True)
            return False
        raise
    return True


def clone_on_linux(source: Path, target: Path) -> None:
    """Clone with the FICLONE request (btrfs, XFS, bcachefs, overlay on them)."""
    import fcntl

    with source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


def clone_on_macos(source: Path, target: Path) -> None:
    """Clone with clonefile(2) (APFS)."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.clonefile(os.fsencode(source), os.fsencode(target), 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source))


def can_link(source: Path, folder: Path, *, immutable: bool) -> bool:
    """Whether `source` can be shared below `folder` without a copy; leaves no trace.

    Args:
        source: the file.
        folder: where it would be shared; made if missing.
        immutable: whether a hard link would do; a file that may change is only cloned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}.part"
    try:
        return (immutable and hard_link(source, probe)) or clone(source, probe)
    finally:
        probe.unlink(missing_ok=True)
