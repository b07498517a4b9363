"""Random numbers that depend on what they are for, not on what was drawn before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["uniform"]

FLOAT_BITS = 24  # of a 32-bit float's mantissa


def uniform(shape: tuple[int, int], *, key: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers in [0, 1): the same for the same key, independent for different ones.

    Nothing has to be saved to go on after a stop: step, layer and seed are the key.

    Args:
        shape: (rows, columns).
        key: whole numbers from 0 on.
        device: where the result goes; each kind of device has numbers of its own.
    """
    seeds = np.random.SeedSequence(list(key))
    if device.type == "cpu":  # two thirds of the time of numpy's own floats
        size = shape[0] * shape[1]
        words = np.random.SFC64(seeds).random_raw((size + 1) // 2).view(np.int32)
        bits = torch.from_numpy(words[:size]).view(shape).bitwise_and_((1 << FLOAT_BITS) - 1)
        return bits.to(torch.float32).mul_(2.0**-FLOAT_BITS)
    generator = torch.Generator(device)
    generator.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
    return torch.rand(shape, generator=generator, device=device)
