"""torch.compile where a compiler is at hand, plain torch otherwise: the same results either way."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = ["can_compile", "compiled"]

logger = logging.getLogger(__name__)

COMPILERS = ("g++", "clang++", "c++", "cl")
BlockFunction = Callable[[Tensor, Tensor], Tensor]


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
def compiled(function: BlockFunction, dtype: torch.dtype) -> BlockFunction:
    """Return the compiled form of one type's block function, for any number of blocks.

    A compiler that fails at the first use is noted once, and plain torch takes over.
    """

    def cast(blocks: Tensor, halves: Tensor) -> Tensor:
        return function(blocks, halves).to(dtype)

    fast = torch.compile(cast, dynamic=True)
    broken = False

    def run(blocks: Tensor, halves: Tensor) -> Tensor:
        nonlocal broken
        if broken or not can_compile(blocks.device.type):
            return cast(blocks, halves)
        try:
            return fast(blocks, halves)
        except (RuntimeError, OSError) as error:
            logger.warning("torch.compile failed, going on without it: %s", error)
            broken = True
            return cast(blocks, halves)

    return run
