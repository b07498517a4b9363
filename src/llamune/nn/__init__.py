"""Packed layers, unpacking kernels, the fused loss, and `load`."""

from __future__ import annotations

# each module registers its types
from llamune.nn import grid_quants as _grid_quants  # noqa: F401
from llamune.nn import k_quants as _k_quants  # noqa: F401
from llamune.nn import legacy as _legacy  # noqa: F401
from llamune.nn import small_quants as _small_quants  # noqa: F401
from llamune.nn.adapted import adapted
from llamune.nn.compiling import can_compile, compile_layers, without_adapter
from llamune.nn.compute import Compute, best_device, choose_compute
from llamune.nn.grown import GrownEmbedding, GrownOutput, last_rows
from llamune.nn.loading import load
from llamune.nn.loss import fused_loss
from llamune.nn.noise import uniform
from llamune.nn.packed import PackedEmbedding, PackedLinear, from_pairs, to_pairs
from llamune.nn.repack import KEEP_TYPES, repack, require_keep_type, rounding_variance, steps_of
from llamune.nn.served import coarse_gelu, coarse_inputs
from llamune.nn.shards import part_of, process_mesh, whole
from llamune.nn.trained import TrainedLinear, train_packed
from llamune.nn.trained_table import TrainedTable, train_tables
from llamune.nn.unpack import How, unpack, unpackable

__all__ = [
    "KEEP_TYPES",
    "Compute",
    "GrownEmbedding",
    "GrownOutput",
    "How",
    "PackedEmbedding",
    "PackedLinear",
    "TrainedLinear",
    "TrainedTable",
    "adapted",
    "best_device",
    "can_compile",
    "choose_compute",
    "coarse_gelu",
    "coarse_inputs",
    "compile_layers",
    "from_pairs",
    "fused_loss",
    "last_rows",
    "load",
    "part_of",
    "process_mesh",
    "repack",
    "require_keep_type",
    "rounding_variance",
    "steps_of",
    "to_pairs",
    "train_packed",
    "train_tables",
    "uniform",
    "unpack",
    "unpackable",
    "whole",
    "without_adapter",
]
