"""How fast this machine's memory and disk are, and whether other programs disturb a trial.

Each measurement takes about a second and is kept in `machine.json` by `measure`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from llamune.runs import machine

__all__ = ["DiskSpeed", "Others", "disk_speed", "measure_disk", "measure_memory", "memory_speed"]

MEMORY_BYTES = 512 << 20  # several times the largest cache
DISK_BYTES = 256 << 20
CHUNK_BYTES = 4 << 20
PASSES = 3
F_NOCACHE = 48  # fcntl(2) on macOS: read and write past the cache
FREE_SHARE = 0.85  # of the cores that a trial uses: with less, it measured other programs too


@dataclass(frozen=True, kw_only=True)
class DiskSpeed:
    """What a disk does with a large file; bytes a second.

    Args:
        read: first reading, nothing of it in memory.
        write: writing, until it is on the disk.
    """

    read: float
    write: float


class Others:
    """Watches from its making on how many cores other programs take."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.all_before, self.own_before = busy_seconds(), own_seconds()

    @property
    def cores(self) -> float:
        """Cores that other programs have taken on average since."""
        elapsed = time.monotonic() - self.began
        if elapsed <= 0:
            return 0.0
        others = (busy_seconds() - self.all_before) - (own_seconds() - self.own_before)
        return max(0.0, others) / elapsed

    def disturbed(self, n_threads: int) -> bool:
        """Whether they left less than a trial with so many threads wants."""
        free = (psutil.cpu_count() or 1) - self.cores
        return free < FREE_SHARE * n_threads


def busy_seconds() -> float:
    """Return the processor seconds that all programs have taken since the system started."""
    spent = psutil.cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0)
    guests = getattr(spent, "guest", 0.0) + getattr(spent, "guest_nice", 0.0)  # in user already
    return float(sum(spent) - idle - guests)


def own_seconds() -> float:
    """Return the processor seconds of this process."""
    spent = psutil.Process().cpu_times()
    return float(spent.user + spent.system)


def measure_memory() -> float:
    """Return the bytes a second that all cores together read from memory, and keep it."""
    import numpy as np  # slow to import: not for every command

    n_threads = psutil.cpu_count(logical=False) or 1
    whole = np.ones(MEMORY_BYTES, dtype=np.uint8)
    parts = np.array_split(whole, n_threads)
    best = float("inf")
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(PASSES):
            start = time.perf_counter()
            # the largest byte: one instruction a 32 bytes, so that memory is what one waits for
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - start)
    speed = MEMORY_BYTES / best
    machine.remember("memory", "read", {"bytes_per_second": round(speed), "threads": n_threads})
    return speed


def memory_speed() -> float | None:
    """Return what `measure_memory` found on this machine, or None before it ran."""
    known = machine.recall("memory", "read")
    return float(known["bytes_per_second"]) if known else None


def measure_disk(folder: Path) -> DiskSpeed | None:
    """Return what the disk under a folder does with a file of 256 MiB, and keep it.

    Returns:
        None where the file cannot be kept out of memory (Windows), or where there is no room:
        what would be measured is the system's cache.
    """
    import numpy as np

    if not hasattr(os, "posix_fadvise") and sys.platform != "darwin":
        return None
    folder.mkdir(parents=True, exist_ok=True)
    block = np.random.default_rng(0).bytes(CHUNK_BYTES)  # nothing that a disk could compress
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as scratch:
            past_cache(scratch.fileno())
            start = time.perf_counter()
            for _ in range(DISK_BYTES // CHUNK_BYTES):
                scratch.write(block)
            os.fsync(scratch.fileno())
            written = time.perf_counter()
            past_cache(scratch.fileno())
            scratch.seek(0)
            began = time.perf_counter()
            while scratch.read(CHUNK_BYTES):
                pass
            read = time.perf_counter()
    except OSError:  # no room, or no right to write
        return None
    speed = DiskSpeed(read=DISK_BYTES / (read - began), write=DISK_BYTES / (written - start))
    machine.remember("disk", disk_key(folder), asdict(speed))
    return speed


def past_cache(descriptor: int) -> None:
    """Have the system forget what it keeps of a file, or not keep it."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(descriptor, F_NOCACHE, 1)
    else:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def disk_speed(folder: Path) -> DiskSpeed | None:
    """Return what `measure_disk` found for the disk under a folder, or None before it ran."""
    known = machine.recall("disk", disk_key(folder))
    return DiskSpeed(**known) if known else None


def disk_key(folder: Path) -> str:
    """Return which disk a folder lies on, as far as the system tells."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"device {folder.stat().st_dev}"
