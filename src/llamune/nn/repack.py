"""Floats back into the blocks they came from, rounded up or down at random so that nothing is lost.

A training step moves a weight by much less than the distance between two values of its block.
Rounding to nearest would undo the step; rounding up with the probability of the part that is cut
off keeps it on average. A block's scale is kept as long as its weights fit, so that a weight that
did not move stays exactly where it was: then the variance that rounding adds to a weight is the
block's step times the way that the weight has gone (`p (1 - p) step²`, with `p step` the move).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llamune.errors import UnsupportedError

__all__ = ["KEEP_TYPES", "repack", "require_keep_type", "rounding_variance", "steps_of"]

HEADROOM = 1 + 1 / 32  # of a scale that has to grow, so that it need not grow again at once
LARGEST_Q8_0 = 127
SMALLEST_Q6_K, LARGEST_Q6_K = -32, 31
LARGEST_SUBSCALE = 127  # int8
Q6_K_BYTES = 210
EIGHT_LOW, EIGHT_HIGH = 0x0F0F0F0F0F0F0F0F, 0x0303030303030303  # bits of 8 weights at once
Q6_K_SCALES, Q6_K_SCALE = slice(192, 208), slice(208, 210)  # 16 × int8, f16


@dataclass(frozen=True, kw_only=True)
class KeepType:
    """How weights that are trained are kept in one quant type.

    Args:
        name: the quant type.
        cover: (packed, values): make every block's scale wide enough for its values, in place.
        steps: packed -> distance of neighbouring values for each weight, (rows, columns).
        floor: (packed, values) -> values in units of the step, rounded down, (rows, columns), and
            the part that was cut off, in [0, 1).
        write: (packed, whole numbers): put them into the blocks, in place; their memory is used.
    """

    name: str
    cover: Callable[[Tensor, Tensor], None]
    steps: Callable[[Tensor], Tensor]
    floor: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    write: Callable[[Tensor, Tensor], None]


def require_keep_type(name: str) -> None:
    """Raise unless weights can be trained in this quant type.

    Raises:
        UnsupportedError: they cannot.
    """
    if name not in KEEP_TYPES:
        raise UnsupportedError(
            f"weights cannot be trained in {name} blocks",
            hint=f"types that can: {', '.join(KEEP_TYPES)}",
        )


def repack(packed: Tensor, values: Tensor, kind: str, noise: Tensor) -> None:
    """Write values into packed rows, each rounded up or down so that its mean is the value.

    Args:
        packed: uint8, (rows, row_bytes), contiguous; what lies in it says the scales to keep.
        values: f32, (rows, columns), finite.
        kind: a key of `KEEP_TYPES`.
        noise: numbers in [0, 1), (rows, columns).
    """
    keep = KEEP_TYPES[kind]
    keep.cover(packed, values)
    whole, part = keep.floor(packed, values)
    up = part.gt_(noise)  # as 0.0 and 1.0: adding those takes a quarter of the time of bools
    keep.write(packed, whole.add_(up.to(whole.dtype)))


def steps_of(packed: Tensor, kind: str) -> Tensor:
    """Return how far apart the values are that each weight may take, f32, (rows, columns)."""
    return KEEP_TYPES[kind].steps(packed)


def rounding_variance(packed: Tensor, values: Tensor, kind: str) -> Tensor:
    """Return the variance that `repack` gives each weight around its value, (rows, columns).

    Args:
        packed: rows whose scales cover the values already (what `repack` wrote).
        values: what was written.
        kind: a key of `KEEP_TYPES`.
    """
    keep = KEEP_TYPES[kind]
    _, part = keep.floor(packed, values)
    return part * (1 - part) * keep.steps(packed) ** 2


def half_up(values: Tensor) -> Tensor:
    """Return the smallest 16-bit floats that are no less than positive values."""
    halves = values.to(torch.float16)
    bits = halves.view(torch.int16)
    return torch.where(halves.float() < values, bits + 1, bits).view(torch.float16)


def whole_and_part(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Return values rounded down, and what was cut off."""
    whole = scaled.floor()
    return whole, scaled.sub_(whole)


def scales_q8_0(packed: Tensor) -> Tensor:
    """Return the scales, a view that can be written: (blocks, 1) f16."""
    return packed.view(-1, 34).view(torch.float16)[:, :1]


def cover_q8_0(packed: Tensor, values: Tensor) -> None:
    """Widen the blocks whose largest value lies beyond 127 steps."""
    scales = scales_q8_0(packed)
    largest = values.view(-1, 32).abs().amax(dim=1, keepdim=True)  # 15 times vector_norm's speed
    short = largest > LARGEST_Q8_0 * scales.float().abs()
    if bool(short.any()):
        scales[short] = half_up(largest[short] * (HEADROOM / LARGEST_Q8_0))


def steps_q8_0(packed: Tensor) -> Tensor:
    """Return each weight's step: its block's scale."""
    scales = scales_q8_0(packed).float().abs()
    return scales.expand(-1, 32).reshape(packed.shape[0], -1)


def floor_q8_0(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole steps and parts of a step."""
    scales = scales_q8_0(packed).float()
    scales.masked_fill_(scales == 0, 1.0)  # such a block holds zeros only
    # a division: q × scale / scale is exactly q, times the reciprocal is not
    return whole_and_part((values.view(-1, 32) / scales).view(values.shape))


def write_q8_0(packed: Tensor, whole: Tensor) -> None:
    """Write the signed bytes."""
    packed.view(-1, 34)[:, 2:].view(torch.int8).copy_(whole.view(-1, 32))


def cover_bf16(packed: Tensor, values: Tensor) -> None:
    """Do nothing: each number has an exponent of its own."""


def steps_bf16(packed: Tensor) -> Tensor:
    """Return the distance to the next number away from zero."""
    bits = packed.view(torch.int16)
    here, beyond = (one.view(torch.bfloat16).float() for one in (bits, bits + 1))
    return (beyond - here).abs()


def floor_bf16(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper 16 bits, and the lower ones as a part of the step they stand for."""
    del packed  # no scales
    bits = values.view(torch.int32)
    return bits >> 16, (bits & 0xFFFF).float() * 2**-16


def write_bf16(packed: Tensor, whole: Tensor) -> None:
    """Write the upper 16 bits."""
    packed.view(torch.int16).copy_(whole)


def sub_steps_q6_k(blocks: Tensor) -> Tensor:
    """Return scale times sub-scale, with its sign: (blocks, 210) -> (blocks, 16) f32."""
    scale = blocks[:, Q6_K_SCALE].contiguous().view(torch.float16).float()
    return scale * blocks[:, Q6_K_SCALES].view(torch.int8).float()


def cover_q6_k(packed: Tensor, values: Tensor) -> None:
    """Widen the sub-blocks whose values lie beyond -32 to 31 steps.

    The sub-scale grows while it can; then the whole block gets a new scale.
    """
    blocks = packed.view(-1, Q6_K_BYTES)
    steps = sub_steps_q6_k(blocks)
    scaled = (values.view(-1, 16, 16) / steps.unsqueeze(2)).view(-1, 256)
    # by whole blocks first: maxima over 256 numbers take a tenth of the time of those over 16;
    # NaN, of a step of zero, does not fit
    fit = (scaled.amax(dim=1) <= LARGEST_Q6_K) & (scaled.amin(dim=1) >= SMALLEST_Q6_K)
    rows = fit.logical_not_().nonzero().squeeze(1)
    if rows.numel() == 0:
        return
    steps = steps[rows]
    sign = torch.where(steps < 0, -1.0, 1.0)
    turned = values.view(-1, 16, 16)[rows] * sign.unsqueeze(2)
    needed = torch.maximum(
        turned.amax(dim=2) / LARGEST_Q6_K, turned.amin(dim=2) / SMALLEST_Q6_K
    )  # (blocks, 16)
    short = needed > steps.abs()
    wanted = torch.where(short, needed * HEADROOM, steps.abs())
    scale = blocks[rows][:, Q6_K_SCALE].contiguous().view(torch.float16).float()
    room = wanted.amax(dim=1, keepdim=True) / LARGEST_SUBSCALE
    scale = torch.where(room > scale, half_up(room).float(), scale)
    scale = torch.where(scale > 0, scale, half_up(room).float())
    subscales = (wanted / scale).ceil_().clamp_(max=LARGEST_SUBSCALE) * sign
    changed = short.any(dim=1)  # others have a step of zero, and nothing but zeros there
    rows, subscales, scale = rows[changed], subscales[changed], scale[changed]
    blocks[rows, Q6_K_SCALES] = subscales.to(torch.int8).view(torch.uint8)
    blocks[rows, Q6_K_SCALE] = scale.to(torch.float16).view(torch.uint8)


def steps_q6_k(packed: Tensor) -> Tensor:
    """Return each weight's step: its sub-block's scale."""
    steps = sub_steps_q6_k(packed.view(-1, Q6_K_BYTES)).abs()
    return steps.unsqueeze(2).expand(-1, -1, 16).reshape(packed.shape[0], -1)


def floor_q6_k(packed: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole steps and parts of a step."""
    steps = sub_steps_q6_k(packed.view(-1, Q6_K_BYTES)).unsqueeze(2)
    steps.masked_fill_(steps == 0, 1.0)
    return whole_and_part((values.view(-1, 16, 16) / steps).view(values.shape))


def write_q6_k(packed: Tensor, whole: Tensor) -> None:
    """Write the six bits of each weight. Source of the layout: ggml's `block_q6_K`."""
    blocks = packed.view(-1, Q6_K_BYTES)
    # a last digit beyond the range would wrap around to the other end
    quants = whole.clamp_(SMALLEST_Q6_K, LARGEST_Q6_K).sub_(SMALLEST_Q6_K).to(torch.uint8)
    words = quants.view(torch.int64).view(-1, 2, 4, 4)  # half, quarter, 8 weights of a byte each
    low, high = words & EIGHT_LOW, words >> 4 & EIGHT_HIGH
    low = low[:, :, :2] | low[:, :, 2:] << 4
    high = high[:, :, :2] | high[:, :, 2:] << 4
    high = high[:, :, 0] | high[:, :, 1] << 2
    blocks[:, :128] = low.view(torch.uint8).flatten(1)
    blocks[:, 128:192] = high.view(torch.uint8).flatten(1)


KEEP_TYPES = {
    keep.name: keep
    for keep in (
        KeepType(
            name="Q8_0", cover=cover_q8_0, steps=steps_q8_0, floor=floor_q8_0, write=write_q8_0
        ),
        KeepType(
            name="BF16", cover=cover_bf16, steps=steps_bf16, floor=floor_bf16, write=write_bf16
        ),
        KeepType(
            name="Q6_K", cover=cover_q6_k, steps=steps_q6_k, floor=floor_q6_k, write=write_q6_k
        ),
    )
}
"""quant type -> how weights are trained in it"""
