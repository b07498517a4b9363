"""Model families as data: names, shapes, sizes and how each differs from the transformers model.

Adding a family means one file here that calls `register`, and one row in `tests/arch`.
"""

from __future__ import annotations

from llamune.arch.described import Config, Described
from llamune.arch.family import Family, OffsetNorm, PermuteRows, Role, Sizes, TensorRule, Transform
from llamune.arch.registry import NewKeys, describe, families, keys_of_config
from llamune.arch.sections import is_extra, section_of

__all__ = [
    "Config",
    "Described",
    "Family",
    "NewKeys",
    "OffsetNorm",
    "PermuteRows",
    "Role",
    "Sizes",
    "TensorRule",
    "Transform",
    "describe",
    "families",
    "is_extra",
    "keys_of_config",
    "section_of",
]
