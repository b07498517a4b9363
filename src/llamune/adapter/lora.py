"""An adapter in memory: thin matrices per tensor of the base file, in the file's own row order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llamune.adapter.errors import AdapterError, WrongBaseError
from llamune.gguf import ModelFile

__all__ = ["Floats", "LoraAdapter", "LoraPair", "check_base", "check_shapes"]

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraPair:
    """What an adapter adds to one weight: W + scale · B A.

    Args:
        a: float32 (rank, columns); for an embedding (rank, rows): a row of W is a token.
        b: float32 (rows, rank), rows in the file's order; for an embedding (columns, rank).
        scale: alpha / rank, or alpha / sqrt(rank).
        magnitude: float32 (rows,), DoRA's length of each row of the sum; None for plain LoRA.
        embedding: whether a and b belong to the transposed weight.
    """

    a: Floats
    b: Floats
    scale: float
    magnitude: Floats | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """Columns of B."""
        return int(self.a.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the weight that it belongs to."""
        one, other = int(self.b.shape[0]), int(self.a.shape[1])
        return (other, one) if self.embedding else (one, other)

    def change(self, start: int = 0, stop: int | None = None) -> Floats:
        """Return rows of scale · B A, float32 (rows, columns)."""
        left, right = (
            (self.a[:, start:stop].T, self.b.T) if self.embedding else (self.b[start:stop], self.a)
        )
        rows = left @ right
        return np.asarray(rows * np.float32(self.scale), np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraAdapter:
    """An adapter, bound to the tensors of a base file.

    Args:
        path: the folder or file that it came from.
        pairs: GGUF tensor name of the base to what is added to it.
        replaced: GGUF tensor name to a whole new weight, float32 (rows, columns), in the file's
            row order (PEFT's `modules_to_save`).
        architecture: the base's architecture, where the adapter says it.
        base_digest: `sha256:…` of the base it was trained on, where the adapter says it.
        task_name: what a GGUF adapter says of its use.
    """

    path: Path
    pairs: Mapping[str, LoraPair]
    replaced: Mapping[str, Floats] = field(default_factory=dict)
    architecture: str | None = None
    base_digest: str | None = None
    task_name: str | None = None

    @property
    def n_parameters(self) -> int:
        """Numbers that were trained."""
        thin = sum(pair.a.size + pair.b.size for pair in self.pairs.values())
        lengths = sum(
            pair.magnitude.size for pair in self.pairs.values() if pair.magnitude is not None
        )
        return int(thin + lengths + sum(weight.size for weight in self.replaced.values()))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that appear, smallest first."""
        return tuple(sorted({pair.rank for pair in self.pairs.values()}))

    @property
    def is_dora(self) -> bool:
        """Whether any weight has DoRA's lengths."""
        return any(pair.magnitude is not None for pair in self.pairs.values())


def check_base(adapter: LoraAdapter, base_digest: str | None, *, force: bool = False) -> None:
    """Refuse an adapter on another base than its own; llama.cpp itself compares only shapes.

    Args:
        adapter: the adapter.
        base_digest: `sha256:…` of the base it is to be used on, or None when unknown.
        force: use it anyway.

    Raises:
        WrongBaseError: both digests are known and differ.
    """
    known = adapter.base_digest and base_digest
    if known and adapter.base_digest != base_digest and not force:
        raise WrongBaseError(
            f"{adapter.path}: was trained on {short(adapter.base_digest)}, "
            f"not on {short(base_digest)}",
            hint="use it on its own base, or say --force to apply it here all the same",
        )


def short(digest: str | None) -> str:
    """Return the beginning of a digest, enough to recognise it."""
    return (digest or "?").removeprefix("sha256:")[:12]


def check_shapes(adapter: LoraAdapter, base: ModelFile) -> None:
    """Refuse an adapter whose tensors the base does not have in that shape.

    Raises:
        AdapterError: another architecture, a tensor that is missing, or one of another shape.
    """
    if adapter.architecture not in {None, base.architecture}:
        raise AdapterError(
            f"{adapter.path}: is for the architecture {adapter.architecture!r}, "
            f"{base.path} is {base.architecture!r}"
        )
    wanted: dict[str, tuple[int, ...]] = {name: pair.shape for name, pair in adapter.pairs.items()}
    wanted |= {name: weight.shape for name, weight in adapter.replaced.items()}
    for name, shape in wanted.items():
        if name not in base.tensors:
            raise AdapterError(f"{adapter.path}: changes {name!r}, which {base.path} does not have")
        if base.tensors[name].shape != shape:
            raise AdapterError(
                f"{adapter.path}: {name}: is for a weight of shape {shape}, "
                f"the base has {base.tensors[name].shape}"
            )
