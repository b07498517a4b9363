"""The levels of each type lie where ggml looks for them."""

from __future__ import annotations

import numpy as np
import pytest

from llamune.calibrate.grids import GRIDS
from llamune.errors import UnsupportedError
from llamune.gguf import floats_to_rows, quant_type, rows_to_floats


@pytest.mark.parametrize("name", GRIDS)
def test_every_level_reads_back_as_scale_times_level_plus_offset(name: str) -> None:
    grid = GRIDS[name]
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.05, (7, 512)).astype(np.float32)
    packed = floats_to_rows(weights, grid.type)
    scale, offset = grid.line(packed, 512)
    levels = rng.integers(0, grid.n_levels, (7, 512)).astype(np.uint8)
    found = rows_to_floats(grid.with_levels(packed, levels), grid.type)
    np.testing.assert_allclose(found, scale * levels + offset, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", GRIDS)
def test_ggmls_own_levels_are_found_again_and_give_the_same_values(name: str) -> None:
    grid = GRIDS[name]
    weights = np.random.default_rng(2).normal(0, 0.05, (5, 256)).astype(np.float32)
    packed = floats_to_rows(weights, grid.type)
    stored = rows_to_floats(packed, grid.type)
    scale, offset = grid.line(packed, 256)
    safe = np.where(scale == 0, 1, scale)
    levels = np.clip(np.rint((stored - offset) / safe), 0, grid.n_levels - 1).astype(np.uint8)
    again = rows_to_floats(grid.with_levels(packed, levels), grid.type)
    np.testing.assert_allclose(again, stored, rtol=1e-5, atol=1e-7)


def test_the_packed_rows_are_left_alone() -> None:
    grid = GRIDS["Q4_K"]
    packed = floats_to_rows(np.ones((1, 256), np.float32), grid.type)
    before = packed.copy()
    grid.with_levels(packed, np.zeros((1, 256), np.uint8))
    np.testing.assert_array_equal(packed, before)


def test_types_without_even_levels_are_refused_by_name() -> None:
    from llamune.calibrate.grids import grid_of

    with pytest.raises(UnsupportedError, match="IQ4_NL"):
        grid_of(quant_type("IQ4_NL"))
