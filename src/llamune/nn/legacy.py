"""Blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0."""

from __future__ import annotations

import torch
from torch import Tensor

from llamune.nn.unpack import block_type

__all__: list[str] = []


def nibbles(data: Tensor) -> Tensor:
    """Return low nibbles, then high nibbles: (n, b) uint8 -> (n, 2, b) f32."""
    # a stack of floats compiles to vector code, a stack of bytes does not
    return torch.stack(((data & 15).float(), (data >> 4).float()), dim=1)


def fifth_bits(data: Tensor) -> Tensor:
    """Return bit i of 32 as 0 or 16: (n, 4) uint8 -> (n, 2, 16) f32."""
    shifts = torch.arange(8, device=data.device, dtype=torch.uint8)
    bits = (data.unsqueeze(2) >> shifts & 1) << 4
    return bits.view(-1, 2, 16).float()


def scale(halves: Tensor, index: int) -> Tensor:
    """Return the 16-bit float at `index` of each block, (n, 1, 1)."""
    return halves[:, index : index + 1, None].float()


@block_type("Q4_0")
def q4_0(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, 32 nibbles: (q - 8) d."""
    return ((nibbles(data[:, 2:]) - 8.0) * scale(halves, 0)).view(-1, 32)


@block_type("Q4_1")
def q4_1(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, f16 minimum, 32 nibbles: q d + m."""
    return (nibbles(data[:, 4:]) * scale(halves, 0) + scale(halves, 1)).view(-1, 32)


@block_type("Q5_0")
def q5_0(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, 32 fifth bits, 32 nibbles: (q - 16) d."""
    quants = nibbles(data[:, 6:]) + fifth_bits(data[:, 2:6])
    return ((quants - 16.0) * scale(halves, 0)).view(-1, 32)


@block_type("Q5_1")
def q5_1(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, f16 minimum, 32 fifth bits, 32 nibbles: q d + m."""
    quants = nibbles(data[:, 8:]) + fifth_bits(data[:, 4:8])
    return (quants * scale(halves, 0) + scale(halves, 1)).view(-1, 32)


@block_type("Q8_0")
def q8_0(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, 32 signed bytes: q d."""
    return data[:, 2:].view(torch.int8).float() * halves[:, :1].float()
