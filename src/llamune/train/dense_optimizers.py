"""Optimizers of other people over weights that they cannot take as they are: 16 bits, or parts.

An optimizer is given stand-ins: f32 tensors that hold a weight, or this process's part of it, for
the time of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llamune.nn import part_of, uniform

__all__ = ["RoundedAtRandom", "over_parts"]

Groups = Sequence[tuple[nn.Parameter, float]]
"""parameters, each with its weight decay"""


def over_parts(make: Callable[..., torch.optim.Optimizer], groups: Groups) -> torch.optim.Optimizer:
    """Return an optimizer of this process's parts of f32 weights.

    Its state is made of ordinary tensors, as large as the parts.

    Args:
        make: makes the optimizer of groups of parameters.
        groups: the weights.
    """
    pairs = [(parameter, nn.Parameter(part_of(parameter))) for parameter, _ in groups]
    by_decay: dict[float, list[nn.Parameter]] = {}
    for (_, stand_in), (_, decay) in zip(pairs, groups, strict=True):
        by_decay.setdefault(decay, []).append(stand_in)
    optimizer = make([{"params": some, "weight_decay": decay} for decay, some in by_decay.items()])

    def take_gradients(*_: Any) -> None:
        for parameter, seen in pairs:
            seen.data = part_of(parameter)
            seen.grad = None if parameter.grad is None else part_of(parameter.grad)

    def forget_gradients(*_: Any) -> None:
        for pair in pairs:
            pair[1].grad = None

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(forget_gradients)
    return optimizer


class RoundedAtRandom(torch.optim.Optimizer):
    """Any optimizer over 16-bit weights: each is made f32 for its step, then rounded at random.

    A step is usually smaller than half the distance of two bf16 numbers: rounded to nearest it
    would be lost. The optimizer's own state stays f32.

    Args:
        make: makes the optimizer of groups of parameters.
        groups: bf16 weights; where they are shared out, this process's parts are moved.
        key: of the random numbers: a seed, and what tells this process from others.
    """

    def __init__(
        self,
        make: Callable[..., torch.optim.Optimizer],
        groups: Groups,
        *,
        key: tuple[int, ...],
    ) -> None:
        parameters = [parameter for parameter, _ in groups]
        self.seen: list[nn.Parameter] = []
        self.own: list[torch.optim.Optimizer] = []
        for parameter, decay in groups:
            # some optimizers make their state at once, of the weight's shape
            seen = nn.Parameter(torch.empty_like(part_of(parameter), dtype=torch.float32))
            self.own.append(make([{"params": [seen], "weight_decay": decay}]))
            seen.data = seen.data.new_empty(0)
            self.seen.append(seen)
        self.key = key
        self.n_steps = 0
        super().__init__(parameters, {"lr": self.own[0].param_groups[0]["lr"]})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002  as above
        """Move each weight, one after the other."""
        self.n_steps += 1
        parameters = self.param_groups[0]["params"]
        for number, (parameter, seen, own) in enumerate(
            zip(parameters, self.seen, self.own, strict=True)
        ):
            if parameter.grad is None:
                continue
            part, gradient = part_of(parameter), part_of(parameter.grad)
            parameter.grad = None
            if part.numel() == 0:  # fewer rows than processes
                continue
            own.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            seen.data, seen.grad = part.float(), gradient.float()
            own.step()
            part.copy_(rounded(seen.data, key=(*self.key, self.n_steps, number)))
            seen.data, seen.grad = seen.data.new_empty(0), None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all optimizers, and how many steps were made."""
        return {
            **super().state_dict(),
            "own": [one.state_dict() for one in self.own],
            "n_steps": self.n_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.n_steps = state_dict["n_steps"]
        for own, state in zip(self.own, state_dict["own"], strict=True):
            own.load_state_dict(state)


def rounded(values: Tensor, *, key: tuple[int, ...]) -> Tensor:
    """Return f32 numbers in bf16, each rounded up or down so that its mean is the number."""
    rows = values.view(values.shape[0], -1)
    noise = uniform((rows.shape[0], rows.shape[1]), key=key, device=values.device)
    bits = rows.view(torch.int32) + (noise * 2**16).to(torch.int32)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16).view(values.shape)
