"""Importance matrices, as llama.cpp's own quantizer reads them.

Source: the GGUF format that llama.cpp's `imatrix` tool writes: for each tensor the sum of squared
inputs of every column, and how many inputs were summed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamune.arch import Family
from llamune.calibrate.layers import Layers
from llamune.calibrate.windows import Windows
from llamune.gguf import Entry, NewTensor, ValueType, quant_type, write_gguf

__all__ = ["squared_inputs", "write_importance"]

Floats = np.ndarray[Any, np.dtype[np.float32]]


def squared_inputs(
    model: Any,
    family: Family,
    windows: Windows,
    *,
    advance: Callable[[int], object] | None = None,
) -> dict[str, Floats]:
    """Return the sum of squared inputs of every column of every linear layer.

    Args:
        model: what `nn.load` returned.
        family: its family.
        windows: the text.
        advance: called with the number of layers just finished.

    Returns:
        tensor name → float32 (columns,), summed over the tokens of the text.
    """
    layers = Layers(model, family, windows)
    sums: dict[str, Floats] = {}
    for index in range(len(layers)):
        moments = layers.moments(index, advance=True)
        for name, total in moments.sums.items():
            sums[name] = total.diagonal().cpu().numpy().astype(np.float32)
        if advance is not None:
            advance(1)
    return sums


def write_importance(
    path: Path,
    sums: Mapping[str, Floats],
    *,
    n_tokens: int,
    length: int,
    datasets: list[str],
    replace: bool = False,
) -> None:
    """Write an importance matrix.

    Args:
        path: the new file.
        sums: tensor name → sum of squared inputs, float32 (columns,).
        n_tokens: how many inputs were summed.
        length: tokens of a window of text.
        datasets: names of the texts.
        replace: whether a file at `path` may be replaced.
    """
    tensors = []
    for name, values in sums.items():
        counts = np.array([[n_tokens]], np.float32)
        for suffix, array in (("in_sum2", values[None]), ("counts", counts)):
            tensors.append(floats_tensor(f"{name}.{suffix}", array))
    metadata = {
        "general.type": Entry.of("imatrix"),
        "general.architecture": Entry.of("imatrix"),
        "imatrix.datasets": Entry.of(datasets),
        "imatrix.chunk_count": Entry.of(max(1, n_tokens // length), ValueType.U32),
        "imatrix.chunk_size": Entry.of(length, ValueType.U32),
    }
    write_gguf(path, metadata=metadata, tensors=tensors, replace=replace)


def floats_tensor(name: str, values: Floats) -> NewTensor:
    """Return a tensor of floats for a file."""
    raw = np.ascontiguousarray(values).tobytes()
    return NewTensor(name, values.shape, quant_type("F32"), lambda: [raw])
