"""How much an adapter changes its base, layer by layer and module by module."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamune.anatomy.numbers import slabs_of
from llamune.gguf import ModelFile

if TYPE_CHECKING:
    from llamune.adapter import LoraAdapter, LoraPair

__all__ = ["Effect", "adapter_effects", "by_block", "by_module"]

BLOCK = re.compile(r"blk\.(\d+)\.(.+?)(?:\.weight)?")


@dataclass(frozen=True)
class Effect:
    """The change of one weight, or of several together.

    Args:
        name: the tensor, block or module.
        squared: sum of squared changes.
        squared_before: sum of squared weights of the base.
    """

    name: str
    squared: float
    squared_before: float

    @property
    def relative(self) -> float:
        """Length of the change over the length of the weights."""
        return math.sqrt(self.squared / self.squared_before) if self.squared_before else math.inf


def adapter_effects(
    base: ModelFile, adapter: LoraAdapter, *, advance: Callable[[int], object] | None = None
) -> list[Effect]:
    """Return the effective change of each weight relative to the base, in file order.

    Args:
        base: the model it was trained on.
        adapter: the adapter.
        advance: called with the number of the base's bytes just read.

    Raises:
        AdapterError: the adapter does not fit the base.
    """
    from llamune.adapter import check_shapes  # `inspect` need not load it

    check_shapes(adapter, base)
    effects = []
    for name in base.tensors:
        pair = adapter.pairs.get(name)
        replacement = adapter.replaced.get(name)
        if pair is None and replacement is None:
            continue
        squared = squared_before = 0.0
        for start, stop in slabs_of(base, name):
            floats = base.floats(name, start, stop)
            squared_before += sum_of_squares(floats)
            if replacement is not None:
                squared += sum_of_squares(replacement[start:stop] - floats)
            elif pair is not None:
                squared += sum_of_squares(changed_by(pair, floats, start, stop))
            if advance is not None:
                advance((stop - start) * base.tensors[name].row_bytes)
        effects.append(Effect(name, squared, squared_before))
    return effects


def changed_by(
    pair: LoraPair, floats: np.ndarray[tuple[int, int], np.dtype[np.float32]], start: int, stop: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the change of rows, float32 (rows, columns); DoRA gives each sum a length."""
    change = pair.change(start, stop)
    if pair.magnitude is None:
        return change
    rows = floats + change
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (pair.magnitude[start:stop, None] / lengths) - floats, np.float32)


def sum_of_squares(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Return the sum of squares with double precision."""
    return float(np.square(values, dtype=np.float64).sum())


def by_block(effects: Iterable[Effect]) -> list[Effect]:
    """Return the effects of each block's weights together, those outside blocks first."""

    def place(effect: Effect) -> int:
        kind, _, number = effect.name.partition(" ")
        return int(number) if kind == "block" else -1

    return sorted(together(effects, 1, "block {}"), key=place)


def by_module(effects: Iterable[Effect]) -> list[Effect]:
    """Return the effects of each module's weights over all blocks together."""
    return together(effects, 2, "{}")


def together(effects: Iterable[Effect], part: int, label: str) -> list[Effect]:
    """Return effects summed by a part of their names; those outside blocks stay by themselves."""
    sums: dict[str, list[float]] = {}
    for effect in effects:
        match = BLOCK.fullmatch(effect.name)
        name = label.format(match[part]) if match else effect.name
        pair = sums.setdefault(name, [0.0, 0.0])
        pair[0] += effect.squared
        pair[1] += effect.squared_before
    return [Effect(name, squared, before) for name, (squared, before) in sums.items()]
