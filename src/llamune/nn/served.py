"""What llama.cpp computes more coarsely than it must, for comparisons that look below that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["coarse_gelu"]


class TableGelu(nn.Module):
    """A model's own GELU, looked up by its input rounded to f16 and rounded to f16 itself.

    The model's own, for a wrong one must not be hidden.
    Source: ggml's `ggml_vec_gelu_f32` on the CPU (`GGML_GELU_FP16`).
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        """Return GELU(x), element by element."""
        looked_up = self.own(x.to(torch.float16).to(x.dtype)).to(torch.float16).to(x.dtype)
        return torch.where(x >= 10, x, torch.where(x <= -10, torch.zeros_like(x), looked_up))


@contextmanager
def coarse_gelu(model: nn.Module) -> Iterator[None]:
    """Let Gemma's feed-forward parts use llama.cpp's table GELU while the block runs.

    Without it the table's rounding (mean KL about 4e-8 on a model of three layers) hides what a
    comparison in F32 is after. Models without GELU are left as they are.
    """
    changed: list[tuple[nn.Module, nn.Module]] = []
    for module in model.modules():
        activation = getattr(module, "act_fn", None)
        if isinstance(activation, nn.Module) and "gelu" in type(activation).__name__.lower():
            changed.append((module, activation))
    for module, activation in changed:
        module.act_fn = TableGelu(activation)
    try:
        yield
    finally:
        for module, activation in changed:
            module.act_fn = activation
