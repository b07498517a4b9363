"""One lock a library, so that cleaning up never runs beside a publish.

Other programs' stores have no lock; there the order of writes and an hour of grace protect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]

LOCK_FILE = "llamune.lock"


@contextmanager
def locked(root: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the store's lock; it is released when the process ends, however it ends.

    Args:
        root: the store's folder.
        exclusive: for deleting; publishing shares the lock with other publishers.
    """
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        take(handle, exclusive=exclusive)
        yield
    finally:
        os.close(handle)


if sys.platform == "win32":  # no shared locks there: everybody takes turns
    import msvcrt

    def take(handle: int, *, exclusive: bool) -> None:
        """Wait for the lock."""
        _ = exclusive
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
            except OSError:  # gave up after ten tries a second apart
                continue
            return

else:
    import fcntl

    def take(handle: int, *, exclusive: bool) -> None:
        """Wait for the lock."""
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
