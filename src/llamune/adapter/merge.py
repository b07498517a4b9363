"""Folding adapters into their base, tensor by tensor, without leaving the file's own space."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.adapter.errors import AdapterError
from llamune.adapter.lora import Floats, LoraAdapter, LoraPair, check_shapes
from llamune.errors import UnsupportedError
from llamune.gguf import (
    Entry,
    ModelFile,
    NewTensor,
    QuantType,
    Rounding,
    TensorInfo,
    nearest,
    rows_to_floats,
    write_gguf,
)

__all__ = [
    "MergeResult",
    "MergedTensor",
    "changed_rows",
    "check_merge",
    "merge",
    "merged_size",
]

SLICE_ELEMENTS = 8 << 20  # weights unpacked at a time: 32 MiB of floats
COPY_BYTES = 16 << 20
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class MergedTensor:
    """What became of the change of one tensor.

    Args:
        name: the tensor.
        type_before, type: its quant types.
        change: length of the intended change, the root of the summed squares.
        kept: share of the change that the stored weights carry, along its own direction:
            1 all of it, 0 none. None for a change of zero.
        error: length of what the stored weights are off the intended ones.
    """

    name: str
    type_before: str
    type: str
    change: float
    kept: float | None
    error: float


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """A merged file.

    Args:
        path: the new file.
        nbytes: its size.
        tensors: the changed tensors.
        copied: how many tensors were copied byte for byte.
    """

    path: Path
    nbytes: int
    tensors: tuple[MergedTensor, ...]
    copied: int

    @property
    def kept(self) -> float | None:
        """Share of the whole change that was kept, each tensor weighed by its change squared."""
        total = sum(tensor.change**2 for tensor in self.tensors)
        kept = sum(tensor.change**2 * (tensor.kept or 0.0) for tensor in self.tensors)
        return kept / total if total else None


def merge(
    base: ModelFile,
    adapters: Sequence[tuple[LoraAdapter, float]],
    out: Path,
    *,
    type_of: Callable[[TensorInfo], QuantType] | None = None,
    round: Rounding | None = None,  # noqa: A002  the word of the recipe and of the command
    metadata: Mapping[str, Entry] | None = None,
    replace: bool = False,
    scratch: Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> MergeResult:
    """Write the base with adapters folded in; memory stays at a slice of one tensor.

    Args:
        base: the base file; tensors that no adapter changes and whose type stays are copied
            byte for byte.
        adapters: each with the factor that it is applied at.
        out: the new file.
        type_of: the type that a tensor of the base gets; default its own.
        round: how floats become blocks; default ggml's rounding to nearest.
        metadata: keys to add, or to write in place of the base's.
        replace: whether a file at `out` may be replaced.
        scratch: folder for the temporary file, on the same file system.
        advance: called with the number of bytes just written.

    Raises:
        AdapterError: an adapter does not fit the base.
        UnsupportedError: DoRA together with another adapter or at another factor than 1.
    """
    check_merge(base, adapters)
    choose = type_of or (lambda tensor: tensor.type)
    changed = {name for adapter, _ in adapters for name in (*adapter.pairs, *adapter.replaced)}
    results: list[MergedTensor] = []
    tensors = []
    rounding = round or nearest
    for tensor in base.tensors.values():
        kind = choose(tensor)
        chunks: CopiedTensor | ChangedTensor
        if tensor.name in changed:
            chunks = ChangedTensor(base, tensor, kind, adapters, rounding, results)
        elif kind == tensor.type:
            chunks = CopiedTensor(base, tensor)
        else:
            chunks = ChangedTensor(base, tensor, kind, (), rounding, None)
        tensors.append(NewTensor(tensor.name, tensor.shape, kind, chunks))
    entries = {key: base.metadata.entry(key) for key in base.metadata if key not in SPLIT_KEYS}
    entries |= metadata or {}
    write_gguf(
        out,
        metadata=entries,
        tensors=tensors,
        alignment=base.alignment,
        version=base.version,
        replace=replace,
        scratch=scratch,
        advance=advance,
    )
    return MergeResult(
        path=out,
        nbytes=out.stat().st_size,
        tensors=tuple(results),
        copied=sum(1 for tensor in tensors if isinstance(tensor.chunks, CopiedTensor)),
    )


def merged_size(base: ModelFile, type_of: Callable[[TensorInfo], QuantType] | None = None) -> int:
    """Return the tensor data bytes that a merge will write."""
    choose = type_of or (lambda tensor: tensor.type)
    return sum(
        choose(tensor).row_bytes(tensor.n_columns) * tensor.n_rows
        for tensor in base.tensors.values()
    )


def check_merge(base: ModelFile, adapters: Sequence[tuple[LoraAdapter, float]]) -> None:
    """Refuse what cannot be merged, before a byte is written.

    Raises:
        AdapterError: an adapter does not fit the base, or two replace the same weight.
        UnsupportedError: DoRA that is not alone at factor 1 on a weight.
    """
    if not adapters:
        raise AdapterError("there is no adapter to merge")
    owners: dict[str, int] = {}
    for adapter, factor in adapters:
        check_shapes(adapter, base)
        if not math.isfinite(factor):
            raise AdapterError(f"{adapter.path}: the factor {factor} is no number")
        for name in (*adapter.pairs, *adapter.replaced):
            owners[name] = owners.get(name, 0) + 1
    for adapter, factor in adapters:
        sole = [name for name, pair in adapter.pairs.items() if pair.magnitude is not None]
        sole += list(adapter.replaced)
        for name in sole:
            if owners[name] > 1 or factor != 1.0:
                raise UnsupportedError(
                    f"{adapter.path}: {name}: a DoRA or wholly trained weight has no factor and "
                    "no partner; merge it alone and at 1"
                )


def changed_rows(
    weight: Floats, adapters: Sequence[tuple[LoraAdapter, float]], name: str, start: int, stop: int
) -> Floats:
    """Return rows of a weight with every adapter applied.

    Args:
        weight: float32 (rows, columns), rows start to stop of the base.
        adapters: each with its factor.
        name: the tensor.
        start: the first of these rows.
        stop: the row after the last.

    Source: LoRA, arXiv:2106.09685, section 4.1; DoRA, arXiv:2402.09353, equation 5.
    """
    total = weight.copy()
    for adapter, factor in adapters:
        if name in adapter.replaced:
            return adapter.replaced[name][start:stop]
        pair = adapter.pairs.get(name)
        if pair is None:
            continue
        total += pair.change(start, stop) * np.float32(factor)
        if pair.magnitude is not None:
            total = at_length(total, pair, start, stop)
    return total


def at_length(rows: Floats, pair: LoraPair, start: int, stop: int) -> Floats:
    """Return rows stretched to DoRA's lengths."""
    assert pair.magnitude is not None  # noqa: S101  told by the caller; for the type checker
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = pair.magnitude[start:stop, None]
    return np.asarray(rows * (wanted / np.where(lengths == 0, 1, lengths)), np.float32)


@dataclass(frozen=True)
class CopiedTensor:
    """A tensor's bytes as they are."""

    base: ModelFile
    tensor: TensorInfo

    def __call__(self) -> Iterator[Bytes]:
        """Yield the packed rows."""
        step = max(1, COPY_BYTES // max(1, self.tensor.row_bytes))
        for start in range(0, self.tensor.n_rows, step):
            yield self.base.packed(self.tensor.name, start, start + step)


@dataclass(frozen=True)
class ChangedTensor:
    """A tensor with adapters folded in and packed anew, measured while it is written."""

    base: ModelFile
    tensor: TensorInfo
    kind: QuantType
    adapters: Sequence[tuple[LoraAdapter, float]]
    round: Rounding
    results: list[MergedTensor] | None

    def __call__(self) -> Iterator[Bytes]:
        """Yield the new packed rows."""
        name, n_rows = self.tensor.name, self.tensor.n_rows
        step = max(1, SLICE_ELEMENTS // self.tensor.n_columns)
        along = change_square = error_square = 0.0
        for start in range(0, n_rows, step):
            stop = min(start + step, n_rows)
            before = self.base.floats(name, start, stop)
            wanted = changed_rows(before, self.adapters, name, start, stop)
            packed = self.round(name, wanted, self.kind)
            yield packed
            if self.results is not None:
                stored = rows_to_floats(packed, self.kind)
                change = (wanted - before).astype(np.float64)
                along += float(np.vdot(stored - before, change))
                change_square += float(np.vdot(change, change))
                error_square += float(np.square(stored - wanted, dtype=np.float64).sum())
        if self.results is not None:
            self.results.append(
                MergedTensor(
                    name=name,
                    type_before=str(self.tensor.type),
                    type=str(self.kind),
                    change=math.sqrt(change_square),
                    kept=along / change_square if change_square else None,
                    error=math.sqrt(error_square),
                )
            )
