"""What an optimizer remembers of each weight's gradients, in a hundredth of a byte or in two bytes.

`Factored` keeps the mean square of each row and each column (Adafactor without momentum,
arXiv:1804.04235); `EightBit` keeps AdamW's two moments in blocks of 8-bit numbers with a scale
each (after arXiv:2110.02861); `Single` keeps the mean square of each number, for norms and biases.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from llamune.nn import uniform
from llamune.train.packed_file import row_slices

__all__ = ["EightBit", "Factored", "Moments", "Single"]

SMALLEST_SQUARE = 1e-30  # added to squared gradients, so that a zero divides nothing
FORGETTING_POWER = 0.8  # the share of the past is 1 - step ** -0.8
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch's AdamW
BLOCK_SIZES = (256, 128, 64, 32)  # 8-bit numbers a scale
FIRST_LEVELS, SECOND_LEVELS = 127, 255
SMALLEST_SCALE = 1e-28  # over 255⁴ it is still a normal number
SLICE_ELEMENTS = 1 << 18  # forty passes over some arrays of it: they stay in a core's own cache


class Moments(Protocol):
    """The memory of one weight's gradients."""

    def direction(self, gradient: Tensor, *, step: int, key: tuple[int, ...]) -> Tensor:
        """Return where the weight should go, of about unit size; uses the gradient's memory.

        Args:
            gradient: f32, of the weight's shape.
            step: optimizer step, 1 is the first.
            key: of random numbers that are drawn.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what must be saved, the very tensors: loading writes into them."""
        ...


def past_share(step: int) -> float:
    """Return how much of a second moment stays at a step."""
    return 1.0 - math.pow(step, -FORGETTING_POWER)


class Factored:
    """A row and a column of mean squares for a whole matrix.

    Args:
        shape: (rows, columns) of the weight.
        device: where it lives.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.rows = torch.zeros(shape[0], device=device)
        self.columns = torch.zeros(shape[1], device=device)

    def direction(self, gradient: Tensor, *, step: int, key: tuple[int, ...]) -> Tensor:
        """Return the gradient over the root of (row × column / mean). Source: Adafactor, alg. 4."""
        del key  # nothing is drawn
        new = 1.0 - past_share(step)
        for kept, dim in ((self.rows, 1), (self.columns, 0)):
            squares = torch.linalg.vector_norm(gradient, dim=dim).square_()
            kept.lerp_(squares / gradient.shape[dim] + SMALLEST_SQUARE, new)
        by_row = (self.rows / self.rows.mean()).rsqrt_().unsqueeze(1)
        return gradient.mul_(by_row).mul_(self.columns.rsqrt())

    def tensors(self) -> dict[str, Tensor]:
        """Return rows and columns."""
        return {"rows": self.rows, "columns": self.columns}


class Single:
    """A mean square for each number.

    Args:
        shape: of the parameter.
        device: where it lives.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.squares = torch.zeros(shape, device=device)

    def direction(self, gradient: Tensor, *, step: int, key: tuple[int, ...]) -> Tensor:
        """Return the gradient over the root of its mean square."""
        del key  # nothing is drawn
        self.squares.lerp_(gradient.square() + SMALLEST_SQUARE, 1.0 - past_share(step))
        return gradient.mul_(self.squares.rsqrt())

    def tensors(self) -> dict[str, Tensor]:
        """Return the mean squares."""
        return {"squares": self.squares}


class EightBit:
    """AdamW's two moments as 8-bit numbers.

    Numbers lie closer where they are small: the first moment is kept by its root, the second by
    its fourth root. Both are rounded at random, so that a mean over a thousand steps moves though
    each step changes it by less than one level.

    Args:
        shape: (rows, columns) of the weight.
        device: where it lives.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        n_rows, n_columns = shape
        self.block = next((size for size in BLOCK_SIZES if n_columns % size == 0), n_columns)
        n_blocks = n_columns // self.block
        self.first = torch.zeros(shape, dtype=torch.int8, device=device)
        self.second = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.first_scales = torch.zeros((n_rows, n_blocks), device=device)
        self.second_scales = torch.zeros((n_rows, n_blocks), device=device)

    def direction(self, gradient: Tensor, *, step: int, key: tuple[int, ...]) -> Tensor:
        """Return the first moment over the root of the second, both without their start's bias."""
        for start, stop in row_slices(*gradient.shape, n_elements=SLICE_ELEMENTS):
            part = gradient[start:stop].view(stop - start, -1, self.block)
            rows = slice(start, stop)
            noise = uniform(
                (stop - start, gradient.shape[1]), key=(*key, start), device=part.device
            )
            noise = noise.view(part.shape)
            first = self.first_moment(rows, part.shape).lerp_(part, 1 - BETA_1)
            second = self.second_moment(rows, part.shape).lerp_(part.square_(), 1 - BETA_2)
            self.keep_first(rows, first, noise)
            self.keep_second(rows, second, noise)
            root = second.div_(1 - BETA_2**step).sqrt_().add_(EPSILON)
            torch.div(first.div_(1 - BETA_1**step), root, out=part)
        return gradient

    def first_moment(self, rows: slice, shape: torch.Size) -> Tensor:
        """Return the mean gradient, (rows, blocks, block)."""
        level = self.first[rows].view(shape).float()
        return level.mul_(level.abs()).mul_(self.first_scales[rows].unsqueeze(2) / FIRST_LEVELS**2)

    def second_moment(self, rows: slice, shape: torch.Size) -> Tensor:
        """Return the mean square, (rows, blocks, block)."""
        level = self.second[rows].view(shape).float().square_().square_()
        return level.mul_(self.second_scales[rows].unsqueeze(2) / SECOND_LEVELS**4)

    def keep_first(self, rows: slice, values: Tensor, noise: Tensor) -> None:
        """Store the mean gradient: sign and root, rounded so that the mean is the value."""
        sizes = values.abs()
        self.first_scales[rows] = sizes.amax(dim=2)
        square = sizes.div_(units(self.first_scales[rows], FIRST_LEVELS**2))
        below = square.sqrt().floor_()
        border = torch.add(below, noise, alpha=2).mul_(below).add_(noise)  # b² + noise (2 b + 1)
        level = below.add_(square.gt_(border)).clamp_(max=FIRST_LEVELS)
        self.first[rows] = level.copysign_(values).to(torch.int8).flatten(1)

    def keep_second(self, rows: slice, values: Tensor, noise: Tensor) -> None:
        """Store the mean square: its fourth root, and never 0, by which a step would be divided."""
        self.second_scales[rows] = values.amax(dim=2)
        power = values / units(self.second_scales[rows], SECOND_LEVELS**4)
        below = power.sqrt().sqrt_().floor_()
        border = below.square().square_().lerp_((below + 1).square_().square_(), noise)
        level = below.add_(power.gt_(border)).clamp_(1, SECOND_LEVELS)
        self.second[rows] = level.to(torch.uint8).flatten(1)

    def tensors(self) -> dict[str, Tensor]:
        """Return levels and scales."""
        return {
            "first": self.first,
            "second": self.second,
            "first_scales": self.first_scales,
            "second_scales": self.second_scales,
        }


def units(scales: Tensor, levels: int) -> Tensor:
    """Return what the largest numbers of blocks are divided by to be a number of levels."""
    return scales.clamp(min=SMALLEST_SCALE).div_(levels).unsqueeze(2)
