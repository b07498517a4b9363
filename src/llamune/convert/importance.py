"""Importance matrices: how much each input column of a tensor matters when it is rounded.

Source: `common/imatrix-loader.cpp` of llama.cpp, for the GGUF and the older binary format.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamune.errors import LlamuneError
from llamune.gguf import ModelFile, TensorInfo

__all__ = ["Importance", "read_importance"]

Floats = np.ndarray[Any, np.dtype[np.float32]]

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, N_CHUNKS = "imatrix.datasets", "imatrix.chunk_count"
MAX_LEGACY_BYTES = 4 << 30
MAX_LEGACY_NAME = 4096


@dataclass(frozen=True)
class Importance:
    """An importance matrix.

    Args:
        path: where it was read from.
        weights: tensor name → float32 (experts, columns), mean squared input of each column.
        datasets: texts it was made from.
        n_chunks: chunks of text it was made from.
    """

    path: Path
    weights: Mapping[str, Floats]
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0

    def of(self, tensor: TensorInfo) -> Floats | None:
        """Return a tensor's weights, float32 (experts, columns); None where there are none.

        Raises:
            LlamuneError: the matrix was made for a tensor of another shape.
        """
        found = self.weights.get(tensor.name)
        if found is None:
            return None
        n_experts = tensor.shape[-3] if len(tensor.shape) >= 3 else 1
        if found.size != n_experts * tensor.n_columns:
            if tensor.name in {"token_embd.weight", "per_layer_token_embd.weight"}:
                return None  # counted by token there, as llama.cpp does: of no use
            raise LlamuneError(
                f"{self.path}: {tensor.name!r} has {found.size} weights of importance, the tensor "
                f"needs {n_experts * tensor.n_columns}",
                hint="the importance matrix belongs to another model",
            )
        return found.reshape(n_experts, tensor.n_columns)


def read_importance(path: Path) -> Importance:
    """Read an importance matrix in either format.

    Raises:
        LlamuneError: the file cannot be read, or holds no importance matrix.
    """
    try:
        with path.open("rb") as source:
            is_gguf = source.read(4) == b"GGUF"
    except OSError as error:
        raise LlamuneError(f"{path}: {error.strerror}") from error
    matrix = read_gguf(path) if is_gguf else read_legacy(path)
    for name, weights in matrix.weights.items():
        if not np.isfinite(weights).all():
            raise LlamuneError(f"{path}: the importance of {name!r} is not finite")
    return matrix


def read_gguf(path: Path) -> Importance:
    """Read the GGUF format: squared sums and counts for each tensor."""
    weights: dict[str, Floats] = {}
    with ModelFile.open(path, mapped=False) as file:
        for name in file.tensors:
            if not name.endswith(SUMS):
                continue
            target = name.removesuffix(SUMS)
            if target + COUNTS not in file.tensors:
                raise LlamuneError(f"{path}: {target!r} has sums and no counts")
            counts = np.rint(file.floats(target + COUNTS)).ravel()
            sums = file.floats(name).reshape(-1)
            if not len(counts) or sums.size % len(counts):
                raise LlamuneError(f"{path}: the sums of {target!r} do not fit its counts")
            weights[target] = mean_squares(sums.reshape(len(counts), -1), counts)
        datasets = tuple(file.metadata.strings(DATASETS)) if DATASETS in file.metadata else ()
        n_chunks = file.metadata.integer(N_CHUNKS, default=0)
    if not weights:
        raise LlamuneError(f"{path}: holds no importance matrix", hint="make one: llamune imatrix")
    return Importance(path, MappingProxyType(weights), datasets, n_chunks)


def mean_squares(sums: Floats, counts: Floats) -> Floats:
    """Return sums over counts, (experts, columns); 1 for an expert that saw nothing."""
    seen = counts > 0
    means = np.ones_like(sums)
    means[seen] = sums[seen] / counts[seen, None]
    return means


def read_legacy(path: Path) -> Importance:
    """Read the older binary format: name, calls, values; then chunks and the text's name."""
    size = path.stat().st_size
    if size > MAX_LEGACY_BYTES:
        raise LlamuneError(f"{path}: is too large for an importance matrix ({size:,} bytes)")
    data = path.read_bytes()
    position = 0

    def whole() -> int:
        nonlocal position
        if position + 4 > len(data):
            raise damaged(path, position)
        value: int = struct.unpack_from("<i", data, position)[0]
        position += 4
        return value

    def piece(n_bytes: int) -> bytes:
        nonlocal position
        if n_bytes < 0 or position + n_bytes > len(data):
            raise damaged(path, position)
        position += n_bytes
        return data[position - n_bytes : position]

    weights: dict[str, Floats] = {}
    n_entries = whole()
    if not 1 <= n_entries <= len(data) // 12:
        raise damaged(path, 0)
    for _ in range(n_entries):
        n_name = whole()
        if not 1 <= n_name <= MAX_LEGACY_NAME:
            raise damaged(path, position)
        name = piece(n_name).decode("utf-8", errors="replace")
        n_calls, n_values = whole(), whole()
        if n_values < 1:
            raise damaged(path, position)
        values = np.frombuffer(piece(4 * n_values), np.float32)
        weights[name] = values / np.float32(max(n_calls, 1))
    n_chunks = 0
    datasets: tuple[str, ...] = ()
    if position + 8 <= len(data):  # both are optional
        n_chunks = whole()
        datasets = (piece(whole()).decode("utf-8", errors="replace"),)
    return Importance(path, MappingProxyType(weights), datasets, n_chunks)


def damaged(path: Path, position: int) -> LlamuneError:
    """Return the error about a file that is not an importance matrix, or is cut."""
    return LlamuneError(f"{path}, byte {position}: not a whole importance matrix")
