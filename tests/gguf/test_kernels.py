"""Rows to floats and back, bit for bit as libgguf (another build of ggml) does."""

from __future__ import annotations

from collections.abc import Iterable

import libgguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import (
    QUANT_TYPES,
    QuantType,
    floats_to_rows,
    needs_importance,
    quant_type,
    rows_are_finite,
    rows_to_floats,
)

UNPACK_ONLY = {"Q8_1", "Q8_K", "F64", "I8", "I16", "I32", "I64"}
PACKABLE = [kind for kind in QUANT_TYPES.values() if kind.name not in UNPACK_ONLY]
JUDGED = [kind for kind in PACKABLE if libgguf.row_size(kind.id, kind.block_size) > 0]
SLOW_TABLES = ("IQ1", "IQ2")  # ggml works out their grids for seconds, once a process


def each(kinds: Iterable[QuantType]) -> list[object]:
    """Return the types as parameters, those that take seconds to begin marked so."""
    return [
        pytest.param(kind, marks=[pytest.mark.slow] if kind.name.startswith(SLOW_TABLES) else [])
        for kind in kinds
    ]


def weights(rows: int, columns: int, *, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    floats = chance.standard_normal((rows, columns)) * chance.uniform(1e-3, 1, (rows, 1))
    floats[0, :3] = (0, 1e-30, -1e-30)
    floats[1] = 0
    return floats.astype(np.float32)


def importance(columns: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.01, 10, columns).astype(np.float32)


def test_the_judge_covers_every_type_but_the_newest() -> None:
    assert {kind.name for kind in PACKABLE} - {kind.name for kind in JUDGED} <= {"Q2_0"}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", each(JUDGED), ids=str)
def test_packing_equals_the_judge(kind, weighted: bool) -> None:
    if needs_importance(kind) and not weighted:
        pytest.skip("needs an importance matrix")
    floats = weights(6, 1024)
    matrix = importance(1024) if weighted else None
    ours = floats_to_rows(floats, kind, matrix)
    theirs = libgguf.quantize_rows(floats, kind.id, matrix)
    assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes()
    assert ours.shape == (6, kind.row_bytes(1024))


@pytest.mark.parametrize("kind", [kind for kind in JUDGED if kind.is_quantized], ids=str)
def test_unpacking_equals_the_judge(kind) -> None:
    packed = np.random.default_rng(4).integers(0, 256, (5, kind.row_bytes(768)), np.uint8)
    theirs = libgguf.dequantize_rows(packed, kind.id)
    assert np.array_equal(rows_to_floats(packed, kind), theirs, equal_nan=True)


@pytest.mark.parametrize("kind", each([*PACKABLE, quant_type("F64"), quant_type("I16")]), ids=str)
def test_threads_change_nothing(kind) -> None:
    chance = np.random.default_rng(3)
    if kind.name in UNPACK_ONLY:
        packed = chance.integers(0, 64, (300, kind.row_bytes(512)), np.uint8)
    else:
        floats = weights(300, 512)
        packed = floats_to_rows(floats, kind, importance(512), threads=1)
        again = floats_to_rows(floats, kind, importance(512), threads=3)
        assert np.array_equal(packed, again)
    assert np.array_equal(
        rows_to_floats(packed, kind, threads=1), rows_to_floats(packed, kind, threads=3)
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("F32", "<f4"), ("F16", "<f2"), ("F64", "<f8"), ("I8", "i1"), ("I16", "<i2"), ("I32", "<i4")],
)
def test_numbers_stored_one_by_one_unpack_as_numpy_reads_them(name: str, dtype: str) -> None:
    numbers = np.array([[1, -2, 3], [100, 0, -7]], dtype)
    packed = numbers.view(np.uint8)
    assert np.array_equal(rows_to_floats(packed, quant_type(name)), numbers.astype(np.float32))


@settings(max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=32, max_size=32))
def test_sixteen_bit_floats_round_as_the_judges_do(values: list[float]) -> None:
    floats = np.array([values], np.float32)
    half = floats_to_rows(floats, quant_type("F16"))
    with np.errstate(over="ignore"):
        assert half.tobytes() == floats.astype(np.float16).tobytes()
    brain = floats_to_rows(floats, quant_type("BF16"))
    assert brain.tobytes() == libgguf.quantize_rows(floats, 30).tobytes()


def test_rows_of_a_slice_are_taken_in_order() -> None:
    floats = weights(8, 64)
    kind = quant_type("Q8_0")
    packed = floats_to_rows(floats, kind)
    assert np.array_equal(floats_to_rows(floats[::2], kind), packed[::2])
    assert np.array_equal(rows_to_floats(packed[::-1], kind), rows_to_floats(packed, kind)[::-1])


def test_nothing_in_gives_nothing_out() -> None:
    kind = quant_type("Q4_0")
    assert floats_to_rows(np.empty((0, 64), np.float32), kind).shape == (0, 36)
    assert rows_to_floats(np.empty((0, 36), np.uint8), kind).shape == (0, 64)


def test_what_cannot_be_done_is_refused() -> None:
    floats = weights(2, 96)
    with pytest.raises(LlamuneError, match="not whole Q4_K blocks"):
        floats_to_rows(floats, quant_type("Q4_K"))
    with pytest.raises(LlamuneError, match="not whole Q4_0 blocks"):
        rows_to_floats(np.zeros((2, 19), np.uint8), quant_type("Q4_0"))
    for name in UNPACK_ONLY:
        with pytest.raises(UnsupportedError, match=f"into {name}"):
            floats_to_rows(weights(2, 256), quant_type(name))
    with pytest.raises(LlamuneError, match="IQ1_S needs an importance matrix"):
        floats_to_rows(weights(2, 256), quant_type("IQ1_S"))
    with pytest.raises(LlamuneError, match="importance matrix has shape"):
        floats_to_rows(weights(2, 256), quant_type("IQ1_S"), importance(255))
    with pytest.raises(UnsupportedError, match="unpacks Q8_1"):
        rows_to_floats(np.zeros((1, 36), np.uint8), quant_type("Q8_1"))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_K", "IQ4_XS"])
def test_scales_that_are_not_numbers_are_noticed(name: str) -> None:
    kind = quant_type(name)
    packed = floats_to_rows(weights(2, 256), kind)
    assert rows_are_finite(packed, kind)
    packed[1, : kind.block_bytes][:4] = 0xFF
    assert not rows_are_finite(packed, kind)
