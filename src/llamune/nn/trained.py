"""Packed layers that are trained in their blocks: backward hands the gradient over and forgets it.

A layer's weight gradient lives from the moment backward reaches the layer until the layer's
`learn` has used it, so that one such gradient exists at a time. The gradient of the inputs is
made first, from the weight as forward used it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llamune.nn.packed import PackedLinear, from_pairs, scratch_weight, to_pairs

__all__ = ["TrainedLinear", "train_packed"]

Learn = Callable[[Tensor], None]


def not_learning(gradient: Tensor) -> None:
    """Refuse: the trainer has not said what is done with gradients."""
    raise RuntimeError(f"a gradient of shape {tuple(gradient.shape)} came before a trainer did")


class LinearInBackward(torch.autograd.Function):
    """x Wᵀ; backward gives the weight's gradient to the layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: TrainedLinear) -> Tensor:  # noqa: ARG004
        """Return (…, rows) from (…, columns)."""
        ctx.layer = layer
        ctx.save_for_backward(x)
        weight = scratch_weight(layer.packed, layer.kind, x.dtype, how=layer.how)
        return from_pairs(x @ weight.T, layer.n_pair_head)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of x, then let the layer learn."""
        (x,) = ctx.saved_tensors
        layer = ctx.layer
        flowing = to_pairs(gradient, layer.n_pair_head)
        weight = scratch_weight(layer.packed, layer.kind, x.dtype, how=layer.how)
        to_x = flowing @ weight if ctx.needs_input_grad[0] else None
        # (rows, positions) times (positions, columns), rows as the file has them
        layer.learn((flowing.flatten(0, -2).T @ x.flatten(0, -2)).float())
        return to_x, None, None


class TrainedLinear(PackedLinear):
    """A packed linear layer whose weight is trained.

    Args:
        layer: what it takes the place of; its bytes are copied, for they will be written.

    Attributes:
        learn: called in backward with the weight's gradient, f32 (rows, columns), rows in the
            file's order; it may use the memory.
    """

    def __init__(self, layer: PackedLinear) -> None:
        super().__init__(
            layer.packed.clone(memory_format=torch.contiguous_format),
            layer.kind,
            layer.in_features,
            dtype=layer.dtype,
            n_pair_head=layer.n_pair_head,
            how=layer.how,
        )
        self.bias = layer.bias
        self.learn: Learn = not_learning
        # makes autograd come here whatever the inputs need
        self.anchor = torch.zeros((), requires_grad=True, device=self.packed.device)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  nn.Linear's name
        """Return input Wᵀ + bias."""
        # torch's Function has no types
        out: Tensor = LinearInBackward.apply(input, self.anchor, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


def train_packed(model: nn.Module, modules: list[str]) -> dict[str, TrainedLinear]:
    """Make packed linear layers of a model trainable, in place.

    Args:
        model: from `load`.
        modules: paths of the layers.

    Returns:
        module path -> the trainable layer.
    """
    trained = {}
    for path in modules:
        parent, _, name = path.rpartition(".")
        layer = model.get_submodule(path)
        if not isinstance(layer, PackedLinear):
            raise TypeError(f"{path} is a {type(layer).__name__}, no packed layer")
        trained[path] = TrainedLinear(layer)
        setattr(model.get_submodule(parent), name, trained[path])
    return trained
