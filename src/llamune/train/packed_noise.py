"""How much rounding will add to the weights over a run, known before it starts.

A weight that moves by a part `p` of its block's step is rounded up with probability `p`, which
adds a variance of `p (1 - p) step²`. Where moves are much smaller than the step that is the way
times the step; where they are larger (bf16) it is no more than step² / 6 each time. What it is
held against is what the type costs anyway: a weight rounded once to nearest is off by step² / 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamune.gguf import ModelFile, floats_to_rows, quant_type
from llamune.runs import Recipe

__all__ = ["NoiseForecast", "forecast_noise"]

Floats = np.ndarray[Any, np.dtype[np.float64]]

SAMPLED_ROWS = 16  # of each weight
BINS_AN_OCTAVE = 8  # of the distribution of steps
MEAN_FACTORED = 0.71
"""mean size of an update by factored moments, in units of the rate: measured on the starter model
over 20 steps of 4 × 32 tokens; that of a normal number, 0.80, where no update was bounded"""
REGROWN = 1.0
"""times the type's own variance: in a base that has the keep type already, the scale of every
other block has to grow once, and its weights are rounded anew (step² / 6)"""
MEAN_OF_NORMAL = math.sqrt(2 / math.pi)  # mean size of a number with unit variance
NEVER_A_STEP = 0.3**2  # variance of moves, in steps, none of which is longer than one
FINER = {"Q6_K": ("Q8_0", "BF16"), "Q8_0": ("BF16",)}
"""keep type -> types with smaller steps"""


@dataclass(frozen=True, kw_only=True)
class NoiseForecast:
    """What rounding is predicted to add; root mean squares over weights, in a weight's units.

    Args:
        kind: the keep type.
        learning_rate: at its highest.
        own: error of rounding once to nearest.
        added: predicted for the whole run.
    """

    kind: str
    learning_rate: float
    own: float
    added: float

    @property
    def times_own(self) -> float:
        """How many times the type's own rounding noise."""
        return self.added / self.own if self.own else 0.0

    @property
    def exceeds(self) -> bool:
        """Whether it is more than the type's own."""
        return self.times_own > 1.0

    @property
    def quiet_rate(self) -> float:
        """The learning rate at which it would equal the type's own."""
        return self.learning_rate / self.times_own**2 if self.exceeds else self.learning_rate


def forecast_noise(
    file: ModelFile, names: Iterable[str], recipe: Recipe
) -> tuple[NoiseForecast, ...]:
    """Return the forecast for the recipe's keep type, then for each finer one.

    Args:
        file: the base; a few rows of each tensor are read.
        names: the matrices that are trained.
        recipe: the settled recipe.
    """
    from llamune.train.loop import rate_share

    shares = np.array([rate_share(recipe, step) for step in range(recipe.steps)])
    moves = recipe.learning_rate * shares * mean_updates(recipe.optimizer, recipe.steps)
    wanted = list(names)
    found = []
    for kind in (recipe.keep_type, *FINER.get(recipe.keep_type, ())):
        steps, parts = sampled_steps(file, wanted, kind)
        squares = steps**2
        own = float(squares @ parts) / 12
        added = float(sum(variance_share(move / steps) @ (squares * parts) for move in moves))
        is_native = all(file.tensors[name].type.name == kind for name in wanted)
        found.append(
            NoiseForecast(
                kind=kind,
                learning_rate=recipe.learning_rate,
                own=math.sqrt(own),
                added=math.sqrt(added + own * (REGROWN if is_native else 0.0)),
            )
        )
    return tuple(found)


def mean_updates(optimizer: str, n_steps: int) -> Floats:
    """Return the mean size of a weight's update at each step, in units of the rate.

    AdamW's first moment averages gradients most of which is noise, and noise cancels: what is left
    is their size times the root of (1 - β)(1 + βᵗ) / (1 + β)(1 - βᵗ).
    """
    if optimizer == "factored":
        return np.full(n_steps, MEAN_FACTORED)
    from llamune.train.packed_moments import BETA_1

    kept = BETA_1 ** np.arange(1, n_steps + 1)
    left = np.sqrt((1 - BETA_1) / (1 + BETA_1) * (1 + kept) / (1 - kept))
    return np.asarray(MEAN_OF_NORMAL * left)


def variance_share(move: Floats) -> Floats:
    """Return the mean of p (1 - p), p being what lies beyond whole steps.

    Args:
        move: mean size of moves that are normally distributed, in units of the step.
    """
    square = (move / MEAN_OF_NORMAL) ** 2
    series = sum(np.exp(-2 * (math.pi * k) ** 2 * square) / (math.pi * k) ** 2 for k in (1, 2, 3))
    # the Fourier series settles soon where moves pass a step, which the short ones never do
    return np.where(square < NEVER_A_STEP, move - square, 1 / 6 - series)


def sampled_steps(file: ModelFile, names: Iterable[str], kind: str) -> tuple[Floats, Floats]:
    """Return the steps that a type has in some rows of each weight, and how many weights have each.

    Args:
        file: the base.
        names: of the matrices.
        kind: quant type.

    Returns:
        Steps, and the share of all weights that has each; those of blocks of zeros are left out.
    """
    import torch

    from llamune.nn import steps_of

    counts: dict[int, float] = {}
    n_weights = 0
    for name in names:
        floats = file.floats(name, 0, SAMPLED_ROWS)
        packed = torch.from_numpy(floats_to_rows(floats, quant_type(kind)))
        steps = steps_of(packed, kind).flatten()
        size = file.tensors[name].n_elements
        octaves = (steps[steps > 0].double().log2() * BINS_AN_OCTAVE).round().int().numpy()
        for octave, count in zip(*np.unique(octaves, return_counts=True), strict=True):
            counts[int(octave)] = counts.get(int(octave), 0.0) + count * size / steps.numel()
        n_weights += size
    found = sorted(counts)
    return (
        np.exp2(np.array(found) / BINS_AN_OCTAVE),
        np.array([counts[octave] for octave in found]) / n_weights,
    )
