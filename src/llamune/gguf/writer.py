"""Writes a GGUF file a tensor at a time, laid out as llama.cpp demands."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamune.errors import LlamuneError
from llamune.files import new_file
from llamune.gguf.header import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ALIGNMENT,
    MAX_DIMENSIONS,
    MAX_KEY_BYTES,
    MAX_NAME_BYTES,
    VERSIONS,
    padded,
)
from llamune.gguf.quant_types import QuantType
from llamune.gguf.values import Entry, packed_string

__all__ = ["Chunk", "NewTensor", "header_bytes", "write_gguf"]

Chunk = bytes | bytearray | memoryview | np.ndarray


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written.

    Args:
        name: its name in the file.
        shape: torch order, rows first.
        type: how its weights are stored.
        chunks: called once when its turn comes; yields its bytes in order.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    chunks: Callable[[], Iterable[Chunk]]

    @property
    def nbytes(self) -> int:
        """Size of its data, bytes."""
        return self.type.row_bytes(self.shape[-1]) * math.prod(self.shape[:-1])


def write_gguf(
    path: Path,
    *,
    metadata: Mapping[str, Entry],
    tensors: Sequence[NewTensor],
    alignment: int = DEFAULT_ALIGNMENT,
    version: int = VERSIONS[-1],
    replace: bool = False,
    scratch: Path | None = None,
    advance: Callable[[int], object] | None = None,
) -> None:
    """Write a model file, whole or not at all; memory stays at one chunk.

    Args:
        path: the new file.
        metadata: key → value, in the order of the file.
        tensors: in the order of the file.
        alignment: every tensor begins at a multiple of it; `general.alignment` must agree.
        version: 2 or 3 (both lay out the same).
        replace: whether a file already at `path` may be replaced.
        scratch: folder for the temporary file, on the same file system.
        advance: called with the number of data bytes just written.

    Raises:
        LlamuneError: `path` exists, a name or shape is not allowed, or a tensor's chunks do
            not add up to its size.
    """
    header = header_bytes(metadata, tensors, alignment=alignment, version=version)
    with new_file(path, replace=replace, scratch=scratch) as out:
        out.write(header)
        for tensor in tensors:
            write_tensor(out, tensor, alignment, advance)


def header_bytes(
    metadata: Mapping[str, Entry],
    tensors: Sequence[NewTensor],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    version: int = VERSIONS[-1],
) -> bytes:
    """Return everything before the data: the file's size is this and the padded tensors.

    Raises:
        LlamuneError: a name, shape, version or alignment is not allowed.
    """
    check(metadata, tensors, alignment, version)
    parts = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(metadata))]
    for key, entry in metadata.items():
        parts += [packed_string(key), struct.pack("<I", entry.value_type), entry.raw]
    offset = 0
    for tensor in tensors:
        n_dimensions = len(tensor.shape)
        parts += [
            packed_string(tensor.name),
            struct.pack(f"<I{n_dimensions}Q", n_dimensions, *reversed(tensor.shape)),
            struct.pack("<IQ", tensor.type.id, offset),
        ]
        offset = padded(offset + tensor.nbytes, alignment)
    header = b"".join(parts)
    return header.ljust(padded(len(header), alignment), b"\0")


def check(
    metadata: Mapping[str, Entry], tensors: Sequence[NewTensor], alignment: int, version: int
) -> None:
    """Refuse what no reader would take."""
    if version not in VERSIONS:
        raise LlamuneError(f"GGUF version {version} is not written; one of {VERSIONS} is")
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise LlamuneError(f"alignment {alignment} is not a power of two up to {MAX_ALIGNMENT:,}")
    stated = metadata.get(ALIGNMENT_KEY)
    stated_alignment = DEFAULT_ALIGNMENT if stated is None else stated.value
    if stated_alignment != alignment:
        raise LlamuneError(f"{ALIGNMENT_KEY} says {stated_alignment}, the file has {alignment}")
    for key in metadata:
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            raise LlamuneError(f"metadata key {key[:80]!r} has a length that is not allowed")
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LlamuneError(f"tensor {twice!r} appears twice")
    for tensor in tensors:
        if not 0 < len(tensor.name.encode()) <= MAX_NAME_BYTES:
            raise LlamuneError(
                f"tensor name {tensor.name!r} has a length that is not allowed (1 to "
                f"{MAX_NAME_BYTES} bytes)"
            )
        if not 1 <= len(tensor.shape) <= MAX_DIMENSIONS or min(tensor.shape) < 1:
            raise LlamuneError(f"tensor {tensor.name!r} has the impossible shape {tensor.shape}")
        if tensor.shape[-1] % tensor.type.block_size:
            raise LlamuneError(
                f"tensor {tensor.name!r} has rows of {tensor.shape[-1]} weights; {tensor.type} "
                f"comes in blocks of {tensor.type.block_size}"
            )


def write_tensor(
    out: BinaryIO,
    tensor: NewTensor,
    alignment: int,
    advance: Callable[[int], object] | None,
) -> None:
    """Write one tensor's data and the padding after it."""
    written = 0
    for chunk in tensor.chunks():
        data = np.ascontiguousarray(chunk).data if isinstance(chunk, np.ndarray) else chunk
        n_bytes = memoryview(data).nbytes
        out.write(data)
        written += n_bytes
        if advance is not None:
            advance(n_bytes)
    if written != tensor.nbytes:
        raise LlamuneError(
            f"tensor {tensor.name!r} got {written:,} bytes of data and needs {tensor.nbytes:,}"
        )
    out.write(b"\0" * (padded(written, alignment) - written))
