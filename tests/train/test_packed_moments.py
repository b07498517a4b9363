"""What the optimizers remember, against the ones that keep everything."""

from __future__ import annotations

import pytest
import torch

from llamune.train.packed_moments import EightBit, Factored, Single

SHAPE = (24, 256)
CPU = torch.device("cpu")


def gradients(n_steps: int) -> list[torch.Tensor]:
    """Noise about a slowly turning direction, rows and columns of very different size."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.logspace(-3, 0, SHAPE[0]).unsqueeze(1)
    columns = torch.logspace(-2, 0, SHAPE[1])
    centre = torch.randn(SHAPE, generator=generator)
    return [
        rows * columns * (centre + torch.randn(SHAPE, generator=generator)) for _ in range(n_steps)
    ]


def test_eight_bits_go_where_adamw_goes() -> None:
    weight = torch.nn.Parameter(torch.zeros(SHAPE))
    judge = torch.optim.AdamW([weight], lr=1.0, weight_decay=0.0)
    moments = EightBit(SHAPE, CPU)
    for step, gradient in enumerate(gradients(60), start=1):
        weight.grad = gradient.clone()
        before = weight.detach().clone()
        judge.step()
        wanted = before - weight.detach()
        found = moments.direction(gradient.clone(), step=step, key=(step,))
    assert float(torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)) > 0.99
    assert float((found - wanted).abs().mean()) < 0.1 * float(wanted.abs().mean())


def test_factored_moments_are_exact_where_squares_are_a_product() -> None:
    rows, columns = torch.logspace(-2, 0, SHAPE[0]), torch.logspace(-1, 0, SHAPE[1])
    signs = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).sign()
    factored, single = Factored(SHAPE, CPU), Single(torch.Size(SHAPE), CPU)
    for step in (1, 2, 3):
        gradient = rows.unsqueeze(1) * columns * signs
        found = factored.direction(gradient.clone(), step=step, key=())
        wanted = single.direction(gradient.clone(), step=step, key=())
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(found, signs)


@pytest.mark.parametrize("make", [Factored, EightBit])
def test_what_is_remembered_is_small(make: type[Factored] | type[EightBit]) -> None:
    kept = make(SHAPE, CPU).tensors().values()
    n_bytes = sum(one.numel() * one.element_size() for one in kept)
    n_weights = SHAPE[0] * SHAPE[1]
    assert n_bytes / n_weights < (0.2 if make is Factored else 2.05)


@pytest.mark.parametrize("make", [Factored, EightBit])
def test_no_gradient_gives_no_update(make: type[Factored] | type[EightBit]) -> None:
    found = make(SHAPE, CPU).direction(torch.zeros(SHAPE), step=1, key=(0,))
    assert not found.any()
