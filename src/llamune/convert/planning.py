"""Another precision, planned from the header alone: types, metadata, and the size to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llamune.convert.importance import Importance
from llamune.convert.type_rules import TypeOptions, choose_types, copied_types, model_shape
from llamune.gguf import (
    Entry,
    FileType,
    ModelFile,
    NewTensor,
    QuantType,
    TensorInfo,
    ValueType,
    header_bytes,
)

__all__ = ["QuantizePlan", "new_tensors", "plan_quantize"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

QUANTIZATION_VERSION = 2
WEIGHTED_TYPES = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
EXEMPT = {"token_embd.weight", "per_layer_token_embd.weight", "output.weight"}


@dataclass(frozen=True)
class QuantizePlan:
    """What a new file will be, known from the header alone.

    Args:
        source: the opened file.
        file_type: the recipe; None to copy every tensor about which nothing was decided.
        types: tensor name → its new type, in the new file's order.
        metadata: the new file's metadata.
        nbytes: the new file's size.
        importance: the importance matrix, None without.
    """

    source: ModelFile
    file_type: FileType | None
    types: Mapping[str, QuantType]
    metadata: Mapping[str, Entry]
    nbytes: int
    importance: Importance | None

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that get another type."""
        tensors = self.source.tensors
        return tuple(name for name, kind in self.types.items() if kind != tensors[name].type)

    @property
    def requantized(self) -> tuple[str, ...]:
        """Names of the tensors that were quantized already and get another type."""
        tensors = self.source.tensors
        return tuple(name for name in self.changed if tensors[name].type.is_quantized)

    @property
    def needs_importance(self) -> tuple[str, ...]:
        """Names of the tensors that llama.cpp rounds only with an importance matrix."""
        two_bit = self.file_type is not None and self.file_type.name == "Q2_K_S"
        low = WEIGHTED_TYPES | ({"Q2_K"} if two_bit else set())
        return tuple(
            name
            for name in self.changed
            if name not in EXEMPT
            and self.types[name].name in low
            and (self.importance is None or name not in self.importance.weights)
        )

    @property
    def tensor_bytes(self) -> dict[str, int]:
        """Tensor name → bytes of its data in the new file."""
        return {
            name: kind.row_bytes(self.source.tensors[name].n_columns)
            * self.source.tensors[name].n_rows
            for name, kind in self.types.items()
        }


def plan_quantize(
    source: ModelFile,
    file_type: FileType | None,
    *,
    options: TypeOptions | None = None,
    importance: Importance | None = None,
) -> QuantizePlan:
    """Choose each tensor's type and work out the new file's size, from the header alone.

    Args:
        source: the opened model.
        file_type: the recipe; None copies tensors as they are (and joins shards), but for those
            that `options` names.
        options: what the person decided about types.
        importance: an importance matrix.

    Raises:
        LlamuneError: the model cannot be stored so.
    """
    tensors = list(source.tensors.values())
    if file_type is None:
        family = source.metadata.text("general.architecture", default="")
        types = copied_types(tensors, family, options=options)
    else:
        types = choose_types(
            tensors,
            file_type,
            model_shape(source),
            options=options,
            has_importance=importance is not None,
        )
    metadata = new_metadata(source, file_type, types, importance)
    plan = QuantizePlan(source, file_type, types, metadata, 0, importance)
    return QuantizePlan(source, file_type, types, metadata, file_size(plan), importance)


def new_metadata(
    source: ModelFile,
    file_type: FileType | None,
    types: Mapping[str, QuantType],
    importance: Importance | None,
) -> dict[str, Entry]:
    """Return the new file's metadata: as it was, but for what must change."""
    metadata = {key: source.metadata.entry(key) for key in source.metadata if not is_split_key(key)}
    changed: dict[str, Entry] = {}
    if file_type is not None or any(
        kind.is_quantized and kind != source.tensors[name].type for name, kind in types.items()
    ):
        changed["general.quantization_version"] = Entry.of(QUANTIZATION_VERSION)
    if file_type is not None:
        changed["general.file_type"] = Entry.of(file_type.id)
    if importance is not None:
        changed["quantize.imatrix.file"] = Entry.of(importance.path.name)
        if importance.datasets:
            changed["quantize.imatrix.dataset"] = Entry.of(importance.datasets[0])
        changed["quantize.imatrix.entries_count"] = Entry.of(len(importance.weights))
        if importance.n_chunks > 0:
            changed["quantize.imatrix.chunks_count"] = Entry.of(importance.n_chunks, ValueType.U32)
    for key in changed:  # llama.cpp writes them last
        metadata.pop(key, None)
    return metadata | changed


def is_split_key(key: str) -> bool:
    """Whether a key tells shards apart; Ollama puts the architecture in front."""
    return any(
        key == name or key.endswith(f".{name}")
        for name in ("split.no", "split.count", "split.tensors.count")
    )


def new_tensors(
    plan: QuantizePlan, chunks: Callable[[TensorInfo], Iterator[Bytes]]
) -> list[NewTensor]:
    """Return the tensors of the new file."""
    tensors = plan.source.tensors
    return [
        NewTensor(name, tensors[name].shape, kind, partial(chunks, tensors[name]))
        for name, kind in plan.types.items()
    ]


def file_size(plan: QuantizePlan) -> int:
    """Return the size of the new file, to the byte."""
    alignment = plan.source.alignment
    tensors = new_tensors(plan, lambda _: iter(()))
    header = header_bytes(plan.metadata, tensors, alignment=alignment, version=plan.source.version)
    padded = (-(-tensor.nbytes // alignment) * alignment for tensor in tensors)
    return len(header) + sum(padded)
