"""Three-valued and four-bit-float blocks: TQ1_0, TQ2_0, MXFP4, Q1_0."""

from __future__ import annotations

import torch
from torch import Tensor

from llamune.nn.unpack import block_type

__all__: list[str] = []

POWERS_OF_THREE = (1, 3, 9, 27, 81)


def ternary_digits(data: Tensor, n_digits: int) -> Tensor:
    """Return a byte's base-3 digits, 0 to 2: (n, b) uint8 -> (n, n_digits, b) f32.

    A byte holds five digits as a fraction of 256: multiplied by a power of three, modulo 256,
    the next digit is what three times it carries over 256.
    """
    digits = [((data * power).to(torch.int32) * 3 >> 8) for power in POWERS_OF_THREE[:n_digits]]
    return torch.stack([digit.float() for digit in digits], dim=1)


@block_type("TQ1_0")
def tq1_0(data: Tensor, halves: Tensor) -> Tensor:
    """48 bytes of five digits, 4 bytes of four digits, f16 scale: (digit - 1) d."""
    digits = torch.cat(
        (
            ternary_digits(data[:, :32], 5).flatten(1),
            ternary_digits(data[:, 32:48], 5).flatten(1),
            ternary_digits(data[:, 48:52], 4).flatten(1),
        ),
        dim=1,
    )
    return (digits - 1.0) * halves[:, 26:27].float()


@block_type("TQ2_0")
def tq2_0(data: Tensor, halves: Tensor) -> Tensor:
    """64 bytes of bit pairs, f16 scale: (pair - 1) d."""
    pairs = data[:, :64].view(-1, 2, 32)
    quants = torch.stack([((pairs >> shift) & 3).float() for shift in (0, 2, 4, 6)], dim=2)
    return (quants.view(-1, 256) - 1.0) * halves[:, 32:33].float()


@block_type("MXFP4", tables=("mxfp4",))
def mxfp4(data: Tensor, _: Tensor, values: Tensor) -> Tensor:
    """A power of two in one byte, 32 floats of four bits: value 2^(e - 128)."""
    exponent = data[:, :1].to(torch.int32)
    # the two smallest powers are subnormal floats
    bits = torch.where(exponent < 2, 0x200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    scale = bits.view(torch.float32)
    quants = torch.stack((data[:, 1:] & 15, data[:, 1:] >> 4), dim=1).view(-1, 32)
    return values[quants.to(torch.int32)] * scale


@block_type("Q1_0")
def q1_0(data: Tensor, halves: Tensor) -> Tensor:
    """f16 scale, 128 bits: d or -d."""
    bits = torch.stack([((data[:, 2:] >> shift) & 1).float() for shift in range(8)], dim=2)
    return (bits.view(-1, 128) * 2.0 - 1.0) * halves[:, :1].float()
