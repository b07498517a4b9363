"""How big a model is and would be, to the byte, from its header alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llamune.arch import section_of
from llamune.convert.planning import QuantizePlan, plan_quantize
from llamune.errors import LlamuneError
from llamune.gguf import FILE_TYPES, FileType, ModelFile, quant_type

__all__ = [
    "PredictedSize",
    "TypeShare",
    "predict_size",
    "predict_sizes",
    "section_bytes",
    "type_shares",
]

HEADER = "header and tokenizer"
NOT_WRITTEN = {"NVFP4"}  # llama.cpp's quantizer does not offer it: it needs scales beside it


@dataclass(frozen=True)
class TypeShare:
    """The tensors of a file that are stored alike.

    Args:
        kind: name of their quant type.
        n_weights: weights in them.
        bits: bits a weight.
        nbytes: bytes of their data: weights × bits / 8.
    """

    kind: str
    n_weights: int
    bits: float
    nbytes: int


@dataclass(frozen=True)
class PredictedSize:
    """A model as another file type.

    Args:
        file_type: the recipe.
        nbytes: size of the file.
        bpw: bits a weight over all tensors.
        shares: its tensors by type, the biggest first.
        needs_importance: whether llama.cpp writes it only with an importance matrix.
    """

    file_type: FileType
    nbytes: int
    bpw: float
    shares: tuple[TypeShare, ...]
    needs_importance: bool


def predict_size(file: ModelFile, file_type: FileType) -> PredictedSize:
    """Return how big a model would be as a file type.

    Raises:
        LlamuneError: the model cannot be stored so.
    """
    plan = plan_quantize(file, file_type)
    shares = shares_of_plan(plan)
    n_weights = sum(share.n_weights for share in shares)
    data_bytes = sum(share.nbytes for share in shares)
    return PredictedSize(
        file_type=file_type,
        nbytes=plan.nbytes,
        bpw=8 * data_bytes / n_weights if n_weights else 0.0,
        shares=shares,
        needs_importance=bool(plan.needs_importance),
    )


def predict_sizes(file: ModelFile) -> tuple[list[PredictedSize], dict[str, str]]:
    """Return the size as every file type, the smallest first, and why some cannot be.

    Raises:
        GgufError: a key that the rules ask for is missing.
    """
    sizes: list[PredictedSize] = []
    refused: dict[str, str] = {}
    for kind in FILE_TYPES.values():
        if kind.name in NOT_WRITTEN:
            continue
        try:
            sizes.append(predict_size(file, kind))
        except LlamuneError as error:
            refused[kind.name] = error.message
    if not sizes:
        raise LlamuneError(f"{file.path}: {next(iter(refused.values()))}")
    return sorted(sizes, key=lambda size: size.nbytes), refused


def type_shares(file: ModelFile) -> tuple[TypeShare, ...]:
    """Return a file's tensors by type, the biggest first."""
    return grouped({tensor.name: tensor.type.name for tensor in file.tensors.values()}, file)


def shares_of_plan(plan: QuantizePlan) -> tuple[TypeShare, ...]:
    """Return a planned file's tensors by type, the biggest first."""
    return grouped({name: kind.name for name, kind in plan.types.items()}, plan.source)


def grouped(kinds: Mapping[str, str], file: ModelFile) -> tuple[TypeShare, ...]:
    """Return tensors by type, given tensor name → type name."""
    weights: dict[str, int] = {}
    for name, kind in kinds.items():
        weights[kind] = weights.get(kind, 0) + file.tensors[name].n_elements
    shares = [
        TypeShare(kind, count, quant_type(kind).bpw, quant_type(kind).row_bytes(count))
        for kind, count in weights.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.nbytes))


def section_bytes(plan: QuantizePlan) -> dict[str, int]:
    """Return section → bytes of the planned file, padding included; they add up to its size."""
    alignment = plan.source.alignment
    sizes: dict[str, int] = {HEADER: 0}
    for name, nbytes in plan.tensor_bytes.items():
        section = section_of(name)
        padded = -(-nbytes // alignment) * alignment
        sizes[section] = sizes.get(section, 0) + padded
    sizes[HEADER] = plan.nbytes - sum(sizes.values())
    return sizes
