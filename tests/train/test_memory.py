"""Memory of the training process: what is free goes back to the system."""

from __future__ import annotations

import ctypes
import sys

import pytest

from llamune.train.memory import resident_bytes, return_free

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
