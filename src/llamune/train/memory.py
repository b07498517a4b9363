"""Peak memory of this process, or of the device that trains."""

from __future__ import annotations

import ctypes
import sys
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    import torch

__all__ = ["PeakMemory", "resident_bytes", "return_free", "return_large"]

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)
SECONDS_BETWEEN_LOOKS = 0.05
M_MMAP_THRESHOLD = -3  # mallopt(3)
WIDE = 2048
LARGE_BYTES, LARGE_BYTES_OF_WIDE = 16 << 20, 1 << 20


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


class PeakMemory:
    """Measures the largest memory in use between entering and leaving.

    On a CUDA device: what its allocator reserved. On Linux: the kernel's own high-water mark of
    the resident set, mapped file pages included. Elsewhere a thread looks 20 times a second.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.highest_bytes = 0
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self.on_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        elif not reset_high_water_mark():
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.highest_bytes = self.peak_bytes
        if self.thread is not None:
            self.stop.set()
            self.thread.join()

    @property
    def on_cuda(self) -> bool:
        """Whether a CUDA device's memory is measured."""
        return self.device is not None and self.device.type == "cuda"

    @property
    def peak_bytes(self) -> int:
        """The largest so far."""
        if self.on_cuda:
            import torch

            return int(torch.cuda.max_memory_reserved(self.device))
        if self.thread is None:
            return max(self.highest_bytes, high_water_mark())
        return max(self.highest_bytes, resident_bytes())

    def watch(self) -> None:
        """Look at the resident memory until told to stop."""
        while not self.stop.wait(SECONDS_BETWEEN_LOOKS):
            self.highest_bytes = max(self.highest_bytes, resident_bytes())


def return_large(d_model: int) -> None:
    """Have glibc give large pieces of memory back as soon as they are freed (mallopt(3)).

    Left alone it takes ever larger ones from its heap, which keeps the holes where they were: a
    recomputed step of a 9B model's shapes took 14.9 GB with them, 11.4 GB without. New pages cost
    time. The wider a model, the less of it is theirs: what is computed for a page grows with the
    width. On a narrow one only pieces of 16 MB and more go back.

    Args:
        d_model: width of the model.
    """
    choose = of_glibc("mallopt")
    if choose is not None:
        choose(M_MMAP_THRESHOLD, LARGE_BYTES if d_model < WIDE else LARGE_BYTES_OF_WIDE)


def return_free() -> None:
    """Have glibc give back what is free between pieces in use (malloc_trim(3)).

    Batches of other lengths do not fit the holes that the ones before have left: twenty steps of
    the starter on examples of all lengths grew by a third of a gigabyte.
    """
    trim = of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def of_glibc(name: str) -> Any:
    """Return a function of the C library, or None where it is not there (it is glibc's alone)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def reset_high_water_mark() -> bool:
    """Start the kernel's peak of the resident set anew; False where that cannot be done."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return False
    return high_water_mark() > 0


def high_water_mark() -> int:
    """Return the kernel's peak of the resident set in bytes, or 0 where there is none."""
    try:
        text = STATUS.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
