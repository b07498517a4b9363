"""Memory of the training process: what is free goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from llamune.train.memory import LARGE_BYTES, resident_bytes, return_free, return_large

ROOT = Path(__file__).parents[2]
PIECE, COUNT = 64 << 10, 2_000  # below what malloc maps by itself


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_is_free_between_pieces_in_use_goes_back() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    pieces = [bytearray(b"x" * PIECE) for _ in range(COUNT)]
    kept = pieces[:: COUNT // 10]  # the heap cannot simply shrink
    full = resident_bytes()
    del pieces
    return_free()
    assert resident_bytes() < full - COUNT * PIECE // 2
    assert all(piece[0] == ord("x") for piece in kept)


def still_held(*, asked: bool) -> int:
    """Allocate and free large pieces with small ones between; return the most that stayed."""
    if asked:
        return_large(512)
    kept, most = [], 0
    for _ in range(3):  # glibc by itself keeps what it has seen freed once
        before = resident_bytes()
        pieces = []
        for _ in range(3):
            pieces.append(bytearray(LARGE_BYTES))
            pieces[-1][:] = b"x" * LARGE_BYTES
            kept.append(bytearray(b"x" * PIECE))  # the heap cannot simply shrink
        del pieces
        most = max(most, resident_bytes() - before)
    return most


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_large_pieces_go_back_as_soon_as_they_are_freed() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    held = {}
    for asked in (False, True):  # a heap of its own: this one has room from the tests before
        code = f"from tests.train.test_memory import still_held; print(still_held(asked={asked}))"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        held[asked] = int(done.stdout)
    assert held[True] < LARGE_BYTES < held[False]
