"""Rounding with error compensation: what one column loses, the columns after it make up for.

Source: GPTQ, arXiv:2210.17323, algorithm 1, in the file's column order. The scales of each block
are ggml's own choice on the compensated weights, each column weighted by what its error costs once
later columns have made up for it; then levels are chosen column by column under those scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamune.calibrate.errors import CalibrateError
from llamune.calibrate.grids import grid_of, has_grid
from llamune.gguf import QuantType, floats_to_rows, rows_to_floats

__all__ = ["Inputs", "Rounded", "compensate", "least_errors", "output_errors"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

DAMPINGS = (0.01, 0.1, 1.0)  # of the mean second moment, tried in turn
STRIDE = 32  # columns whose errors are carried on at once, by one matrix product


@dataclass(frozen=True)
class Inputs:
    """What a layer is given, made ready for rounding its weight.

    Args:
        moments: mean of x xᵀ, float32 (columns, columns).
        factor: upper Cholesky factor of the damped moments' inverse; None where there is none.
        damping: what was added to the diagonal, as a share of its mean; 0 without a factor.
    """

    moments: Tensor
    factor: Tensor | None
    damping: float

    @classmethod
    def of(cls, moments: Tensor, *, name: str) -> Inputs:
        """Factor second moments, damped as little as gives a factor.

        A channel that never fired has a row of zeros: damping alone stands there, so that it takes
        no part in the compensation and its weights are rounded by themselves.

        Args:
            moments: mean of x xᵀ, float32 (columns, columns).
            name: the tensors, for messages.

        Raises:
            CalibrateError: NaN or infinity among the moments.
        """
        require_finite(moments, f"{name}: an input")
        mean = moments.diagonal().mean()
        if float(mean) > 0.0:
            for damping in DAMPINGS:
                damped = moments.clone()
                damped.diagonal().add_(damping * mean)
                if (factor := inverse_factor(damped)) is not None:
                    return cls(moments, factor, damping)
        return cls(moments, None, 0.0)

    @property
    def n_dead(self) -> int:
        """How many channels never fired."""
        return int((self.moments.diagonal() == 0).sum())


@dataclass(frozen=True)
class Rounded:
    """Rows rounded two ways; the better one, row by row, is kept.

    Args:
        packed: uint8 (rows, row bytes).
        errors: mean squared error of each output with `packed`, (rows,).
        nearest_errors: the same when every weight is rounded by itself, as ggml does.
        outputs: mean square of each output itself.
    """

    packed: Bytes
    errors: Tensor
    nearest_errors: Tensor
    outputs: Tensor


def compensate(weight: Tensor, inputs: Inputs, kind: QuantType, *, name: str) -> Rounded:
    """Round a weight so that the layer's output changes least.

    Args:
        weight: float32 (rows, columns).
        inputs: what the layer is given.
        kind: how to store it; a type without even levels is rounded to nearest.
        name: the tensor, for messages.

    Returns:
        the packed rows, never worse than rounding to nearest in any row.

    Raises:
        CalibrateError: NaN or infinity among the weights.
    """
    require_finite(weight, f"{name}: a weight")
    moments = inputs.moments
    packed = floats_to_rows(weight.cpu().numpy(), kind)
    nearest_errors = errors = output_errors(weight, packed, kind, moments)
    if inputs.factor is not None and has_grid(kind):
        swept_rows = swept(weight, inputs.factor, kind)
        swept_errors = output_errors(weight, swept_rows, kind, moments)
        better = swept_errors < nearest_errors
        errors = torch.where(better, swept_errors, nearest_errors)
        packed = np.where(better.cpu().numpy()[:, None], swept_rows, packed)
    return Rounded(
        packed=packed,
        errors=errors,
        nearest_errors=nearest_errors,
        outputs=((weight @ moments) * weight).sum(dim=1),
    )


def least_errors(weight: Tensor, inputs: Inputs, kind: QuantType) -> Tensor:
    """Return each row's mean squared output error as `compensate` would leave it, (rows,).

    Cheaper than `compensate`: nothing is kept, and rounding to nearest is tried only where there
    is nothing better.
    """
    if inputs.factor is not None and has_grid(kind):
        packed = swept(weight, inputs.factor, kind)
    else:
        packed = floats_to_rows(weight.cpu().numpy(), kind)
    return output_errors(weight, packed, kind, inputs.moments)


def require_finite(values: Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        CalibrateError: there is one.
    """
    if not bool(torch.isfinite(values).all()):
        raise CalibrateError(f"{what} is not a finite number", hint="llamune inspect --tensor NAME")


def output_errors(weight: Tensor, packed: Bytes, kind: QuantType, moments: Tensor) -> Tensor:
    """Return each row's mean squared output error: diag(E M Eᵀ), E = weight - stored, (rows,)."""
    stored = torch.from_numpy(rows_to_floats(packed, kind)).to(weight.device)
    difference = weight - stored
    return ((difference @ moments) * difference).sum(dim=1)


def inverse_factor(damped: Tensor) -> Tensor | None:
    """Return the upper Cholesky factor of a matrix's inverse, None if float32 gives none."""
    lower, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        return None
    upper: Tensor
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    return None if int(failed) or not bool(torch.isfinite(upper).all()) else upper


def swept(weight: Tensor, factor: Tensor, kind: QuantType) -> Bytes:
    """Round block after block of columns, carrying each error to the columns not yet rounded.

    Args:
        weight: float32 (rows, columns).
        factor: upper triangular (columns, columns), see `Inputs`.
        kind: how to store it.

    Returns:
        uint8 (rows, row bytes).
    """
    grid = grid_of(kind)
    width = kind.block_size
    columns = weight.T.contiguous().clone()  # one column is one contiguous row here
    n_columns, n_rows = columns.shape
    # what an error of each column costs after the columns behind it have made up for it
    costs = factor.diagonal().square().reciprocal().cpu().numpy().astype(np.float32)
    parts = []
    for start in range(0, n_columns, width):
        stop = start + width
        block = columns[start:stop]
        packed = floats_to_rows(
            block.T.contiguous().cpu().numpy(), kind, importance=costs[start:stop]
        )
        scale, offset = (
            torch.from_numpy(part.T.copy()).to(columns) for part in grid.line(packed, width)
        )
        triangle = factor[start:stop, start:stop]
        levels, errors = level_columns(block, triangle, scale, offset, grid.n_levels)
        parts.append(grid.with_levels(packed, levels.T.cpu().numpy()))
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    return np.concatenate(parts, axis=1).reshape(n_rows, -1)


def level_columns(
    block: Tensor, factor: Tensor, scale: Tensor, offset: Tensor, n_levels: int
) -> tuple[Tensor, Tensor]:
    """Choose the levels of one block, column by column.

    Args:
        block: (width, rows), changed in place.
        factor: upper triangular (width, width).
        scale: (width, rows).
        offset: (width, rows).
        n_levels: how many levels there are.

    Returns:
        levels, uint8 (width, rows), and each column's error over its factor, (width, rows).
    """
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    levels = torch.empty_like(block)
    errors = torch.empty_like(block)
    diagonal = factor.diagonal().tolist()
    width = len(block)
    for first in range(0, width, STRIDE):
        last = min(first + STRIDE, width)
        for i in range(first, last):
            level = (block[i] - offset[i]).mul_(inverse[i]).round_().clamp_(0, n_levels - 1)
            levels[i] = level
            stored = torch.addcmul(offset[i], level, scale[i])
            torch.sub(block[i], stored, out=errors[i]).div_(diagonal[i])
            block[i + 1 : last].addr_(factor[i, i + 1 : last], errors[i], alpha=-1)
        block[last:] -= factor[first:last, last:].T @ errors[first:last]
    return levels.to(torch.uint8), errors
