"""The rows of a new file, a slab at a time on every core: read, unpacked, packed and checked.

A slab does its whole way in one thread, beside others; only the writing is done by the caller, in
the order of the file. So no core waits for another's read, check or write, and memory is bounded
by the slabs on their way, whatever the size of the model or of a tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from llamune.convert.planning import QuantizePlan
from llamune.errors import LlamuneError
from llamune.gguf import (
    QuantType,
    Rounding,
    TensorInfo,
    floats_to_rows,
    rows_are_finite,
    rows_to_floats,
)

__all__ = ["PackedSlab", "Slab", "in_order", "pack", "slabs_of", "sum_of_squares"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Item = TypeVar("Item")
Result = TypeVar("Result")

SLAB_ELEMENTS = 1 << 19  # 2 MB as floats: what a core works on stays in its cache
SLABS_AHEAD = 2  # packed and waiting to be written, so that no thread waits for the disk


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Some rows of one tensor.

    Args:
        tensor: whose rows.
        kind: how they will be stored.
        start: first row.
        stop: row after the last.
        importance: float32 (columns,), weight of each column's squared error; None without.
    """

    tensor: TensorInfo
    kind: QuantType
    start: int
    stop: int
    importance: Floats | None


@dataclass(frozen=True, kw_only=True)
class PackedSlab:
    """What became of a slab.

    Args:
        rows: uint8 (rows, row bytes) of the new file.
        squared: sum of squared differences to what was there, 0 where that is not measured.
        squared_before: sum of squared weights, 0 where that is not measured.
    """

    rows: Bytes
    squared: float = 0.0
    squared_before: float = 0.0


def slabs_of(plan: QuantizePlan, name: str) -> list[Slab]:
    """Return a tensor's slabs in order; none spans two experts, since each has its importance."""
    tensor, kind = plan.source.tensors[name], plan.types[name]
    n_rows = max(1, SLAB_ELEMENTS // tensor.n_columns)
    changes = kind != tensor.type
    weights = plan.importance.of(tensor) if plan.importance and changes else None
    n_experts = 1 if weights is None else len(weights)
    expert_rows = tensor.n_rows // n_experts
    return [
        Slab(
            tensor=tensor,
            kind=kind,
            start=start,
            stop=min(start + n_rows, (expert + 1) * expert_rows),
            importance=None if weights is None else weights[expert],
        )
        for expert in range(n_experts)
        for start in range(expert * expert_rows, (expert + 1) * expert_rows, n_rows)
    ]


def pack(plan: QuantizePlan, slab: Slab, *, round_: Rounding | None, measure: bool) -> PackedSlab:
    """Read a slab and pack it, in the calling thread.

    Args:
        plan: says where the rows are.
        slab: which rows.
        round_: how floats become blocks; None for ggml's rounding to nearest.
        measure: whether to unpack what was packed, and say what rounding did.

    Raises:
        LlamuneError: weights are no numbers, or become none.
    """
    tensor, kind = slab.tensor, slab.kind
    rows = plan.source.packed(tensor.name, slab.start, slab.stop)
    if kind == tensor.type:
        return PackedSlab(rows=rows)
    if tensor.type.name == "F32":
        floats = rows.view(np.float32)  # no copy of what is mapped
    else:
        floats = rows_to_floats(rows, tensor.type, threads=1)
    if round_ is not None:
        packed = round_(tensor.name, floats, kind)
    else:
        packed = floats_to_rows(floats, kind, slab.importance, threads=1)
    # some types round a NaN to a number, others overflow: look at both sides
    if not (rows_are_finite(rows, tensor.type) and rows_are_finite(packed, kind)):
        raise LlamuneError(
            f"{plan.source.path}: tensor {tensor.name!r} holds weights that are no numbers, or "
            f"that {kind} cannot hold (rows {slab.start} to {slab.stop - 1})"
        )
    if not measure:
        return PackedSlab(rows=packed)
    difference = rows_to_floats(packed, kind, threads=1) - floats
    return PackedSlab(
        rows=packed, squared=sum_of_squares(difference), squared_before=sum_of_squares(floats)
    )


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item in order, worked out by threads a few items ahead.

    Closing the iterator drops the items that nobody has begun, and waits for the others.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads + SLABS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def sum_of_squares(values: Floats) -> float:
    """Return the sum of squares, summed with double precision over rows."""
    return float(np.einsum("ij,ij->i", values, values).sum(dtype=np.float64))
