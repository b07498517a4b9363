"""What llama.cpp computes more coarsely than it must, for comparisons that look below that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llamune.gguf import quant_type
from llamune.nn.packed import PackedLinear

__all__ = ["coarse_gelu", "coarse_inputs"]

BLOCK, LARGE_BLOCK = 32, 256
LEVELS = 127
AS_FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16}


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


@contextmanager
def coarse_inputs(model: nn.Module) -> Iterator[None]:
    """Let packed layers multiply inputs rounded as llama.cpp's CPU code does while the block runs.

    It multiplies integers: inputs are brought to 8 bits first, in blocks that suit the weights'.
    """
    hooks = [
        layer.register_forward_pre_hook(rounds_input)
        for layer in model.modules()
        if isinstance(layer, PackedLinear)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rounds_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return a packed layer's inputs with the first one rounded."""
    x, *others = inputs
    return (rounded_input(x, str(layer.kind)), *others)


def rounded_input(x: Tensor, kind: str) -> Tensor:
    """Return what is multiplied with weights of a type, in the type of x.

    Source: `vec_dot_type` of each type in ggml-cpu, and ggml's `quantize_row_q8_0_ref` and
        `quantize_row_q8_K_ref`.
    """
    if kind == "F32":
        return x
    if kind in AS_FLOATS:
        return x.to(AS_FLOATS[kind]).to(x.dtype)
    if quant_type(kind).block_size < LARGE_BLOCK:
        blocks = x.float().reshape(-1, BLOCK)
        step = blocks.abs().amax(-1, keepdim=True) / LEVELS
        rounded = (blocks * per(step)).round() * step.half()
    else:
        blocks = x.float().reshape(-1, LARGE_BLOCK)
        steps_each = -LEVELS * per(blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)))
        rounded = (blocks * steps_each).round() * per(steps_each)
    return rounded.view(x.shape).to(x.dtype)


def per(step: Tensor) -> Tensor:
    """Return 1 / step, 0 where the step is 0."""
    return torch.where(step == 0, torch.zeros_like(step), 1 / step)
