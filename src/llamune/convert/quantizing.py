"""Another precision: plan from the header alone, then write, a few rows at a time."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llamune.convert.importance import Importance
from llamune.convert.type_rules import TypeOptions, choose_types, in_quantizer_order, model_shape
from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf import (
    Entry,
    FileType,
    ModelFile,
    NewTensor,
    QuantType,
    Rounding,
    TensorInfo,
    ValueType,
    floats_to_rows,
    header_bytes,
    rows_are_finite,
    rows_to_floats,
    write_gguf,
)

__all__ = [
    "QuantizePlan",
    "TensorError",
    "check_plan",
    "plan_quantize",
    "quantize",
    "sample_errors",
]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

SLAB_ELEMENTS = 2 << 20  # 8 MB as floats: memory does not grow with the model
QUANTIZATION_VERSION = 2
SPARE_BYTES = 16 << 20  # left free on the disk
SAMPLE_ROWS = 16
WEIGHTED_TYPES = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
EXEMPT = {"token_embd.weight", "per_layer_token_embd.weight", "output.weight"}


@dataclass(frozen=True)
class QuantizePlan:
    """What a new file will be, known from the header alone.

    Args:
        source: the opened file.
        file_type: the recipe; None to copy every tensor as it is.
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


@dataclass(frozen=True)
class TensorError:
    """What rounding did to a tensor.

    Args:
        name: the tensor.
        kind: its new type.
        squared: sum of squared differences.
        squared_before: sum of squared weights.
    """

    name: str
    kind: QuantType
    squared: float
    squared_before: float

    @property
    def relative(self) -> float:
        """Root mean square of the differences over that of the weights."""
        return math.sqrt(self.squared / self.squared_before) if self.squared_before else 0.0


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
        file_type: the recipe; None copies every tensor as it is (and joins shards).
        options: what the person decided about types.
        importance: an importance matrix.

    Raises:
        LlamuneError: the model cannot be stored so.
    """
    tensors = list(source.tensors.values())
    if file_type is None:
        types = {tensor.name: tensor.type for tensor in in_quantizer_order(tensors)}
    else:
        types = choose_types(
            tensors,
            file_type,
            model_shape(source),
            options=options,
            has_importance=importance is not None,
        )
    metadata = new_metadata(source, file_type, importance)
    plan = QuantizePlan(source, file_type, types, metadata, 0, importance)
    return QuantizePlan(source, file_type, types, metadata, file_size(plan), importance)


def new_metadata(
    source: ModelFile, file_type: FileType | None, importance: Importance | None
) -> dict[str, Entry]:
    """Return the new file's metadata: as it was, but for what must change."""
    metadata = {key: source.metadata.entry(key) for key in source.metadata if not is_split_key(key)}
    changed: dict[str, Entry] = {}
    if file_type is not None:
        changed["general.quantization_version"] = Entry.of(QUANTIZATION_VERSION)
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


def quantize(
    plan: QuantizePlan,
    out: Path,
    *,
    round: Rounding | None = None,  # noqa: A002  the word of the commands
    requantize: bool = False,
    replace: bool = False,
    threads: int | None = None,
    measure: bool = False,
    advance: Callable[[int], object] | None = None,
) -> list[TensorError]:
    """Write the new file, whole or not at all.

    Args:
        plan: from `plan_quantize`.
        out: the new file.
        round: how floats become blocks; default ggml's rounding to nearest, weighted by the
            plan's importance matrix.
        requantize: allow rounding weights that were rounded before.
        replace: whether a file already at `out` may be replaced.
        threads: at most this many; default all cores.
        measure: whether to unpack what was packed, and return what rounding did.
        advance: called with the number of bytes just written.

    Returns:
        What rounding did to each changed tensor when `measure` is set, else nothing.

    Raises:
        LlamuneError: a refusal (see `check_plan`), a full disk, or weights that are no numbers.
    """
    check_plan(plan, out, requantize=requantize)
    errors: list[TensorError] = []

    def chunks(tensor: TensorInfo) -> Iterator[Bytes]:
        squared = squared_before = 0.0
        kind = plan.types[tensor.name]
        for packed, floats in slabs(plan, tensor, round, threads=threads):
            if measure and floats is not None:
                difference = rows_to_floats(packed, kind, threads=threads) - floats
                squared += sum_of_squares(difference)
                squared_before += sum_of_squares(floats)
            yield packed
        if measure and kind != tensor.type:
            errors.append(TensorError(tensor.name, kind, squared, squared_before))

    write_gguf(
        out,
        metadata=plan.metadata,
        tensors=new_tensors(plan, chunks),
        alignment=plan.source.alignment,
        version=plan.source.version,
        replace=replace,
        advance=advance,
    )
    return errors


def check_plan(plan: QuantizePlan, out: Path, *, requantize: bool) -> None:
    """Refuse before anything is written.

    Raises:
        LlamuneError: an importance matrix is missing, weights were rounded before and that
            was not asked for, a type cannot be unpacked, or the disk is too full.
    """
    tensors = plan.source.tensors
    if out.exists() and any(out.samefile(path) for path in plan.source.paths):
        raise LlamuneError(
            f"{out}: is the model itself, which is never changed", hint="choose another name"
        )
    if missing := plan.needs_importance:
        raise LlamuneError(
            f"{plan.types[missing[0]]} needs an importance matrix for {missing[0]!r} and "
            f"{len(missing) - 1} more",
            hint="make one with `llamune imatrix`, then give it with --imatrix",
        )
    for name in plan.changed:
        if tensors[name].type.is_integer or tensors[name].type.name == "F64":
            raise UnsupportedError(f"tensor {name!r} is stored as {tensors[name].type}")
    if plan.requantized and not requantize:
        kinds = sorted({tensors[name].type.name for name in plan.requantized})
        error = sample_errors(plan)
        raise LlamuneError(
            f"{plan.source.path}: {len(plan.requantized)} tensors are quantized already "
            f"({', '.join(kinds)}); rounding them again adds an error of {100 * error:.1f} % of "
            "their size (measured on a sample)",
            hint="start from the 16- or 32-bit model, or say --requantize",
        )
    folder = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if plan.nbytes + SPARE_BYTES > free:
        raise LlamuneError(
            f"{out}: needs {plan.nbytes:,} bytes, and {folder} has {free:,} free",
            hint="free some space, or write to another disk",
        )


def sample_errors(plan: QuantizePlan) -> float:
    """Return the relative error of rounding again, over a few rows of each tensor."""
    total = [0.0, 0.0]
    for name in plan.requantized:
        tensor, kind = plan.source.tensors[name], plan.types[name]
        floats = plan.source.floats(name, 0, SAMPLE_ROWS)
        weights = plan.importance.of(tensor) if plan.importance else None
        packed = floats_to_rows(floats, kind, None if weights is None else weights[0])
        total[0] += sum_of_squares(rows_to_floats(packed, kind) - floats)
        total[1] += sum_of_squares(floats)
    return math.sqrt(total[0] / total[1]) if total[1] else 0.0


def slabs(
    plan: QuantizePlan,
    tensor: TensorInfo,
    round: Rounding | None,  # noqa: A002  the word of the commands
    *,
    threads: int | None,
) -> Iterator[tuple[Bytes, Floats | None]]:
    """Yield a tensor's new rows, a slab at a time, with the weights they were packed from.

    A slab never spans two experts: each has importance of its own. The weights are None where
    rows are copied as they are.
    """
    kind = plan.types[tensor.name]
    n_rows = max(1, SLAB_ELEMENTS // tensor.n_columns)
    if kind == tensor.type:
        for start in range(0, tensor.n_rows, n_rows):
            yield plan.source.packed(tensor.name, start, start + n_rows), None
        return
    weights = plan.importance.of(tensor) if plan.importance else None
    n_experts = 1 if weights is None else len(weights)
    expert_rows = tensor.n_rows // n_experts
    for expert in range(n_experts):
        first = expert * expert_rows
        for start in range(first, first + expert_rows, n_rows):
            stop = min(start + n_rows, first + expert_rows)
            rows = plan.source.packed(tensor.name, start, stop)
            if tensor.type.name == "F32":
                floats = rows.view(np.float32)  # no copy of what is mapped
            else:
                floats = rows_to_floats(rows, tensor.type, threads=threads)
            column_weights = None if weights is None else weights[expert]
            if round is not None:
                packed = round(tensor.name, floats, kind)
            else:
                packed = floats_to_rows(floats, kind, column_weights, threads=threads)
            # some types round a NaN to a number, others overflow: look at both sides
            if not (rows_are_finite(rows, tensor.type) and rows_are_finite(packed, kind)):
                raise LlamuneError(
                    f"{plan.source.path}: tensor {tensor.name!r} holds weights that are no "
                    f"numbers, or that {kind} cannot hold (rows {start} to {stop - 1})"
                )
            yield packed, floats


def sum_of_squares(values: Floats) -> float:
    """Return the sum of squares, summed with double precision over rows."""
    return float(np.einsum("ij,ij->i", values, values).sum(dtype=np.float64))
