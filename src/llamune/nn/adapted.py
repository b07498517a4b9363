"""A packed linear layer and the LoRA beside it as one operator; and the norms that DoRA divides by.

PEFT writes it as five operations, which read and write the layer's whole output three times more,
and in bf16 keep an f32 copy of every input. Here the two thin products (LoRA, arXiv:2106.09685,
equation 3) are added where the wide one lies, in the type that the layer computes in; the adapter
itself, its gradients and its optimizer stay in f32, as under automatic mixed precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llamune.nn.packed import PackedLinear, from_pairs, scratch_weight, to_pairs

__all__ = ["adapted"]

ROWS_AT_ONCE = 1024  # of the sum that only its norms are wanted of


def adapted(
    layer: PackedLinear,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    scale: float,
    dropout: float = 0.0,
    magnitude: Tensor | None = None,
) -> Tensor:
    """Return x Wᵀ + bias + scale (drop(x) Aᵀ) Bᵀ: (…, columns) -> (…, rows).

    Args:
        layer: holds W, packed, and the bias.
        x: what the layer computes on; its type is what is computed in.
        a: A, (rank, columns).
        b: B, (rows, rank).
        scale: of the adapter.
        dropout: share of what A multiplies that is left out, the rest made larger by as much.
        magnitude: of DoRA, (rows,): the norms that the rows of W + scale B A are brought to.
    """
    kept = drawn(x, a, 1 - dropout) if dropout else None
    out: Tensor
    out, _ = adapted_linear(
        x, layer.packed, a, b, kept,
        kind=layer.kind, n_pair_head=layer.n_pair_head, how=layer.how, scale=scale / (1 - dropout),
    )  # fmt: skip
    if magnitude is not None:
        norms = weight_norms(layer, a, b, scale=scale)
        # in bf16 the factors would be too near to 1 to move
        out = (out * (magnitude / norms)).to(out.dtype)
    return out if layer.bias is None else out + layer.bias.to(out.dtype)


@torch.library.custom_op(
    "llamune::drawn", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)
def drawn(x: Tensor, a: Tensor, share: float) -> Tensor:  # noqa: ARG001
    """Return for each number of x whether it is kept, which a share of them is, at random.

    Args:
        x: whatever is dropped of.
        a: whose draw it is: a compiler makes one of two calls that look the same.
        share: of what is kept.
    """
    if x.device.type != "cpu":  # MPS draws no 64 bits, and on GPUs a draw costs little
        return torch.rand(x.shape, device=x.device) < share
    lowest, levels = -(1 << 15), 1 << 16
    # a draw of the generator serves four numbers: torch's own dropout takes one for each
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    numbers = words.random_(-(1 << 63), None).view(torch.int16)[: x.numel()]
    return (numbers < lowest + round(share * levels)).view(x.shape)


@drawn.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bool)


def weight_norms(layer: PackedLinear, a: Tensor, b: Tensor, *, scale: float) -> Tensor:
    """Return the norm of each row of W + scale B A, f32, (rows,); no gradient goes through it.

    Source: DoRA, arXiv:2402.09353, equation 5 and section 4.3.

    Args:
        layer: holds W, packed.
        a: A, (rank, columns).
        b: B, (rows, rank).
        scale: of the adapter.
    """
    norms: Tensor = row_norms(
        layer.packed, a.detach(), b.detach(),
        kind=layer.kind, n_pair_head=layer.n_pair_head, how=layer.how, scale=scale,
    )  # fmt: skip
    return norms


@torch.library.custom_op("llamune::adapted_norms", mutates_args=())
def row_norms(
    packed: Tensor, a: Tensor, b: Tensor, *, kind: str, n_pair_head: int, how: str, scale: float
) -> Tensor:
    """Return the norms of the rows, some rows at a time."""
    weight = scratch_weight(packed, kind, a.dtype, how=how)
    in_file = to_pairs(b, n_pair_head, dim=0)
    weights, thins = torch.split(weight, ROWS_AT_ONCE), torch.split(in_file, ROWS_AT_ONCE)
    norms = [
        torch.linalg.vector_norm(torch.addmm(some, thin, a, alpha=scale), dim=1)
        for some, thin in zip(weights, thins, strict=True)
    ]
    return from_pairs(torch.cat(norms), n_pair_head)


@row_norms.register_fake
def _(packed: Tensor, a: Tensor, *_: object, **__: object) -> Tensor:
    return a.new_empty(packed.shape[0])


@torch.library.custom_op("llamune::adapted_linear", mutates_args=())
def adapted_linear(
    x: Tensor, packed: Tensor, a: Tensor, b: Tensor, kept: Tensor | None, *, kind: str,
    n_pair_head: int, how: str, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the layer's output, (…, rows), and scale x Aᵀ, (tokens, rank), for backward."""
    weight = scratch_weight(packed, kind, x.dtype, how=how)
    inputs = x.reshape(-1, x.shape[-1])
    out = from_pairs(inputs @ weight.T, n_pair_head)
    thin = (chosen(inputs, kept) @ a.to(x.dtype).T).mul_(scale)
    out.addmm_(thin, b.to(x.dtype).T)
    return out.view(*x.shape[:-1], -1), thin


def chosen(inputs: Tensor, kept: Tensor | None) -> Tensor:
    """Return inputs, (tokens, columns), zero where they are not kept."""
    return inputs if kept is None else inputs * kept.view(inputs.shape)


@adapted_linear.register_fake
def _(x: Tensor, packed: Tensor, a: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    n_tokens = x.numel() // x.shape[-1]
    return x.new_empty((*x.shape[:-1], packed.shape[0])), x.new_empty((n_tokens, a.shape[0]))


@torch.library.custom_op("llamune::adapted_input_gradient", mutates_args=())
def input_gradient(
    gradient: Tensor, a: Tensor, packed: Tensor, to_thin: Tensor, kept: Tensor | None, *,
    kind: str, n_pair_head: int, how: str,
) -> Tensor:  # fmt: skip
    """Return gradient W + to_thin A: (tokens, rows), (tokens, rank) -> (tokens, columns)."""
    weight = scratch_weight(packed, kind, gradient.dtype, how=how)
    out = to_pairs(gradient, n_pair_head) @ weight
    a = a.to(gradient.dtype)
    return out.addmm_(to_thin, a) if kept is None else out.add_(chosen(to_thin @ a, kept))


@input_gradient.register_fake
def _(gradient: Tensor, a: Tensor, *_: object, **__: object) -> Tensor:
    return gradient.new_empty((gradient.shape[0], a.shape[1]))


def keep_for_backward(
    ctx: Any,
    inputs: tuple[Any, ...],
    keyword_only_inputs: dict[str, Any],
    output: tuple[Tensor, Tensor],
) -> None:
    """Keep the input and what was kept of it, the thin product and the packed bytes."""
    x, packed, a, b, kept = inputs
    ctx.scale = keyword_only_inputs["scale"]
    ctx.layer = {key: value for key, value in keyword_only_inputs.items() if key != "scale"}
    ctx.save_for_backward(x, output[1], packed, a, b, kept)
    ctx.set_materialize_grads(False)


def backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, A and B; the packed weight has none."""
    if gradient is None:
        return None, None, None, None, None
    x, thin, packed, a, b, kept = ctx.saved_tensors
    outputs = gradient.reshape(-1, gradient.shape[-1])
    inputs = x.reshape(-1, x.shape[-1])
    to_thin = (outputs @ b.to(gradient.dtype)) * ctx.scale
    to_a = (to_thin.T @ chosen(inputs, kept)).to(a.dtype)
    to_b = (outputs.T @ thin).to(b.dtype)
    to_x = None
    if ctx.needs_input_grad[0]:
        to_x = input_gradient(outputs, a, packed, to_thin, kept, **ctx.layer).view(x.shape)
    return to_x, None, to_a, to_b, None


adapted_linear.register_autograd(backward, setup_context=keep_for_backward)
