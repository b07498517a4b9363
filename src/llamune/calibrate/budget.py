"""One type for each tensor within a size: the multiple-choice knapsack, solved as integer program.

Source: scipy.optimize.milp (HiGHS), which proves how near the best its answer is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llamune.calibrate.errors import CalibrateError

__all__ = ["Choice", "best_choices"]

RELATIVE_GAP = 1e-4  # of the loss: far below what the prediction itself is worth
SECONDS = 20.0


@dataclass(frozen=True)
class Choice:
    """One way to store a tensor.

    Args:
        type: quant type's name.
        nbytes: bytes in the file.
        loss: what it adds to the loss, nats a token.
    """

    type: str
    nbytes: int
    loss: float


def best_choices(
    choices: Mapping[str, Sequence[Choice]], *, budget_bytes: int
) -> dict[str, Choice]:
    """Return the choice of each tensor whose losses add up to least within a size.

    Args:
        choices: tensor name → ways to store it.
        budget_bytes: bytes of all together, at most.

    Raises:
        CalibrateError: even the smallest ways are too large.
    """
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    smallest = sum(min(one.nbytes for one in ways) for ways in choices.values())
    if smallest > budget_bytes:
        raise CalibrateError(
            f"the smallest types take {smallest:,} bytes, {budget_bytes:,} are allowed"
        )
    pairs = [(name, one) for name, ways in choices.items() for one in ways]
    numbers = {name: number for number, name in enumerate(choices)}
    owner = np.array([numbers[name] for name, _ in pairs])
    losses = np.array([one.loss for _, one in pairs])
    # in shares of the budget: the solver's tolerances are for numbers near 1
    sizes = np.array([one.nbytes / budget_bytes for _, one in pairs])
    one_each = sparse.csr_array((np.ones(len(pairs)), (owner, np.arange(len(pairs)))))
    solved = milp(
        losses / (losses.max() or 1.0),
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(sizes[None], -np.inf, 1.0),
        ],
        options={"mip_rel_gap": RELATIVE_GAP, "time_limit": SECONDS},
    )
    if solved.x is None:
        raise CalibrateError(f"no choice of types was found: {solved.message}")
    chosen = {name: one for (name, one), taken in zip(pairs, solved.x > 0.5, strict=True) if taken}
    return repaired(chosen, choices, budget_bytes)


def repaired(
    chosen: dict[str, Choice], choices: Mapping[str, Sequence[Choice]], budget_bytes: int
) -> dict[str, Choice]:
    """Return the choices, a tensor made smaller where the solver's tolerance overran the size."""
    while (over := sum(one.nbytes for one in chosen.values()) - budget_bytes) > 0:
        steps = [
            (one.loss - chosen[name].loss, name, one)
            for name, ways in choices.items()
            for one in ways
            if one.nbytes < chosen[name].nbytes
        ]
        enough = [step for step in steps if chosen[step[1]].nbytes - step[2].nbytes >= over]
        _, name, one = min(enough or steps, key=lambda step: step[0])
        chosen[name] = one
    return chosen
