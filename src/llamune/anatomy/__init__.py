"""What is in a model file: its sections and facts, tensors and their numbers, differences.

Sections and facts are there at once; what looks at the numbers of tensors loads on first use, so
that `llamune inspect` starts sooner.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llamune.anatomy.sections import Part, Section, sections_of
from llamune.anatomy.summary import (
    AdapterFacts,
    Rope,
    Summary,
    TokenizerFacts,
    adapter_facts,
    summarize,
)

if TYPE_CHECKING:
    from llamune.anatomy.adapter_effect import Effect, adapter_effects, by_block, by_module
    from llamune.anatomy.differences import (
        FileDifference,
        KeyChange,
        Sample,
        SectionChange,
        TensorChange,
        compare,
    )
    from llamune.anatomy.neighbors import Neighbor, Word, cosines, find_words, nearest, text_of
    from llamune.anatomy.numbers import TensorNumbers, tensor_numbers

LOOKS_AT_NUMBERS = {
    "Effect": "llamune.anatomy.adapter_effect",
    "FileDifference": "llamune.anatomy.differences",
    "KeyChange": "llamune.anatomy.differences",
    "Neighbor": "llamune.anatomy.neighbors",
    "Sample": "llamune.anatomy.differences",
    "SectionChange": "llamune.anatomy.differences",
    "TensorChange": "llamune.anatomy.differences",
    "TensorNumbers": "llamune.anatomy.numbers",
    "Word": "llamune.anatomy.neighbors",
    "adapter_effects": "llamune.anatomy.adapter_effect",
    "by_block": "llamune.anatomy.adapter_effect",
    "by_module": "llamune.anatomy.adapter_effect",
    "compare": "llamune.anatomy.differences",
    "cosines": "llamune.anatomy.neighbors",
    "find_words": "llamune.anatomy.neighbors",
    "nearest": "llamune.anatomy.neighbors",
    "tensor_numbers": "llamune.anatomy.numbers",
    "text_of": "llamune.anatomy.neighbors",
}

__all__ = [
    "AdapterFacts",
    "Effect",
    "FileDifference",
    "KeyChange",
    "Neighbor",
    "Part",
    "Rope",
    "Sample",
    "Section",
    "SectionChange",
    "Summary",
    "TensorChange",
    "TensorNumbers",
    "TokenizerFacts",
    "Word",
    "adapter_effects",
    "adapter_facts",
    "by_block",
    "by_module",
    "compare",
    "cosines",
    "find_words",
    "nearest",
    "sections_of",
    "summarize",
    "tensor_numbers",
    "text_of",
]


def __getattr__(name: str) -> Any:
    if name in LOOKS_AT_NUMBERS:
        return getattr(importlib.import_module(LOOKS_AT_NUMBERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
