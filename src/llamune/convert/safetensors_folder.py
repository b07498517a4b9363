"""A transformers folder's weights, mapped: one safetensors file or several by their index.

The header is checked against the file's size before anything is read from it. Source: the
safetensors format, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llamune.errors import LlamuneError, UnsupportedError

__all__ = ["FolderTensor", "open_folder"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}


@dataclass(frozen=True)
class FolderTensor:
    """A tensor of the folder; `data` is a view of the mapped file, BF16 as its 16 bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: np.ndarray[Any, Any]

    def rows(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return rows as f32, (stop - start, columns); a vector is one row."""
        table = self.data.reshape(-1, self.shape[-1])[start:stop]
        if self.dtype == "BF16":
            return (table.astype(np.uint32) << 16).view(np.float32)
        return table.astype(np.float32)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return math.prod(self.shape[:-1])


def open_folder(folder: Path) -> dict[str, FolderTensor]:
    """Return the tensors of a transformers folder by name.

    Raises:
        LlamuneError: there is no safetensors file, or one breaks a rule of the format.
        UnsupportedError: the weights are pickled, or of a type that we do not read.
    """
    if (folder / SINGLE).is_file():
        return open_file(folder / SINGLE)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise LlamuneError(f"{folder / INDEX}: a file name leads out of the folder")
        return {name: one for file in names for name, one in open_file(folder / file).items()}
    if any(folder.glob("*.bin")):
        raise UnsupportedError(
            f"{folder}: pickled weights (*.bin) are never loaded",
            hint="save the model as safetensors first",
        )
    raise LlamuneError(f"{folder}: no {SINGLE} or {INDEX}")


def open_file(path: Path) -> dict[str, FolderTensor]:
    """Return the tensors of one safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as source:
        n_header = int.from_bytes(source.read(8), "little")
        if size < 8 or n_header > min(MAX_HEADER_BYTES, size - 8):
            raise LlamuneError(f"{path}: byte 0: the header does not fit the file")
        try:
            header = json.loads(source.read(n_header))
        except ValueError as error:
            raise LlamuneError(f"{path}: byte 8: the header is no JSON: {error}") from None
        mapped = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
    if not isinstance(header, dict):
        raise LlamuneError(f"{path}: byte 8: the header is no JSON object")
    header.pop("__metadata__", None)
    body = memoryview(mapped)[8 + n_header :]
    return {name: tensor_of(path, name, entry, body) for name, entry in header.items()}


def tensor_of(path: Path, name: str, entry: Any, body: memoryview) -> FolderTensor:
    """Return one tensor, its bounds checked."""
    if not isinstance(entry, Mapping) or entry.get("dtype") not in DTYPES:
        kind = entry.get("dtype") if isinstance(entry, Mapping) else entry
        raise UnsupportedError(f"{path}: {name}: type {kind!r} is not read")
    dtype = np.dtype(DTYPES[entry["dtype"]])
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    right_size = all(isinstance(n, int) and n > 0 for n in shape) and stop - start == (
        math.prod(shape) * dtype.itemsize
    )
    if not (shape and right_size and 0 <= start <= stop <= len(body)):
        raise LlamuneError(f"{path}: {name}: shape and offsets do not fit the file")
    data = np.frombuffer(body[start:stop], dtype=dtype).reshape(shape)
    return FolderTensor(name, shape, entry["dtype"], data)
