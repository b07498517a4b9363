"""How floats become blocks: what every room that writes packed tensors takes as an argument."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from llamune.gguf.kernels import floats_to_rows
from llamune.gguf.quant_types import QuantType

__all__ = ["Rounding", "nearest"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


class Rounding(Protocol):
    """How floats become blocks; `calibrate` has one that compensates errors."""

    def __call__(self, name: str, rows: Floats, kind: QuantType) -> Bytes:
        """Pack rows.

        Args:
            name: the tensor; a tensor's slices come in order, one after the other.
            rows: float32 (rows, columns).
            kind: how to store them.

        Returns:
            uint8 (rows, row bytes).
        """
        ...


def nearest(name: str, rows: Floats, kind: QuantType) -> Bytes:  # noqa: ARG001  a Rounding
    """Round as ggml does."""
    return floats_to_rows(rows, kind)
