"""Compensated rounding: better outputs at the same bytes, and sane on degenerate inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamune.calibrate.compensate import Inputs, compensate, least_errors, output_errors
from llamune.calibrate.errors import CalibrateError
from llamune.calibrate.grids import GRIDS
from llamune.gguf import floats_to_rows, quant_type, rows_to_floats


def correlated_inputs(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return inputs as layers have them: few directions carry most of the power."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=rng) * (1 / (1 + torch.arange(width)))[:, None]
    return torch.randn(n, width, generator=rng) @ mixing


def moments_of(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


def seen_by(inputs: torch.Tensor) -> Inputs:
    return Inputs.of(moments_of(inputs), name="w")


@pytest.mark.parametrize("name", GRIDS)
def test_outputs_on_fresh_inputs_are_closer_than_with_ggmls_rounding(name: str) -> None:
    kind = quant_type(name)
    weight = torch.randn(48, 512, generator=torch.Generator().manual_seed(3)) * 0.05
    inputs = correlated_inputs(3000, 512)
    seen, fresh = inputs[:2000], inputs[2000:]
    rounded = compensate(weight, seen_by(seen), kind, name="w")
    assert rounded.packed.shape == (48, 512 // kind.block_size * kind.block_bytes)
    nearest = floats_to_rows(weight.numpy(), kind)

    def error(packed: np.ndarray) -> float:
        stored = torch.from_numpy(rows_to_floats(packed, kind))
        return float(((fresh @ (weight - stored).T) ** 2).mean())

    assert error(rounded.packed) < 0.75 * error(nearest)
    assert rounded.errors.sum() < rounded.nearest_errors.sum() < rounded.outputs.sum()


def test_the_reported_error_is_the_outputs_own() -> None:
    kind = quant_type("Q4_0")
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    inputs = correlated_inputs(500, 64)
    rounded = compensate(weight, seen_by(inputs), kind, name="w")
    stored = torch.from_numpy(rows_to_floats(rounded.packed, kind))
    direct = ((inputs @ (weight - stored).T) ** 2).mean(dim=0)
    torch.testing.assert_close(rounded.errors, direct, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(
        rounded.outputs, ((inputs @ weight.T) ** 2).mean(dim=0), rtol=1e-3, atol=1e-6
    )


def test_no_row_gets_worse_than_by_rounding_to_nearest() -> None:
    kind = quant_type("Q4_K")
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    moments = moments_of(correlated_inputs(40, 256))  # far fewer samples than channels
    rounded = compensate(weight, Inputs.of(moments, name="w"), kind, name="w")
    nearest = floats_to_rows(weight.numpy(), kind)
    ours = output_errors(weight, rounded.packed, kind, moments)
    assert bool((ours <= output_errors(weight, nearest, kind, moments) + 1e-9).all())


def test_a_type_without_even_levels_is_rounded_to_nearest() -> None:
    kind = quant_type("IQ4_NL")
    weight = torch.randn(4, 64)
    rounded = compensate(weight, seen_by(correlated_inputs(99, 64)), kind, name="w")
    np.testing.assert_array_equal(rounded.packed, floats_to_rows(weight.numpy(), kind))


def test_without_any_input_it_is_ggmls_rounding() -> None:
    kind = quant_type("Q4_0")
    weight = torch.randn(4, 64)
    nothing = Inputs.of(torch.zeros(64, 64), name="w")
    assert (nothing.factor, nothing.damping, nothing.n_dead) == (None, 0.0, 64)
    rounded = compensate(weight, nothing, kind, name="w")
    np.testing.assert_array_equal(rounded.packed, floats_to_rows(weight.numpy(), kind))


def test_a_dead_channel_keeps_its_weights() -> None:
    kind = quant_type("Q8_0")
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    inputs = correlated_inputs(500, 64)
    inputs[:, 7] = 0
    assert seen_by(inputs).n_dead == 1
    stored = rows_to_floats(compensate(weight, seen_by(inputs), kind, name="w").packed, kind)
    step = np.abs(weight.numpy()).reshape(4, 2, 32).max(axis=2)[:, 0] / 127
    assert np.all(np.abs(stored[:, 7] - weight[:, 7].numpy()) <= 0.75 * step)


@pytest.mark.parametrize("where", ["weight", "moments"])
def test_nan_is_named_and_not_hidden(where: str) -> None:
    weight, moments = torch.randn(4, 64), torch.eye(64)
    (weight if where == "weight" else moments)[0, 0] = float("nan")
    with pytest.raises(CalibrateError, match=r"blk\.0\.attn_q\.weight"):
        inputs = Inputs.of(moments, name="blk.0.attn_q.weight")
        compensate(weight, inputs, quant_type("Q4_0"), name="blk.0.attn_q.weight")


def test_a_matrix_that_is_not_positive_is_damped_until_it_is() -> None:
    moments = moments_of(correlated_inputs(500, 64))
    values, vectors = torch.linalg.eigh(moments.double())
    values[0] = -0.05 * values.mean()  # as rounding of float32 sums can leave it
    broken = ((vectors * values) @ vectors.T).float()
    inputs = Inputs.of(broken, name="w")
    assert inputs.damping == 0.1
    assert inputs.factor is not None
    values[0] = -5 * values.mean()
    hopeless = Inputs.of(((vectors * values) @ vectors.T).float(), name="w")
    assert hopeless.factor is None
    weight, kind = torch.randn(4, 64), quant_type("Q4_0")
    packed = compensate(weight, hopeless, kind, name="w").packed
    np.testing.assert_array_equal(packed, floats_to_rows(weight.numpy(), kind))


def test_errors_can_be_had_without_the_rows() -> None:
    kind = quant_type("Q4_K")
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(4))
    inputs = seen_by(correlated_inputs(2000, 256))
    rounded = compensate(weight, inputs, kind, name="w")
    alone = least_errors(weight, inputs, kind)
    assert bool((alone >= rounded.errors - 1e-9).all())
    assert float(alone.sum()) == pytest.approx(float(rounded.errors.sum()), rel=0.05)
