"""How much rounding will add to the weights over a run, known before it starts.

A weight that moves by a part `p` of its block's step is rounded up with probability `p`, which
adds a variance of about `p × step²`: over a run, its way times the step. What it is held against
is what the type costs anyway: a weight rounded once to nearest is off by step² / 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llamune.gguf import ModelFile, floats_to_rows, quant_type
from llamune.runs import Recipe

__all__ = ["NoiseForecast", "forecast_noise"]

SAMPLED_ROWS = 16  # of each weight
MEAN_MOVE = {"factored": 0.8, "adamw8": 0.3}
"""optimizer -> mean size of a weight's update, in units of the rate: that of a normal number for
factored moments, whose updates have unit variance; a guess for AdamW, whose signs half cancel"""
REGROWN = 1.0
"""times the type's own variance: in a base that has the keep type already, the scale of every
other block has to grow once, and its weights are rounded anew (step² / 6)"""
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

    shares = (rate_share(recipe, step) for step in range(recipe.steps))
    way = MEAN_MOVE[recipe.optimizer] * recipe.learning_rate * math.fsum(shares)
    wanted = list(names)
    found = []
    for kind in (recipe.keep_type, *FINER.get(recipe.keep_type, ())):
        step, square = mean_steps(file, wanted, kind)
        own = square / 12
        is_native = all(file.tensors[name].type.name == kind for name in wanted)
        found.append(
            NoiseForecast(
                kind=kind,
                learning_rate=recipe.learning_rate,
                own=math.sqrt(own),
                added=math.sqrt(way * step + own * (REGROWN if is_native else 0.0)),
            )
        )
    return tuple(found)


def mean_steps(file: ModelFile, names: Iterable[str], kind: str) -> tuple[float, float]:
    """Return the mean step and the mean squared step of a type, over all weights."""
    import torch

    from llamune.nn import steps_of

    totals, n_weights = [0.0, 0.0], 0
    for name in names:
        floats = file.floats(name, 0, SAMPLED_ROWS)
        packed = torch.from_numpy(floats_to_rows(floats, quant_type(kind)))
        steps = steps_of(packed, kind)
        size = file.tensors[name].n_elements
        totals[0] += float(steps.mean()) * size
        totals[1] += float(steps.square().mean()) * size
        n_weights += size
    return totals[0] / n_weights, totals[1] / n_weights
