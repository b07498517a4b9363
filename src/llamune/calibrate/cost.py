"""What a calibration pass costs, said before it starts: from sizes, and two short timed trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from llamune.arch import Family, Role
from llamune.calibrate.compensate import Inputs, compensate
from llamune.calibrate.grids import has_grid
from llamune.calibrate.rounding import OUTPUT, SLAB_ROWS
from llamune.calibrate.windows import TOKENS_IN_BATCH
from llamune.gguf import QuantType

__all__ = ["Cost", "forecast", "seconds_per_weight"]

TRIAL_ROWS, TRIAL_COLUMNS = 512, 512
FLOAT_BYTES = 4
MATRICES = 4  # of columns x columns at once: sum, mean, damped, factor
ACTIVATIONS = 4  # of a batch at once, inside a layer
COPIES = 6  # of a slab of rows at once: as it was, compensated, stored, and between
# tensors whose layers are given the same input
SAME_INPUT = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a pass will take.

    Args:
        seconds: time.
        memory_bytes: at the peak, beside the packed model.
        n_tokens: tokens of calibration text.
    """

    seconds: float
    memory_bytes: int
    n_tokens: int


def forecast(
    family: Family, types: Mapping[str, QuantType], *, n_tokens: int, gflops: float
) -> Cost:
    """Return what rounding these tensors will cost on this machine.

    Args:
        family: the model.
        types: tensor name → its new quant type.
        n_tokens: tokens of calibration text.
        gflops: speed of matrix products, 10⁹ operations a second.
    """
    linear = [rule for rule in family.rules.values() if rule.role is Role.LINEAR]
    operations = 0.0
    rounding = 0.0
    largest_layer = 0
    layers: dict[str, int] = {}
    inputs: dict[str, int] = {}
    for rule in linear:
        n_rows, n_columns = rule.shape
        is_output = rule.gguf == OUTPUT
        if not is_output:  # a layer is run as it was and as rounded
            operations += 2 * 2 * n_tokens * rule.n_elements
        if rule.gguf not in types:
            continue
        inputs[input_of(rule.gguf)] = n_columns
        # carrying errors on, and the error of both roundings and the outputs' own size
        operations += 7 * n_rows * n_columns**2
        rounding += rule.n_elements * seconds_per_weight(types[rule.gguf])
        block = rule.gguf.rpartition(".attn")[0] or rule.gguf.rpartition(".ffn")[0]
        layers[block] = layers.get(block, 0) + (0 if is_output else rule.n_elements)
        slab = min(n_rows, SLAB_ROWS) * n_columns
        largest_layer = max(largest_layer, layers[block] + COPIES * slab)
    # second moments; three triangular factorings of two thirds of a cube in all
    operations += sum(2 * n_tokens * n**2 + 4 / 3 * n**3 for n in inputs.values())
    widest = max(inputs.values(), default=0)
    hidden = 2 * n_tokens * family.sizes.d_model
    hidden += ACTIVATIONS * TOKENS_IN_BATCH * max(family.sizes.d_ff, widest)
    return Cost(
        seconds=operations / (gflops * 1e9) + rounding,
        memory_bytes=FLOAT_BYTES * (largest_layer + MATRICES * widest**2 + hidden),
        n_tokens=n_tokens,
    )


def input_of(name: str) -> str:
    """Return a name for what a tensor's layer is given, the same for those that share it."""
    block, _, part = name.removesuffix(".weight").rpartition(".")
    return next((f"{block}.{alike[0]}" for alike in SAME_INPUT if part in alike), name)


@cache
def seconds_per_weight(kind: QuantType) -> float:
    """Return the time to round a weight, by rounding a small matrix.

    Choosing scales and levels is what costs; what grows with the columns is counted elsewhere.
    """
    if not has_grid(kind):
        return 0.0
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(TRIAL_ROWS, TRIAL_COLUMNS, generator=generator)
    inputs = Inputs.of(torch.eye(TRIAL_COLUMNS), name="trial")
    best = float("inf")
    for _ in range(2):  # the first one loads libraries
        start = time.perf_counter()
        compensate(weight, inputs, kind, name="trial")
        best = min(best, time.perf_counter() - start)
    return best / weight.numel()
