"""Super-blocks of 256 weights: Q2_K to Q6_K.

A block of 256 has one or two f16 scales; groups of 16 or 32 weights in it have small integer
scales (and minima) of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamune.nn.unpack import block_type

__all__: list[str] = []

PAIRS_OF_BITS = (0, 2, 4, 6)


def scale(halves: Tensor, index: int) -> Tensor:
    """Return the 16-bit float at `index` of each block, (n, 1)."""
    return halves[:, index : index + 1].float()


def two_bits(data: Tensor) -> Tensor:
    """Return each byte's four pairs of bits, lowest first: (n, a, b) -> (n, a, 4, b) f32."""
    return torch.stack([((data >> shift) & 3).float() for shift in PAIRS_OF_BITS], dim=2)


def nibbles(data: Tensor) -> Tensor:
    """Return low nibbles, then high ones: (n, a, b) -> (n, a, 2, b) f32."""
    return torch.stack(((data & 15).float(), (data >> 4).float()), dim=2)


def single_bits(data: Tensor) -> Tensor:
    """Return each byte's eight bits, lowest first: (n, b) -> (n, 8, b) f32."""
    return torch.stack([((data >> shift) & 1).float() for shift in range(8)], dim=1)


def six_bit_pairs(data: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eight scales and eight minima of 12 bytes: (n, 12) -> twice (n, 8) f32.

    Source: `get_scale_min_k4`.
    """
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scales.float(), minima.float()


@block_type("Q2_K")
def q2_k(data: Tensor, halves: Tensor) -> Tensor:
    """16 bytes of scale and minimum, 64 bytes of bit pairs, f16 scale of scales, of minima."""
    scales = scale(halves, 40) * (data[:, :16] & 15).float()
    minima = scale(halves, 41) * (data[:, :16] >> 4).float()
    quants = two_bits(data[:, 16:80].view(-1, 2, 32)).view(-1, 16, 16)
    return (quants * scales.unsqueeze(2) - minima.unsqueeze(2)).view(-1, 256)


@block_type("Q3_K")
def q3_k(data: Tensor, halves: Tensor) -> Tensor:
    """32 bytes of third bits, 64 of bit pairs, 12 bytes of 6-bit scales, f16 scale of scales."""
    packed = data[:, 96:108]
    low = nibbles(packed[:, None, :8]).view(-1, 16)
    high = two_bits(packed[:, None, 8:]).view(-1, 16)
    scales = scale(halves, 54) * (low + 16.0 * high - 32.0)
    quants = two_bits(data[:, 32:96].view(-1, 2, 32)).view(-1, 8, 32)
    # a third bit that is not set takes 4 away
    quants = quants + 4.0 * single_bits(data[:, :32]) - 4.0
    return (quants.view(-1, 16, 16) * scales.unsqueeze(2)).view(-1, 256)


@block_type("Q4_K")
def q4_k(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale of scales, of minima, 12 bytes of both, 128 bytes of nibbles."""
    scales, minima = six_bit_pairs(data[:, 4:16])
    scales, minima = scale(halves, 0) * scales, scale(halves, 1) * minima
    quants = nibbles(data[:, 16:].view(-1, 4, 32)).view(-1, 8, 32)
    return (quants * scales.unsqueeze(2) - minima.unsqueeze(2)).view(-1, 256)


@block_type("Q5_K")
def q5_k(data: Tensor, halves: Tensor) -> Tensor:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    scales, minima = six_bit_pairs(data[:, 4:16])
    scales, minima = scale(halves, 0) * scales, scale(halves, 1) * minima
    quants = nibbles(data[:, 48:].view(-1, 4, 32)).view(-1, 8, 32)
    quants = quants + 16.0 * single_bits(data[:, 16:48])
    return (quants * scales.unsqueeze(2) - minima.unsqueeze(2)).view(-1, 256)


@block_type("Q6_K")
def q6_k(data: Tensor, halves: Tensor) -> Tensor:
    """128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, f16 scale of scales."""
    low = data[:, :128].view(-1, 2, 64)
    low = nibbles(low).view(-1, 2, 4, 32)
    high = two_bits(data[:, 128:192].view(-1, 2, 32))
    quants = low + 16.0 * high - 32.0
    scales = scale(halves, 104) * data[:, 192:208].view(torch.int8).float()
    return (quants.view(-1, 16, 16) * scales.unsqueeze(2)).view(-1, 256)
