"""What differs between two model files: metadata, tokenizer, tensors; streamed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamune.anatomy.numbers import slabs_of
from llamune.anatomy.sections import section_order
from llamune.arch import section_of
from llamune.gguf import ModelFile, TensorInfo

__all__ = ["FileDifference", "KeyChange", "Sample", "SectionChange", "TensorChange", "compare"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

N_SAMPLES = 3


@dataclass(frozen=True)
class KeyChange:
    """A metadata key that differs.

    Args:
        key: the key.
        before: its value in the first file, None where it is missing; arrays as a few words.
        after: its value in the second file.
    """

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Sample:
    """A weight that changed."""

    row: int
    column: int
    before: float
    after: float


@dataclass(frozen=True)
class TensorChange:
    """A tensor that is in both files and differs.

    Args:
        before: its description in the first file.
        after: its description in the second file.
        n_changed: weights that differ.
        largest: the largest absolute change.
        squared: sum of squared changes.
        squared_before: sum of squared weights of the first file.
        samples: some of the changes, the largest of their rows.
    """

    before: TensorInfo
    after: TensorInfo
    n_changed: int
    largest: float
    squared: float
    squared_before: float
    samples: tuple[Sample, ...]

    @property
    def share(self) -> float:
        """Share of weights that differ, 0 to 1."""
        return self.n_changed / self.before.n_elements

    @property
    def relative(self) -> float:
        """Length of the change over the length of the weights."""
        return relative_length(self.squared, self.squared_before)

    @property
    def bits_change(self) -> float:
        """How many more bits a weight takes in the second file."""
        return self.after.type.bpw - self.before.type.bpw


@dataclass(frozen=True)
class SectionChange:
    """The changes of one section's tensors together."""

    name: str
    n_tensors: int
    n_changed_tensors: int
    n_weights: int
    n_changed: int
    squared: float
    squared_before: float

    @property
    def share(self) -> float:
        """Share of weights that differ, 0 to 1."""
        return self.n_changed / self.n_weights if self.n_weights else 0.0

    @property
    def relative(self) -> float:
        """Length of the change over the length of the section's changed tensors."""
        return relative_length(self.squared, self.squared_before)


@dataclass(frozen=True)
class FileDifference:
    """What differs between two files.

    Args:
        keys: metadata that differs, without the tokenizer's.
        tokenizer_keys: the tokenizer's metadata that differs.
        only_before: tensors that only the first file has.
        only_after: tensors that only the second file has.
        reshaped: tensors whose shapes differ: (first, second).
        changed: tensors that differ in type or weights.
        same: tensors that are byte for byte the same.
    """

    keys: tuple[KeyChange, ...]
    tokenizer_keys: tuple[KeyChange, ...]
    only_before: tuple[TensorInfo, ...]
    only_after: tuple[TensorInfo, ...]
    reshaped: tuple[tuple[TensorInfo, TensorInfo], ...]
    changed: tuple[TensorChange, ...]
    same: tuple[TensorInfo, ...]

    @property
    def is_same(self) -> bool:
        """Whether metadata and tensors are the same."""
        parts = (self.keys, self.tokenizer_keys, self.only_before, self.only_after)
        return not any((*parts, self.reshaped, self.changed))

    def sections(self) -> list[SectionChange]:
        """Return the changes of each section's tensors together, in the order of computation."""
        order: dict[str, list[TensorInfo | TensorChange]] = {}
        for tensor in self.same:
            order.setdefault(section_of(tensor.name), []).append(tensor)
        for change in self.changed:
            order.setdefault(section_of(change.before.name), []).append(change)
        return [section_change(name, order[name]) for name in sorted(order, key=section_order)]


def section_change(name: str, parts: Iterable[TensorInfo | TensorChange]) -> SectionChange:
    """Return one section's changes together."""
    listed = list(parts)
    changes = [part for part in listed if isinstance(part, TensorChange)]
    same = [part for part in listed if isinstance(part, TensorInfo)]
    weights = sum(tensor.n_elements for tensor in same)
    return SectionChange(
        name=name,
        n_tensors=len(listed),
        n_changed_tensors=len(changes),
        n_weights=weights + sum(change.before.n_elements for change in changes),
        n_changed=sum(change.n_changed for change in changes),
        squared=sum(change.squared for change in changes),
        squared_before=sum(change.squared_before for change in changes),
    )


def relative_length(squared: float, squared_before: float) -> float:
    """Return the length of a change relative to what changed."""
    if squared_before:
        return math.sqrt(squared / squared_before)
    return math.inf if squared else 0.0


def compare(
    before: ModelFile, after: ModelFile, *, advance: Callable[[int], object] | None = None
) -> FileDifference:
    """Return what differs; tensors are read a slab at a time.

    Args:
        before: the first file.
        after: the second file.
        advance: called with the number of the first file's bytes just compared.

    Raises:
        GgufError: a file has changed while it was read.
        UnsupportedError: a tensor differs and ggml cannot unpack its type.
    """
    keys = list(key_changes(before, after))
    changed: list[TensorChange] = []
    same: list[TensorInfo] = []
    reshaped: list[tuple[TensorInfo, TensorInfo]] = []
    for name, first in before.tensors.items():
        second = after.tensors.get(name)
        if second is None:
            continue
        if first.shape != second.shape:
            reshaped.append((first, second))
            continue
        change = tensor_change(before, after, name, advance)
        if change is None:
            same.append(first)
        else:
            changed.append(change)
    return FileDifference(
        keys=tuple(key for key in keys if not key.key.startswith("tokenizer.")),
        tokenizer_keys=tuple(key for key in keys if key.key.startswith("tokenizer.")),
        only_before=tuple(t for name, t in before.tensors.items() if name not in after.tensors),
        only_after=tuple(t for name, t in after.tensors.items() if name not in before.tensors),
        reshaped=tuple(reshaped),
        changed=tuple(changed),
        same=tuple(same),
    )


def key_changes(before: ModelFile, after: ModelFile) -> Iterator[KeyChange]:
    """Yield metadata that differs, in the order of the first file."""
    first, second = before.metadata, after.metadata
    for key in [*first, *(key for key in second if key not in first)]:
        if key in first and key in second and first.entry(key) == second.entry(key):
            continue
        yield KeyChange(key, value_text(before, key), value_text(after, key))


def value_text(file: ModelFile, key: str) -> str | None:
    """Return a value as a few words; None where the key is missing."""
    metadata = file.metadata
    if key not in metadata:
        return None
    element_type = metadata.element_type(key)
    if element_type is None:
        return str(metadata[key])
    return f"{metadata.length(key):,} × {element_type.name.lower()}"


def tensor_change(
    before: ModelFile,
    after: ModelFile,
    name: str,
    advance: Callable[[int], object] | None,
) -> TensorChange | None:
    """Return how a tensor differs; None when it is byte for byte the same."""
    first, second = before.tensors[name], after.tensors[name]
    n_changed = 0
    largest = squared = squared_before = 0.0
    samples: list[Sample] = []
    differs = first.type != second.type
    for start, stop in slabs_of(before, name):
        packed, other = before.packed(name, start, stop), after.packed(name, start, stop)
        alike = first.type == second.type and np.array_equal(packed, other)
        floats = before.floats(name, start, stop)
        squared_before += float(np.square(floats, dtype=np.float64).sum())
        if not alike:
            differs = True
            change = after.floats(name, start, stop) - floats
            n_changed += int(np.count_nonzero(change))
            largest = max(largest, float(np.abs(change).max()))
            squared += float(np.square(change, dtype=np.float64).sum())
            if len(samples) < N_SAMPLES:
                samples += samples_of(floats, change, start)
        if advance is not None:
            advance(packed.nbytes)
    if not differs:
        return None
    return TensorChange(
        first, second, n_changed, largest, squared, squared_before, tuple(samples[:N_SAMPLES])
    )


def samples_of(floats: Floats, change: Floats, first_row: int) -> list[Sample]:
    """Return the largest change of each of the first rows that changed."""
    rows = np.flatnonzero(change.any(axis=1))[:N_SAMPLES]
    found = []
    for row in rows:
        column = int(np.abs(change[row]).argmax())
        value = float(floats[row, column])
        after = float(floats[row, column] + change[row, column])
        found.append(Sample(first_row + int(row), column, value, after))
    return found
