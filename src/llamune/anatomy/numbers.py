"""The numbers in a tensor: extremes, spread, histogram; a slab at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamune.gguf import ModelFile, TensorInfo

__all__ = ["TensorNumbers", "slabs_of", "tensor_numbers"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

SLAB_ELEMENTS = 4 << 20  # 16 MB as floats
N_FIRST = 8
N_BINS = 24


@dataclass(frozen=True)
class TensorNumbers:
    """What a tensor's numbers look like; the figures leave out those that are not finite.

    Args:
        tensor: its description.
        first: its first numbers.
        minimum: the smallest.
        maximum: the largest.
        mean: their mean.
        std: their standard deviation.
        n_zero: how many are 0.
        n_not_finite: how many are infinite or no numbers.
        edges: (bins + 1,), limits of the histogram's bins.
        counts: (bins,), numbers in each.
    """

    tensor: TensorInfo
    first: tuple[float, ...]
    minimum: float
    maximum: float
    mean: float
    std: float
    n_zero: int
    n_not_finite: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def slabs_of(file: ModelFile, name: str) -> Iterator[tuple[int, int]]:
    """Yield (first row, row after the last) of a tensor's slabs, each of bounded size."""
    tensor = file.tensor(name)
    n_rows = max(1, SLAB_ELEMENTS // tensor.n_columns)
    for start in range(0, tensor.n_rows, n_rows):
        yield start, min(start + n_rows, tensor.n_rows)


def tensor_numbers(file: ModelFile, name: str) -> TensorNumbers:
    """Return what a tensor's numbers look like.

    Raises:
        GgufError: there is no such tensor, or the file has changed.
        UnsupportedError: ggml cannot unpack its type.
    """
    tensor = file.tensor(name)
    first: tuple[float, ...] = ()
    low, high = math.inf, -math.inf
    n_finite = n_zero = 0
    total = squares = 0.0
    for start, stop in slabs_of(file, name):
        floats = file.floats(name, start, stop)
        missing = N_FIRST - len(first)
        first += tuple(float(number) for number in floats.ravel()[:missing])
        finite = finite_of(floats)
        n_finite += finite.size
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            total += float(finite.sum(dtype=np.float64))
            squares += float(np.square(finite, dtype=np.float64).sum())
            n_zero += int(finite.size - np.count_nonzero(finite))
    mean = total / n_finite if n_finite else math.nan
    variance = max(0.0, squares / n_finite - mean * mean) if n_finite else math.nan
    edges, counts = histogram(file, name, low, high)
    return TensorNumbers(
        tensor=tensor,
        first=first,
        minimum=low if n_finite else math.nan,
        maximum=high if n_finite else math.nan,
        mean=mean,
        std=math.sqrt(variance),
        n_zero=n_zero,
        n_not_finite=tensor.n_elements - n_finite,
        edges=edges,
        counts=counts,
    )


def finite_of(floats: Floats) -> Floats:
    """Return the finite numbers, (n,)."""
    flat = floats.ravel()
    finite = np.isfinite(flat)
    return flat if finite.all() else flat[finite]


def histogram(
    file: ModelFile, name: str, low: float, high: float
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return a histogram's edges and counts between the extremes."""
    if not low < high:
        return (), ()
    edges = np.linspace(low, high, N_BINS + 1)
    counts = np.zeros(N_BINS, np.int64)
    for start, stop in slabs_of(file, name):
        counts += np.histogram(finite_of(file.floats(name, start, stop)), edges)[0]
    return tuple(float(edge) for edge in edges), tuple(int(count) for count in counts)
