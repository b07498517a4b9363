"""Which type each tensor of a file gets: llama.cpp's choice, rule by rule.

Source: `llama_tensor_get_type` of llama.cpp's `llama-quant.cpp`; tests/convert/ holds the choice
for every file type and family against tables recorded from llama.cpp's own quantizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from llamune.convert.categories import Category, category_of, is_quantizable
from llamune.convert.mixtures import (
    BLOCK_NUMBER,
    EIGHT_EXPERTS,
    Counters,
    ModelShape,
    Question,
    type_by_rule,
)
from llamune.errors import LlamuneError
from llamune.gguf import (
    FileType,
    MissingKey,
    ModelFile,
    QuantType,
    TensorInfo,
    ValueType,
    quant_type,
)

__all__ = ["ModelShape", "TypeOptions", "choose_types", "copied_types", "model_shape"]

SEVENTY_B_BLOCKS = {"qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}

# type → the type whose blocks fit where its own do not
FALLBACKS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
            "IQ4_NL",
        ),
        **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
        "Q4_K": "Q5_0",
        "Q5_K": "Q5_1",
        "Q6_K": "Q8_0",
    }
)


@dataclass(frozen=True)
class TypeOptions:
    """What the person decided about types.

    Args:
        output: type of the output matrix (of the token embedding where they are one).
        embedding: type of the token embedding.
        tensors: (pattern, type): the first pattern found in a tensor's name decides its type.
        pure: give every tensor the file type's main type.
    """

    output: QuantType | None = None
    embedding: QuantType | None = None
    tensors: Sequence[tuple[re.Pattern[str], QuantType]] = ()
    pure: bool = False


def model_shape(file: ModelFile) -> ModelShape:
    """Return what the rules ask about a model.

    Raises:
        GgufError: a key that says so is missing.
    """
    name = file.architecture
    metadata = file.metadata

    def first(key: str, default: int) -> int:
        full = f"{name}.{key}"
        if full not in metadata:
            return default
        if metadata.value_type(full) is ValueType.ARRAY:
            values = metadata.array(full)
            return int(values[0]) if len(values) else default
        return metadata.integer(full)

    if f"{name}.block_count" not in metadata:
        raise MissingKey(file.path, f"{name}.block_count")
    n_layer, n_expert = first("block_count", 0), first("expert_count", 0)
    n_head = first("attention.head_count", 0)
    n_head_kv = first("attention.head_count_kv", n_head)
    seventy = SEVENTY_B_BLOCKS.get(name) == n_layer
    if name in {"llama", "llama-embed"}:
        seventy = n_layer == 80 and n_head != n_head_kv and n_expert != EIGHT_EXPERTS
    shared = n_head // n_head_kv if n_head_kv else 0
    return ModelShape(name, n_layer, n_expert, shared, seventy)


def in_quantizer_order(tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    """Return tensors in llama.cpp's order: those of no block, then block by block, by name."""

    def place(tensor: TensorInfo) -> tuple[int, bytes]:
        match = BLOCK_NUMBER.match(tensor.name)
        return (int(match[1]) if match else -1), tensor.name.encode()

    return sorted(tensors, key=place)


def choose_types(
    tensors: Sequence[TensorInfo],
    file_type: FileType,
    shape: ModelShape,
    *,
    options: TypeOptions | None = None,
    has_importance: bool = False,
) -> dict[str, QuantType]:
    """Return the type of each tensor, in the order in which llama.cpp writes them.

    Args:
        tensors: all tensors of the model.
        file_type: the recipe.
        shape: what the rules ask about the model.
        options: what the person decided.
        has_importance: whether an importance matrix is at hand; some rules differ.

    Raises:
        LlamuneError: a type that the person asked for does not fit a tensor's rows.
    """
    options = options or TypeOptions()
    ordered = in_quantizer_order(tensors)
    categories = [category_of(tensor.name) for tensor in ordered]
    counters = Counters(n_attention_v=categories.count(Category.ATTENTION_V))
    tied = Category.OUTPUT not in categories
    chosen: dict[str, QuantType] = {}
    for tensor, category in zip(ordered, categories, strict=True):
        if not is_quantizable(tensor, shape.architecture):
            chosen[tensor.name] = tensor.type
            continue
        question = Question(tensor, file_type, shape, has_importance, tied, counters)
        kind = wished(tensor, category, options)
        chosen[tensor.name] = by_rule(question, category, options) if kind is None else kind
    return chosen


def copied_types(
    tensors: Sequence[TensorInfo], architecture: str, *, options: TypeOptions | None = None
) -> dict[str, QuantType]:
    """Return each tensor's own type, but where the person decided, in llama.cpp's order.

    Raises:
        LlamuneError: a type that the person asked for does not fit a tensor's rows.
    """
    found = {}
    for tensor in in_quantizer_order(tensors):
        wish = None
        if is_quantizable(tensor, architecture):
            wish = wished(tensor, category_of(tensor.name), options or TypeOptions())
        found[tensor.name] = tensor.type if wish is None else wish
    return found


def wished(tensor: TensorInfo, category: Category, options: TypeOptions) -> QuantType | None:
    """Return what the person decided about a tensor; None where the rules decide.

    Raises:
        LlamuneError: the type does not fit the tensor's rows.
    """
    match = next((kind for pattern, kind in options.tensors if pattern.search(tensor.name)), None)
    # the per-layer embedding is a table of its own, which a pattern may name
    follows = tensor.name == "token_embd.weight" or match is None
    if options.embedding is not None and category is Category.EMBEDDING and follows:
        return whole_blocks(tensor, options.embedding)
    if options.output is not None and category is Category.OUTPUT:
        return whole_blocks(tensor, options.output)
    return None if match is None else fitting(tensor, match)


def whole_blocks(tensor: TensorInfo, kind: QuantType) -> QuantType:
    """Return a type whose blocks must fit the tensor's rows.

    Raises:
        LlamuneError: they do not.
    """
    if tensor.n_columns % kind.block_size:
        raise LlamuneError(
            f"tensor {tensor.name!r} has rows of {tensor.n_columns} weights; {kind} comes in "
            f"blocks of {kind.block_size}",
            hint="choose another type for it",
        )
    return kind


def by_rule(question: Question, category: Category, options: TypeOptions) -> QuantType:
    """Return the type that llama.cpp's rules give a tensor."""
    base = question.file_type.base
    if not base.is_quantized:
        return base
    if options.pure:
        return fitting(question.tensor, base)
    return fitting(
        question.tensor, quant_type(type_by_rule(question, category, output=options.output))
    )


def fitting(tensor: TensorInfo, kind: QuantType) -> QuantType:
    """Return the type, or the one that stands in for it where blocks do not fit the rows."""
    if tensor.n_columns % kind.block_size == 0:
        return kind
    if kind.name not in FALLBACKS and kind.block_size > 32:
        raise LlamuneError(
            f"tensor {tensor.name!r} has rows of {tensor.n_columns} weights; {kind} comes in "
            f"blocks of {kind.block_size}, and no type stands in for it",
            hint="choose another file type",
        )
    second = quant_type(FALLBACKS.get(kind.name, kind.name))
    return second if tensor.n_columns % second.block_size == 0 else quant_type("F16")
