"""Blocked attention equals the plain formula, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llamune.nn.attention import BLOCK, attend, attend_backward, causal_attention


def plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Return attention by its formula, all scores at once."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.mT * scaling
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        n_query, n_key = scores.shape[-2:]
        ahead = torch.arange(n_key - n_query, n_key).unsqueeze(1) - torch.arange(n_key)
        mask = (ahead >= 0) & (ahead < (window or n_key))
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ value


def inputs(*, length: int, length_kv: int | None = None, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2, 6, length, 8), (2, 2, length_kv or length, 8), (2, 2, length_kv or length, 8)]
    # as transformers hands them over: (batch, length, head, d) with two dimensions swapped
    return [
        torch.randn(b, n, h, d, generator=generator, dtype=torch.float64)
        .transpose(1, 2)
        .requires_grad_()
        for b, h, n, d in sizes
    ]


CASES = [
    {},
    {"softcap": 5.0},
    {"window": 7},
    {"window": BLOCK + 3, "softcap": 2.0},
]


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("length", [1, 5, BLOCK, 2 * BLOCK + 11])
def test_values_and_gradients_equal_the_formula(length: int, options: dict[str, float]) -> None:
    ours, theirs = inputs(length=length), inputs(length=length)
    found = causal_attention(*ours, scaling=0.3, **options)
    wanted = plain(*theirs, scaling=0.3, **options)
    torch.testing.assert_close(found, wanted)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).double()
    found.backward(gradient)
    wanted.backward(gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_queries_after_a_cache_see_all_keys_before_them() -> None:
    tensors = inputs(length=3, length_kv=BLOCK + 9)
    torch.testing.assert_close(
        causal_attention(*tensors, scaling=1.0), plain(*tensors, scaling=1.0)
    )


def test_packed_sequences_do_not_see_each_other() -> None:
    length = BLOCK + 20
    segment = (torch.arange(length) >= 30).long()
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (causal & (segment.unsqueeze(1) == segment))[None, None]
    query, key, value = inputs(length=length)
    whole = causal_attention(query, key, value, scaling=0.5, mask=mask)
    second = causal_attention(query[:, :, 30:], key[:, :, 30:], value[:, :, 30:], scaling=0.5)
    torch.testing.assert_close(whole[:, :, 30:], second)


def test_a_query_that_may_look_nowhere_gives_zeros_and_no_nan() -> None:
    tensors = inputs(length=4)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    mask[0] = False
    out = causal_attention(*tensors, scaling=1.0, mask=mask[None, None])
    out.sum().backward()
    assert out[:, :, 0].eq(0).all()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in tensors)


def test_gradients_hold_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    tensors = [
        torch.randn(1, heads, 5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        for heads in (2, 1, 1)
    ]
    assert torch.autograd.gradcheck(
        lambda q, k, v: causal_attention(q, k, v, scaling=0.7, softcap=3.0, window=3), tensors
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_the_operators_say_truly_what_they_return(batch: int) -> None:
    tensors = [
        torch.randn(batch, BLOCK + 3, heads, 8).transpose(1, 2).requires_grad_()
        for heads in (4, 2, 2)
    ]
    arguments = (*tensors, None, [0.5, 0.0, 0.0])
    torch.library.opcheck(attend, arguments)
    with torch.no_grad():
        out, totals = attend(*arguments)
    inputs = (out, *(tensor.detach() for tensor in tensors), None, out, totals, [0.5, 0.0, 0.0])
    torch.library.opcheck(attend_backward, inputs)
