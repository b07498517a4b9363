"""torch.compile where a compiler is at hand, plain torch otherwise: the same results either way."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "COMPILE_FROM_PARAMETERS",
    "can_compile",
    "compile_layers",
    "compiled",
    "plain",
    "without_adapter",
]

logger = logging.getLogger(__name__)

COMPILE_FROM_PARAMETERS = 20_000_000  # below, compiling takes longer than it saves
COMPILERS = ("g++", "clang++", "c++", "cl")
BlockFunction = Callable[..., Tensor]
Writer = Callable[..., None]


@cache
def can_compile(device_type: str) -> bool:
    """Whether `torch.compile` has what it needs for a device: a C++ compiler, or Triton."""
    if device_type == "cpu":
        wanted = os.environ.get("CXX")
        return any(shutil.which(name) for name in ([wanted] if wanted else COMPILERS))
    if device_type == "cuda":
        from torch.utils._triton import has_triton

        return bool(has_triton())
    return False


@cache
def plain(function: BlockFunction) -> Writer:
    """Return what writes a block function's floats into the first argument."""

    def write(out: Tensor, *inputs: Tensor) -> None:
        out.copy_(function(*inputs))

    return write


@cache
def compiled(function: BlockFunction) -> Writer:
    """Return the compiled form of `plain(function)`, for any number of blocks.

    A compiler that fails at the first use is noted once, and plain torch takes over.
    """
    slow = plain(function)
    fast = torch.compile(slow)
    broken = False

    def write(out: Tensor, *inputs: Tensor) -> None:
        nonlocal broken
        if not broken and can_compile(out.device.type):
            blocks, halves, *_ = inputs
            for tensor in (out, blocks, halves):  # any number of blocks, of one size
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
            try:
                fast(out, *inputs)
            except (RuntimeError, OSError) as error:
                logger.warning("torch.compile failed, going on without it: %s", error)
                broken = True
            else:
                return
        slow(out, *inputs)

    return write


def compile_layers(model: nn.Module, *, compiled: bool | None = None) -> bool:
    """Compile each decoder layer in place; to be called after adapters are on.

    All layers share their code, so one compilation serves them all. It takes some ten seconds,
    and again when the length of batches changes for the first time: pad to a few lengths.

    Args:
        model: a loaded model, or PEFT's wrapper of one.
        compiled: default where a compiler is at hand and the model is large enough to gain.

    Returns:
        Whether the layers are compiled now.
    """
    layers = without_adapter(model).get_decoder().layers
    if compiled is None:
        linears = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
        n_weights = sum(layer.in_features * layer.out_features for layer in linears)
        device = next(layers.parameters()).device
        compiled = n_weights >= COMPILE_FROM_PARAMETERS and can_compile(device.type)
    if compiled:
        for layer in layers:
            layer.compile()
    return compiled


def without_adapter(model: Any) -> Any:
    """Return the model itself of a loaded model, or of PEFT's wrapper of one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
