"""The files of full training: a base brought to the types that it is trained in, and results.

Both are a model file with some tensors replaced, written a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.arch import Family, Role
from llamune.errors import UnsupportedError
from llamune.gguf import (
    Entry,
    ModelFile,
    NewTensor,
    QuantType,
    file_type,
    floats_to_rows,
    quant_type,
    rows_to_floats,
    write_gguf,
)

__all__ = [
    "ROUNDING",
    "TRAINED_MODEL",
    "Replaced",
    "needs_widening",
    "row_slices",
    "trained_types",
    "widen",
    "write_replaced",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

TRAINED_MODEL = "trained.gguf"  # in a run's folder, and in each of its checkpoints
ROUNDING = "rounding.json"  # in a run's folder: what rounding has added
SLICE_ELEMENTS = 1 << 20  # 4 MB as floats: what an update takes beside its gradient
EMBEDDINGS = ("token_embd.weight", "output.weight")
QUANTIZATION_VERSION = 2  # of the block layouts


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A tensor that differs from the source's.

    Args:
        type: its quant type.
        chunks: yields its bytes in order.
    """

    type: QuantType
    chunks: Callable[[], Iterator[Bytes]]


def row_slices(
    n_rows: int, n_columns: int, *, n_elements: int = SLICE_ELEMENTS
) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of slices of rows that stay in a processor's cache."""
    size = max(1, n_elements // n_columns)
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


def trained_types(
    file: ModelFile, family: Family, *, keep_type: str, train_embeddings: bool
) -> dict[str, QuantType]:
    """Return the type in which each trained tensor is kept while it is trained.

    Args:
        file: the base.
        family: what `describe` said of it.
        keep_type: of the matrices.
        train_embeddings: whether token embedding and output are among them.

    Raises:
        UnsupportedError: a tensor's rows do not divide into blocks of that type.
    """
    kept, floats = quant_type(keep_type), quant_type("F32")
    types: dict[str, QuantType] = {}
    for rule in family.rules.values():
        is_embedding = rule.gguf in EMBEDDINGS
        if is_embedding and not train_embeddings:
            continue
        is_matrix = rule.role in {Role.LINEAR, Role.EMBEDDING}
        types[rule.gguf] = kept if is_matrix else floats
        n_columns = file.tensors[rule.gguf].n_columns
        if is_matrix and n_columns % kept.block_size:
            raise UnsupportedError(
                f"{file.path}: {rule.gguf} has rows of {n_columns} weights; {kept} comes in "
                f"blocks of {kept.block_size}",
                hint="--keep-type q8_0, or bf16",
            )
    return types


def needs_widening(file: ModelFile, types: Mapping[str, QuantType]) -> bool:
    """Whether any tensor lies in the file in another type than it is trained in."""
    return any(file.tensors[name].type != kind for name, kind in types.items())


def widen(
    file: ModelFile,
    types: Mapping[str, QuantType],
    out: Path,
    *,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write a model with some tensors in other types, rounded to nearest, whole or not at all.

    Scales get a little room, unlike ggml's: a block whose largest weight moves out would be
    rounded anew as a whole, and that of a 4-bit base does so in almost every block.

    Args:
        file: the base.
        types: tensor name -> new type.
        out: the new file; one that is there is replaced.
        advance: called with the number of bytes just written.
    """

    def replaced(name: str, kind: QuantType) -> Replaced:
        info = file.tensors[name]

        def chunks() -> Iterator[Bytes]:
            for start, stop in row_slices(info.n_rows, info.n_columns):
                floats = rows_to_floats(file.packed(name, start, stop), info.type)
                yield packed_with_room(floats, kind)

        return Replaced(type=kind, chunks=chunks)

    changed = {
        name: replaced(name, kind)
        for name, kind in types.items()
        if kind != file.tensors[name].type
    }
    write_replaced(file, changed, out, advance=advance)


def packed_with_room(floats: np.ndarray[Any, np.dtype[np.float32]], kind: QuantType) -> Bytes:
    """Return rows packed to nearest, as they will be packed again while they are trained."""
    if kind.name == "F32":
        return floats_to_rows(floats, kind)
    import torch

    from llamune.nn import repack

    values = torch.from_numpy(floats)
    packed = torch.zeros((len(floats), kind.row_bytes(floats.shape[1])), dtype=torch.uint8)
    repack(packed, values, kind.name, torch.full(values.shape, 0.5))
    return packed.numpy()


def write_replaced(
    source: ModelFile,
    changed: Mapping[str, Replaced],
    out: Path,
    *,
    entries: Mapping[str, Entry] | None = None,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write a model file with some tensors replaced, whole or not at all.

    Args:
        source: where everything else comes from.
        changed: tensor name -> what takes its place.
        out: the new file; one that is there is replaced.
        entries: metadata to add or to change.
        advance: called with the number of bytes just written.
    """

    def tensor(name: str) -> NewTensor:
        info = source.tensors[name]
        if name in changed:
            return NewTensor(name, info.shape, changed[name].type, changed[name].chunks)
        return NewTensor(name, info.shape, info.type, lambda: copied(source, name))

    tensors = [tensor(name) for name in source.tensors]
    metadata = {
        key: source.metadata.entry(key) for key in source.metadata if not key.startswith("split.")
    }
    metadata |= {
        "general.quantization_version": Entry.of(QUANTIZATION_VERSION),
        "general.file_type": Entry.of(file_type(label_of(tensors)).id),
        **(entries or {}),
    }
    write_gguf(
        out,
        metadata=metadata,
        tensors=tensors,
        alignment=source.alignment,
        version=source.version,
        replace=True,
        advance=advance,
    )


def copied(source: ModelFile, name: str) -> Iterator[Bytes]:
    """Yield a tensor's rows as they are."""
    info = source.tensors[name]
    for start, stop in row_slices(info.n_rows, info.n_columns):
        yield source.packed(name, start, stop)


def label_of(tensors: list[NewTensor]) -> str:
    """Return the name of the file type: that of the type that holds the most weights."""
    weights: dict[str, int] = {}
    for one in tensors:
        weights[one.type.name] = weights.get(one.type.name, 0) + int(np.prod(one.shape))
    return max(weights, key=lambda name: weights[name])
