"""What is in a model file: its sections and facts, tensors and their numbers."""

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
    "Part",
    "Rope",
    "Section",
    "Summary",
    "TokenizerFacts",
    "adapter_facts",
    "sections_of",
    "summarize",
]
