"""Where the levels of each quant type lie in its bytes.

Every type here stores `value = scale * level + offset`, with a scale and an offset for each run
of 16 or 32 weights. ggml's own quantizer chooses these; a `Grid` says which values the levels
then stand for, and writes other levels under the same scales.

Source: the block structs of ggml-common.h and the dequantize_row functions of ggml-quants.c, read
for the layout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from llamune.errors import UnsupportedError
from llamune.gguf import QuantType, quant_type, rows_to_floats

__all__ = ["GRIDS", "Grid", "grid_of", "has_grid"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

GRIDS: dict[str, Grid] = {}


class Grid(ABC):
    """The levels of one quant type. A subclass with a `name` registers itself."""

    name: ClassVar[str]
    n_levels: ClassVar[int]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            GRIDS[cls.name] = cls()

    @property
    def type(self) -> QuantType:
        """The quant type."""
        return quant_type(self.name)

    @abstractmethod
    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks.

        Args:
            blocks: uint8 (n, block bytes), changed in place.
            levels: uint8 (n, block size), below `n_levels`.
        """

    def with_levels(self, packed: Bytes, levels: Bytes) -> Bytes:
        """Return rows with the same scales and other levels.

        Args:
            packed: uint8 (rows, row bytes).
            levels: uint8 (rows, columns), below `n_levels`.
        """
        kind = self.type
        changed = packed.reshape(-1, kind.block_bytes).copy()
        self.place(changed, np.ascontiguousarray(levels).reshape(-1, kind.block_size))
        return changed.reshape(packed.shape)

    def line(self, packed: Bytes, n_columns: int) -> tuple[Floats, Floats]:
        """Return the scale and the offset of every weight, by ggml's own unpacking.

        Args:
            packed: uint8 (rows, row bytes).
            n_columns: weights in a row.

        Returns:
            float32 (rows, columns) twice: value = scale * level + offset.
        """
        shape = (len(packed), n_columns)
        lowest, highest = (
            rows_to_floats(self.with_levels(packed, np.full(shape, level, np.uint8)), self.type)
            for level in (0, self.n_levels - 1)
        )
        return (highest - lowest) / np.float32(self.n_levels - 1), lowest


def grid_of(kind: QuantType) -> Grid:
    """Return the grid of a quant type.

    Raises:
        UnsupportedError: its values do not lie on evenly spaced levels.
    """
    try:
        return GRIDS[kind.name]
    except KeyError:
        raise UnsupportedError(
            f"{kind.name} cannot be rounded with compensation",
            hint=f"one of {', '.join(GRIDS)}, or --round nearest",
        ) from None


def has_grid(kind: QuantType) -> bool:
    """Whether a quant type can be rounded with compensation."""
    return kind.name in GRIDS


class Nibbles(Grid):
    """Four bits a level: weights 0-15 of a block in the low halves, 16-31 in the high ones."""

    n_levels = 16
    start: ClassVar[int]

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        blocks[:, self.start : self.start + 16] = levels[:, :16] & 15 | (levels[:, 16:] & 15) << 4


class Q4_0(Nibbles):
    """Half scale, 16 bytes."""

    name = "Q4_0"
    start = 2


class Q4_1(Nibbles):
    """Half scale, half minimum, 16 bytes."""

    name = "Q4_1"
    start = 4


class FiveBits(Nibbles):
    """As `Nibbles`, the fifth bits of weights 0-31 in the four bytes before them."""

    n_levels = 32

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        super().place(blocks, levels)
        blocks[:, self.start - 4 : self.start] = np.packbits(levels >> 4, axis=1, bitorder="little")


class Q5_0(FiveBits):
    """Half scale, fifth bits, 16 bytes."""

    name = "Q5_0"
    start = 6


class Q5_1(FiveBits):
    """Half scale, half minimum, fifth bits, 16 bytes."""

    name = "Q5_1"
    start = 8


class Q8_0(Grid):
    """Half scale, 32 signed bytes."""

    name = "Q8_0"
    n_levels = 255

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks; level 0 is -127, as ggml never writes -128."""
        blocks[:, 2:] = levels - np.uint8(127)


class Q2_K(Grid):
    """Scales, two bits a level, half scale and half minimum of the scales."""

    name = "Q2_K"
    n_levels = 4

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        blocks[:, 16:80] = two_bits(levels)


class Q3_K(Grid):
    """High bits, two low bits a level, scales, half scale of the scales."""

    name = "Q3_K"
    n_levels = 8

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        high = (levels >> 2).reshape(-1, 8, 32)
        blocks[:, :32] = np.packbits(high, axis=1, bitorder="little")[:, 0]
        blocks[:, 32:96] = two_bits(levels & np.uint8(3))


class Q4_K(Grid):
    """Half scale and half minimum of the scales, scales, four bits a level."""

    name = "Q4_K"
    n_levels = 16
    start: ClassVar[int] = 16

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        parts = levels.reshape(-1, 4, 2, 32) & 15
        packed = parts[:, :, 0] | parts[:, :, 1] << 4
        blocks[:, self.start :] = packed.reshape(len(blocks), 128)


class Q5_K(Q4_K):
    """As Q4_K, with the fifth bits between the scales and the rest."""

    name = "Q5_K"
    n_levels = 32
    start = 48

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        super().place(blocks, levels)
        high = (levels >> 4).reshape(-1, 8, 32)
        blocks[:, 16:48] = np.packbits(high, axis=1, bitorder="little")[:, 0]


class Q6_K(Grid):
    """Four low bits a level, two high bits, scales, half scale of the scales."""

    name = "Q6_K"
    n_levels = 64

    def place(self, blocks: Bytes, levels: Bytes) -> None:
        """Write levels into blocks."""
        low = (levels & 15).reshape(-1, 2, 2, 64)
        blocks[:, :128] = (low[:, :, 0] | low[:, :, 1] << 4).reshape(len(blocks), 128)
        blocks[:, 128:192] = two_bits(levels >> np.uint8(4))


def two_bits(levels: Bytes) -> Bytes:
    """Pack levels of two bits as the K types do: (n, 256) -> (n, 64).

    Of each half of a block, byte l holds weights l, 32 + l, 64 + l and 96 + l, lowest bits first.
    """
    parts = levels.reshape(-1, 2, 4, 32)
    packed = np.zeros((len(levels), 2, 32), np.uint8)
    for quarter in range(4):
        packed |= parts[:, :, quarter] << np.uint8(2 * quarter)
    return packed.reshape(len(levels), 64)
