"""What llama.cpp computes more coarsely than it must, for comparisons that look below that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["coarse_gelu"]


class TableGelu(nn.Module):
    """GELU in its tanh form, looked up by the input rounded to f16 and rounded to f16 itself.

    Source: ggml's `ggml_vec_gelu_f32` on the CPU (`GGML_GELU_FP16`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return GELU(x), element by element."""
        rounded = x.to(torch.float16).to(x.dtype)
        exact = nn.functional.gelu(rounded, approximate="tanh")
        return exact.to(torch.float16).to(x.dtype)


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
    for module, _ in changed:
        module.act_fn = TableGelu()
    try:
        yield
    finally:
        for module, activation in changed:
            module.act_fn = activation
