"""llama.cpp's mixtures: more bits for the tensors that suffer most, rule by rule.

Source: `llama_tensor_get_type_impl` of llama.cpp's `llama-quant.cpp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from llamune.convert.categories import Category
from llamune.errors import LlamuneError
from llamune.gguf import FileType, QuantType, TensorInfo

__all__ = ["BLOCK_NUMBER", "EIGHT_EXPERTS", "Counters", "ModelShape", "Question", "type_by_rule"]

BLOCK_NUMBER = re.compile(r"blk\.(\d+)\.")
EIGHT_EXPERTS = 8  # Mixtral's number has rules of its own
WIDE_SHARING = 4  # query heads that share a key/value head

LOWEST = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"}
UPPER_LOWEST = {"IQ2_S", "IQ2_M"}
EMBEDDING_TYPES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "Q2_K"),
        **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
        **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
    }
)
ATTENTION_OUTPUT_TYPES: Mapping[str, str] = MappingProxyType(
    {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}
)
EIGHT_EXPERTS_ATTENTION_OUTPUT = {
    "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S",
    "IQ3_M", "IQ4_XS",
}  # fmt: skip
KEY_AND_QUERY_TYPES: Mapping[str, str] = MappingProxyType({"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"})


@dataclass(frozen=True)
class ModelShape:
    """What the rules ask about a model.

    Args:
        architecture: the family's name in the file.
        n_layer: blocks.
        n_expert: experts a block, 0 without.
        n_shared: query heads that share a key/value head; 0 without attention.
        is_seventy_b: whether llama.cpp calls it a 70B model.
    """

    architecture: str
    n_layer: int
    n_expert: int
    n_shared: int
    is_seventy_b: bool


@dataclass
class Counters:
    """How many tensors of a kind have been seen, for rules about the first or last blocks."""

    n_attention_v: int = 0
    seen: dict[Category, int] = field(default_factory=dict)

    def next(self, category: Category) -> int:
        """Return how many tensors of a category came before, and count one more."""
        number = self.seen.get(category, 0)
        self.seen[category] = number + 1
        return number


@dataclass(frozen=True)
class Question:
    """One tensor whose type is to be chosen."""

    tensor: TensorInfo
    file_type: FileType
    shape: ModelShape
    has_importance: bool
    tied: bool
    counters: Counters

    @property
    def wanted(self) -> str:
        """The file type's name."""
        return self.file_type.name

    def block(self, category: Category) -> int:
        """Return the number of the tensor's block, and count it as seen.

        Experts do not come in order, so a name's number counts where there are any.
        """
        number = self.counters.next(category)
        if self.shape.n_expert <= 1:
            return number
        match = BLOCK_NUMBER.match(self.tensor.name)
        if match is None or int(match[1]) >= self.shape.n_layer:
            raise LlamuneError(f"tensor {self.tensor.name!r} belongs to no block of the model")
        return int(match[1])


def type_by_rule(question: Question, category: Category, *, output: QuantType | None = None) -> str:
    """Return the name of the type that llama.cpp's mixture gives a tensor.

    Args:
        question: the tensor and what the rules ask about its model.
        category: what the tensor is.
        output: the person's choice for the output matrix.
    """
    tensor, wanted, shape = question.tensor, question.wanted, question.shape
    base = question.file_type.base.name
    if shape.architecture == "glm5-next" and any(
        part in tensor.name for part in ("attn_q_a", "attn_q_b", "nextn.eh_proj")
    ):
        return "Q8_0"
    if category is Category.OUTPUT or (question.tied and category is Category.EMBEDDING):
        return output_type(question) if output is None else output.name
    if wanted == "MXFP4_MOE":
        return mixture_of_experts_type(question, category)
    if category is Category.EMBEDDING:
        return EMBEDDING_TYPES.get(wanted, base)
    if wanted in LOWEST:
        return lowest_type(question, category)
    rule = RULES.get(category)
    return base if rule is None else rule(question)


def output_type(question: Question) -> str:
    """Return the type of the output matrix, which costs most when it is rounded."""
    base, wanted = question.file_type.base, question.wanted
    uneven = question.tensor.n_columns % base.block_size != 0
    if wanted == "MXFP4_MOE" or question.shape.architecture == "falcon" or uneven:
        return "Q8_0"
    if wanted in LOWEST or wanted == "IQ3_XXS":
        return "Q5_K"
    return "Q8_0" if base.name == "Q8_0" else "Q6_K"


def mixture_of_experts_type(question: Question, category: Category) -> str:
    """Return the type for MXFP4_MOE: experts in MXFP4, all else in Q8_0."""
    shape = question.tensor.shape
    is_stacked = len(shape) >= 3 and shape[-3] > 1
    if question.shape.architecture == "bailingmoe3":  # its attention is stacked too
        experts = (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN)
        is_stacked = is_stacked and category in experts
    return "MXFP4" if is_stacked else "Q8_0"


def lowest_type(question: Question, category: Category) -> str:
    """Return the type within the 1- and 2-bit file types."""
    shape = question.shape
    is_upper = question.wanted in UPPER_LOWEST
    better = "IQ3_S" if is_upper else "Q2_K"
    base = question.file_type.base.name
    if category is Category.ATTENTION_V:
        is_shared = max(shape.n_shared, shape.n_expert) >= WIDE_SHARING
        return "Q4_K" if is_shared else better
    if category is Category.ATTENTION_K and shape.n_expert == EIGHT_EXPERTS:
        return "Q4_K"
    if category is Category.FFN_DOWN:
        number = question.counters.next(category)
        return better if number < shape.n_layer // 8 else base
    if category is Category.ATTENTION_OUTPUT:
        return lowest_attention_output_type(question, is_upper=is_upper)
    return base


def lowest_attention_output_type(question: Question, *, is_upper: bool) -> str:
    """Return the type of the projection after attention within those file types."""
    if question.shape.n_expert == EIGHT_EXPERTS:
        return "Q5_K"
    if question.wanted in {"IQ1_S", "IQ1_M"}:
        return "IQ2_XXS"
    return "IQ3_S" if is_upper else question.file_type.base.name


def uses_more_bits(number: int, count: int) -> bool:
    """Whether a block is among the half that gets more bits: the first, the last, every third."""
    return number < count // 8 or number >= 7 * count // 8 or (number - count // 8) % 3 == 2


def attention_v_type(question: Question) -> str:
    """Return the type of the value projection, small where heads share it and sensitive."""
    shape = question.shape
    number = question.counters.next(Category.ATTENTION_V)
    kind = shared_v_type(question, number) or question.file_type.base.name
    if shape.is_seventy_b and kind in {"Q3_K", "Q4_K"}:
        kind = "Q5_K"
    return "Q8_0" if shape.n_expert == EIGHT_EXPERTS else kind


def shared_v_type(question: Question, number: int) -> str | None:
    """Return the value projection's type before corrections for big models; None for the base."""
    wanted = question.wanted
    is_shared = question.shape.n_shared >= WIDE_SHARING
    by_name: dict[str, str | None] = {
        "Q2_K": "Q4_K" if is_shared else "Q3_K",
        "Q2_K_S": "Q4_K" if is_shared else None,
        "IQ3_XXS": "Q4_K" if is_shared else ("IQ3_XXS" if question.has_importance else "IQ3_S"),
        "IQ3_XS": "Q4_K" if is_shared else None,
        "IQ3_S": "Q4_K" if is_shared else None,
        "IQ3_M": "Q4_K",
        "Q3_K_M": "Q5_K" if number < 2 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "IQ4_NL": "Q5_K" if is_shared else None,
        "IQ4_XS": "Q5_K" if is_shared else None,
        "Q4_K_S": "Q5_K" if number < 4 else None,
    }
    if wanted in {"Q4_K_M", "Q5_K_M"}:
        return "Q6_K" if uses_more_bits(number, question.counters.n_attention_v) else None
    return by_name.get(wanted)


def attention_k_type(question: Question) -> str:
    """Return the type of the key projection."""
    if question.shape.n_expert == EIGHT_EXPERTS:
        return "Q8_0"
    return attention_q_type(question)


def attention_q_type(question: Question) -> str:
    """Return the type of the query projection."""
    return KEY_AND_QUERY_TYPES.get(question.wanted, question.file_type.base.name)


def attention_output_type(question: Question) -> str:
    """Return the type of the projection after attention."""
    base, wanted = question.file_type.base.name, question.wanted
    if question.shape.architecture == "falcon":
        return "Q4_K" if wanted == "Q3_K_L" else base
    if question.shape.n_expert == EIGHT_EXPERTS:
        return "Q5_K" if wanted in EIGHT_EXPERTS_ATTENTION_OUTPUT else base
    return ATTENTION_OUTPUT_TYPES.get(wanted, base)


def ffn_down_type(question: Question) -> str:
    """Return the type of the feed-forward's second matrix, the most sensitive of its three."""
    count, wanted = question.shape.n_layer, question.wanted
    number = question.block(Category.FFN_DOWN)
    is_early = number < count // 8
    more = uses_more_bits(number, count)
    if question.shape.architecture == "falcon":
        return falcon_ffn_down_type(question, number, more=more)
    by_name: dict[str, str | None] = {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if is_early else None,
        "Q3_K_M": "Q5_K" if number < count // 16 else "Q4_K",
        "Q3_K_L": "Q5_K",
        "Q4_K_S": "Q5_K" if is_early else None,
        "Q4_K_M": "Q6_K" if more else None,
        "Q5_K_M": "Q6_K" if more else None,
    }
    return by_name.get(wanted) or early_ffn_down_type(question, is_early=is_early, more=more)


def falcon_ffn_down_type(question: Question, number: int, *, more: bool) -> str:
    """Return the type of that matrix in Falcon models, which have it wider."""
    count = question.shape.n_layer
    is_first = number < count // 16
    is_early = number < count // 8
    by_name: dict[str, str | None] = {
        "Q2_K": "Q3_K",
        "Q2_K_S": "Q4_K" if is_early else None,
        "Q3_K_M": "Q5_K" if is_first else ("Q4_K" if more else "Q3_K"),
        "Q3_K_L": "Q4_K",
        "Q4_K_M": "Q6_K" if is_first else ("Q5_K" if more else "Q4_K"),
        "Q5_K_M": "Q6_K" if more else None,
    }
    found = by_name.get(question.wanted)
    return found or early_ffn_down_type(question, is_early=is_early, more=more)


def early_ffn_down_type(question: Question, *, is_early: bool, more: bool) -> str:
    """Return the type of that matrix in file types whose rules hang on an importance matrix."""
    wanted, weighted = question.wanted, question.has_importance
    if wanted == "IQ3_XXS" and not weighted:
        return "Q4_K" if is_early else "Q3_K"
    if wanted == "IQ3_M" and (is_early or (question.shape.n_expert == EIGHT_EXPERTS and more)):
        return "Q4_K"
    if wanted in {"IQ4_NL", "IQ4_XS"} and is_early and not weighted:
        return "Q5_K"
    if wanted in {"Q4_0", "Q5_0"} and is_early and weighted:
        return {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}[wanted]
    return question.file_type.base.name


def ffn_gate_type(question: Question) -> str:
    """Return the type of the gate."""
    return middle_type(question, question.block(Category.FFN_GATE))


def ffn_up_type(question: Question) -> str:
    """Return the type of the feed-forward's first matrix."""
    return middle_type(question, question.block(Category.FFN_UP))


def middle_type(question: Question, number: int) -> str:
    """Return fewer bits for the middle blocks of IQ3_XS."""
    count = question.shape.n_layer
    is_middle = count // 8 <= number < 7 * count // 8
    return "IQ3_XXS" if question.wanted == "IQ3_XS" and is_middle else question.file_type.base.name


RULES: Mapping[Category, Callable[[Question], str]] = MappingProxyType(
    {
        Category.ATTENTION_V: attention_v_type,
        Category.ATTENTION_K: attention_k_type,
        Category.ATTENTION_Q: attention_q_type,
        Category.ATTENTION_OUTPUT: attention_output_type,
        Category.FFN_DOWN: ffn_down_type,
        Category.FFN_GATE: ffn_gate_type,
        Category.FFN_UP: ffn_up_type,
    }
)
