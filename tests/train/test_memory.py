"""Memory of the training process: what is free goes back to the system."""

from __future__ import annotations

import ctypes
import sys

import pytest

from llamune.train.memory import LARGE_BYTES, resident_bytes, return_free, return_large

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_large_pieces_go_back_as_soon_as_they_are_freed() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    return_large(512)
    kept = []
    for _ in range(3):  # glibc would by itself keep what it has seen freed once
        pieces = []
        for _ in range(3):
            pieces.append(bytearray(LARGE_BYTES))
            pieces[-1][:] = b"x" * LARGE_BYTES
            kept.append(bytearray(b"x" * PIECE))  # the heap cannot simply shrink
        full = resident_bytes()
        del pieces
        assert resident_bytes() < full - 2 * LARGE_BYTES
    assert all(piece[0] == ord("x") for piece in kept)
