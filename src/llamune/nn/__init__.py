"""Packed layers, unpacking kernels, the fused loss, and `load`."""

from __future__ import annotations

# each module registers its types
from llamune.nn import grid_quants as _grid_quants  # noqa: F401
from llamune.nn import k_quants as _k_quants  # noqa: F401
from llamune.nn import legacy as _legacy  # noqa: F401
from llamune.nn import small_quants as _small_quants  # noqa: F401
from llamune.nn.compiling import can_compile, compile_layers
from llamune.nn.compute import Compute, best_device, choose_compute
from llamune.nn.loading import load
from llamune.nn.loss import fused_loss
from llamune.nn.packed import PackedEmbedding, PackedLinear
from llamune.nn.served import coarse_gelu
from llamune.nn.unpack import unpack, unpackable

__all__ = [
    "Compute",
    "PackedEmbedding",
    "PackedLinear",
    "best_device",
    "can_compile",
    "choose_compute",
    "coarse_gelu",
    "compile_layers",
    "fused_loss",
    "load",
    "unpack",
    "unpackable",
]
