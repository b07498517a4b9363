"""Rounding at random into blocks: nothing moves that should not, and the mean is the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.errors import UnsupportedError
from llamune.gguf import floats_to_rows, quant_type, rows_to_floats
from llamune.nn import KEEP_TYPES, repack, require_keep_type, rounding_variance, steps_of, uniform

CPU = torch.device("cpu")
SHAPE = (4, 512)


def packed_rows(kind: str, *, scale: float = 0.1, seed: int = 0) -> torch.Tensor:
    rows = np.random.default_rng(seed).normal(scale=scale, size=SHAPE).astype(np.float32)
    return torch.from_numpy(floats_to_rows(rows, quant_type(kind)).copy())


def floats(packed: torch.Tensor, kind: str) -> torch.Tensor:
    """What ggml makes of the blocks: the judge of what was written."""
    return torch.from_numpy(rows_to_floats(packed.numpy(), quant_type(kind)))


@pytest.mark.parametrize("kind", KEEP_TYPES)
def test_weights_that_do_not_move_stay_to_the_byte(kind: str) -> None:
    packed = packed_rows(kind)
    before = packed.clone()
    for step in range(3):
        repack(packed, floats(packed, kind), kind, uniform(SHAPE, key=(step,), device=CPU))
    assert torch.equal(packed, before)


@pytest.mark.parametrize("kind", KEEP_TYPES)
def test_the_mean_over_seeds_is_the_value(kind: str) -> None:
    n_seeds = 2000
    packed = packed_rows(kind)
    moves = torch.from_numpy(np.random.default_rng(1).normal(scale=3e-3, size=SHAPE)).float()
    wanted = floats(packed, kind) + moves
    total, squares = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE)
    for seed in range(n_seeds):
        rounded = packed.clone()
        repack(rounded, wanted.clone(), kind, uniform(SHAPE, key=(7, seed), device=CPU))
        error = floats(rounded, kind) - wanted
        total += error
        squares += error.square()
    variance = rounding_variance(rounded, wanted, kind)
    standard_error = (variance / n_seeds).sqrt().clamp(min=1e-9)
    scores = (total / n_seeds) / standard_error
    # 2,048 standard normal numbers: beyond 5 once in a thousand such tests
    assert float(scores.abs().max()) < 5
    assert float(scores.std()) == pytest.approx(1.0, abs=0.1)
    assert float((squares / n_seeds).mean() / variance.mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("kind", KEEP_TYPES)
@settings(max_examples=30)
@given(
    scale=st.floats(1e-4, 10.0), growth=st.floats(0.1, 50.0), seed=st.integers(0, 1000)
)  # fmt: skip
def test_no_value_is_further_off_than_its_step(
    kind: str, scale: float, growth: float, seed: int
) -> None:
    packed = packed_rows(kind, scale=scale, seed=seed)
    wanted = floats(packed, kind) * growth
    repack(packed, wanted.clone(), kind, uniform(SHAPE, key=(seed,), device=CPU))
    off = (floats(packed, kind) - wanted).abs()
    # BF16's step is that of the number written, which may be the next power of two
    assert bool((off <= steps_of(packed, kind) * (1 + 1e-5)).all())


@pytest.mark.parametrize("kind", KEEP_TYPES)
def test_blocks_of_zeros_take_values(kind: str) -> None:
    packed = torch.from_numpy(floats_to_rows(np.zeros(SHAPE, np.float32), quant_type(kind)).copy())
    wanted = torch.full(SHAPE, 0.01)
    repack(packed, wanted, kind, uniform(SHAPE, key=(0,), device=CPU))
    assert float(floats(packed, kind).mean()) == pytest.approx(0.01, rel=0.02)


def test_the_same_key_gives_the_same_numbers() -> None:
    first, again = (uniform(SHAPE, key=(3, 1, 4), device=CPU) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, uniform(SHAPE, key=(3, 1, 5), device=CPU))


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="Q4_K blocks"):
        require_keep_type("Q4_K")
