"""What is in a model file: its sections and facts, tensors and their numbers, differences."""

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
from llamune.anatomy.sections import Part, Section, sections_of
from llamune.anatomy.summary import (
    AdapterFacts,
    Rope,
    Summary,
    TokenizerFacts,
    adapter_facts,
    summarize,
)

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
