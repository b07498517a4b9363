"""Blocks of 256 that look small groups of weights up in a grid: IQ1_S to IQ4_XS, and IQ4_NL.

The grids are ggml's; gguf-py carries them, so they are taken from there (`nn.tables`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamune.nn.unpack import block_type

__all__: list[str] = []

IQ1_DELTA = 0.125


def int16s(data: Tensor) -> Tensor:
    """Return pairs of bytes as numbers: (n, 2 b) uint8 -> (n, b) int32."""
    pairs = data.view(data.shape[0], -1, 2).to(torch.int32)
    return pairs[..., 0] | (pairs[..., 1] << 8)


def int32s(data: Tensor) -> Tensor:
    """Return fours of bytes as numbers: (n, 4 b) uint8 -> (n, b) int32, bit 31 the sign."""
    fours = data.view(data.shape[0], -1, 4).to(torch.int32)
    return fours[..., 0] | (fours[..., 1] << 8) | (fours[..., 2] << 16) | (fours[..., 3] << 24)


def fields(values: Tensor, width: int, n_fields: int) -> Tensor:
    """Return the lowest fields of `width` bits: (n, b) int32 -> (n, b, n_fields) int32."""
    shifts = torch.arange(n_fields, device=values.device, dtype=torch.int32) * width
    return (values.unsqueeze(2) >> shifts) & ((1 << width) - 1)


def signs(bits: Tensor) -> Tensor:
    """Return -1 for each set bit, else 1: (…) int32 of 8 bits -> (…, 8) f32."""
    shifts = torch.arange(8, device=bits.device, dtype=torch.int32)
    return 1.0 - 2.0 * ((bits.unsqueeze(-1) >> shifts) & 1).float()


def nibble_pairs(data: Tensor) -> Tensor:
    """Return low and high nibble of each byte side by side: (n, b) -> (n, b, 2) f32."""
    return torch.stack(((data & 15).float(), (data >> 4).float()), dim=2)


def scale(halves: Tensor) -> Tensor:
    """Return the f16 scale at the start of each block, (n, 1)."""
    return halves[:, :1].float()


@block_type("IQ4_NL", tables=("iq4",))
def iq4_nl(data: Tensor, halves: Tensor, values: Tensor) -> Tensor:
    """f16 scale, 32 nibbles that name one of 16 values."""
    quants = torch.stack((data[:, 2:] & 15, data[:, 2:] >> 4), dim=1).view(-1, 32)
    return values[quants.to(torch.int32)] * scale(halves)


@block_type("IQ4_XS", tables=("iq4",))
def iq4_xs(data: Tensor, halves: Tensor, values: Tensor) -> Tensor:
    """f16 scale, 6-bit scales in two parts, 256 nibbles that name one of 16 values."""
    high = fields(int16s(data[:, 2:4]), 2, 8).view(-1, 8)
    low = fields(data[:, 4:8].to(torch.int32), 4, 2).view(-1, 8)
    scales = scale(halves) * (low + 16 * high - 32).float()
    groups = data[:, 8:].view(-1, 8, 16)
    quants = torch.stack((groups & 15, groups >> 4), dim=2).view(-1, 8, 32)
    return (values[quants.to(torch.int32)] * scales.unsqueeze(2)).view(-1, 256)


@block_type("IQ2_XXS", tables=("iq2_xxs", "signs"))
def iq2_xxs(data: Tensor, halves: Tensor, grid: Tensor, sign_table: Tensor) -> Tensor:
    """f16 scale; for 32 weights four grid rows, four of 128 sign patterns, a 4-bit scale."""
    groups = data[:, 2:].view(-1, 8, 8)
    rows = grid[groups[..., :4].to(torch.int32)]  # (n, 8, 4, 8)
    words = int32s(groups[..., 4:].reshape(-1, 32))
    scales = scale(halves) * (0.5 + ((words >> 28) & 15).float()) * 0.25
    pattern = signs(sign_table[fields(words, 7, 4)])
    return (scales.view(-1, 8, 1, 1) * rows * pattern).view(-1, 256)


@block_type("IQ2_XS", tables=("iq2_xs", "signs"))
def iq2_xs(data: Tensor, halves: Tensor, grid: Tensor, sign_table: Tensor) -> Tensor:
    """f16 scale; 32 numbers of grid row (9 bits) and sign pattern (7); 16 scales of 4 bits."""
    words = int16s(data[:, 2:66])
    rows = grid[words & 511].view(-1, 16, 2, 8)
    pattern = signs(sign_table[words >> 9]).view(-1, 16, 2, 8)
    scales = scale(halves) * (0.5 + nibble_pairs(data[:, 66:]).view(-1, 16)) * 0.25
    return (scales.view(-1, 16, 1, 1) * rows * pattern).view(-1, 256)


@block_type("IQ2_S", tables=("iq2_s",))
def iq2_s(data: Tensor, halves: Tensor, grid: Tensor) -> Tensor:
    """f16 scale, 32 grid rows (10 bits in two parts), 32 bytes of signs, 16 scales of 4 bits."""
    low = data[:, 2:34].to(torch.int32)
    high = fields(data[:, 66:74].to(torch.int32), 2, 4).view(-1, 32)
    rows = grid[low | (high << 8)].view(-1, 16, 2, 8)
    pattern = signs(data[:, 34:66].to(torch.int32)).view(-1, 16, 2, 8)
    scales = scale(halves) * (0.5 + nibble_pairs(data[:, 74:]).view(-1, 16)) * 0.25
    return (scales.view(-1, 16, 1, 1) * rows * pattern).view(-1, 256)


@block_type("IQ3_XXS", tables=("iq3_xxs", "signs"))
def iq3_xxs(data: Tensor, halves: Tensor, grid: Tensor, sign_table: Tensor) -> Tensor:
    """f16 scale, 64 grid rows of four; for 32 weights four sign patterns and a 4-bit scale."""
    rows = grid[data[:, 2:66].to(torch.int32)].view(-1, 8, 4, 8)
    words = int32s(data[:, 66:])
    scales = scale(halves) * (0.5 + ((words >> 28) & 15).float()) * 0.5
    pattern = signs(sign_table[fields(words, 7, 4)])
    return (scales.view(-1, 8, 1, 1) * rows * pattern).view(-1, 256)


@block_type("IQ3_S", tables=("iq3_s",))
def iq3_s(data: Tensor, halves: Tensor, grid: Tensor) -> Tensor:
    """f16 scale, 64 grid rows of four (9 bits in two parts), signs, 8 scales of 4 bits."""
    low = data[:, 2:66].to(torch.int32)
    high = fields(data[:, 66:74].to(torch.int32), 1, 8).view(-1, 64)
    rows = grid[low | (high << 8)].view(-1, 8, 4, 8)
    pattern = signs(data[:, 74:106].to(torch.int32)).view(-1, 8, 4, 8)
    scales = scale(halves) * (1.0 + 2.0 * nibble_pairs(data[:, 106:]).view(-1, 8))
    return (scales.view(-1, 8, 1, 1) * rows * pattern).view(-1, 256)


@block_type("IQ1_S", tables=("iq1",))
def iq1_s(data: Tensor, halves: Tensor, grid: Tensor) -> Tensor:
    """f16 scale, 32 grid rows (11 bits in two parts); for 32 weights a scale and a shift."""
    words = int16s(data[:, 34:])
    high = fields(words, 3, 4).view(-1, 32)
    rows = grid[data[:, 2:34].to(torch.int32) | (high << 8)].view(-1, 8, 4, 8)
    scales = scale(halves) * (2 * ((words >> 12) & 7) + 1).float()
    shift = IQ1_DELTA * (1.0 - 2.0 * ((words >> 15) & 1).float())
    return (scales.view(-1, 8, 1, 1) * (rows + shift.view(-1, 8, 1, 1))).view(-1, 256)


@block_type("IQ1_M", tables=("iq1",))
def iq1_m(data: Tensor, halves: Tensor, grid: Tensor) -> Tensor:
    """As IQ1_S with a shift for every 8 weights; the f16 scale lies in the scales' top bits."""
    _ = halves
    words = int16s(data[:, 48:])  # (n, 4)
    whole = (words >> 12) & 15
    bits = whole[:, 0] | (whole[:, 1] << 4) | (whole[:, 2] << 8) | (whole[:, 3] << 12)
    scale_of_all = bits.to(torch.int16).view(torch.float16).float().view(-1, 1)
    scales = scale_of_all * (2 * fields(words, 3, 4).view(-1, 16) + 1).float()
    nibble = fields(data[:, 32:48].to(torch.int32), 4, 2).view(-1, 32)
    rows = grid[data[:, :32].to(torch.int32) | ((nibble & 7) << 8)]
    shift = IQ1_DELTA * (1.0 - 2.0 * (nibble >> 3).float())
    values = (rows + shift.unsqueeze(2)).view(-1, 16, 2, 8)
    return (scales.view(-1, 16, 1, 1) * values).view(-1, 256)
