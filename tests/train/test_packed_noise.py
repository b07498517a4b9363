"""The parts of the forecast of rounding noise, each against a simulation of what it foretells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamune.train.packed_noise import mean_updates, variance_share


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.235, 0.245, 0.5, 3.0])
def test_variance_of_rounding_at_random(mean: float) -> None:
    """Moves from one value of a grid, rounded up or down, hit the grid around where they lead."""
    random = np.random.default_rng(0)
    moves = random.normal(scale=mean / np.sqrt(2 / np.pi), size=400_000)
    hit = np.floor(moves) + (random.random(moves.shape) < moves - np.floor(moves))
    assert float(variance_share(np.array([mean]))[0]) == pytest.approx(
        float(np.mean((hit - moves) ** 2)), rel=0.06
    )


def test_adamw_moves_by_what_noise_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(8192))
    optimizer = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0)
    found = []
    for _ in range(60):
        before = weight.detach().clone()
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
        found.append(float((weight.detach() - before).abs().mean()))
    foretold = mean_updates("adamw8", 60)
    assert found[4:] == pytest.approx(foretold[4:].tolist(), rel=0.06)
