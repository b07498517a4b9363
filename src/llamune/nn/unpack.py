"""Packed rows to floats in pure torch, the same functions on CPU, CUDA and MPS, or by ggml's code.

Each quant type has one function over whole blocks. It gets the bytes and, for types whose blocks
have an even size, the same memory seen as 16-bit floats (scales lie at even offsets), so that
nothing is copied to read a scale. Source of every layout: ggml's `dequantize_row_*`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llamune.errors import UnsupportedError
from llamune.gguf import quant_type, rows_to_floats
from llamune.nn import compiling
from llamune.nn.tables import table

__all__ = [
    "BlockReader",
    "How",
    "block_type",
    "require_unpackable",
    "unpack",
    "unpackable",
    "unpacked_shape",
]

BlockFunction = Callable[..., Tensor]
How = Literal["torch", "compiled", "ggml"]
WEIGHTS_AT_ONCE = 1 << 20  # of plain torch on the CPU: 4 MiB an operation
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class BlockReader:
    """How one quant type's blocks become floats."""

    name: str
    block_size: int  # weights
    block_bytes: int
    # (n, block_bytes) uint8, (n, block_bytes / 2) f16, lookup tables -> (n, block_size) f32
    function: BlockFunction
    tables: tuple[str, ...]


READERS: dict[str, BlockReader] = {}


def block_type(
    name: str, *, tables: tuple[str, ...] = ()
) -> Callable[[BlockFunction], BlockFunction]:
    """Make a function the reader of a quant type's blocks."""
    found = quant_type(name)

    def add(function: BlockFunction) -> BlockFunction:
        READERS[name] = BlockReader(name, found.block_size, found.block_bytes, function, tables)
        return function

    return add


def unpackable() -> list[str]:
    """Return the names of all types that can be unpacked."""
    return sorted([*PLAIN, *READERS])


def require_unpackable(name: str, where: str) -> None:
    """Raise unless a type can be unpacked.

    Raises:
        UnsupportedError: it cannot; `where` says which tensor of which file has it.
    """
    if name not in PLAIN and name not in READERS:
        raise UnsupportedError(
            f"{where}: quant type {name} cannot be unpacked",
            hint=f"types that can: {', '.join(unpackable())}",
        )


def unpack(
    packed: Tensor,
    kind: str,
    dtype: torch.dtype,
    *,
    how: How = "torch",
    out: Tensor | None = None,
) -> Tensor:
    """Return packed rows as floats.

    Args:
        packed: uint8, (rows, row_bytes), contiguous.
        kind: the quant type's name.
        dtype: of the result; values are computed in f32 and rounded once.
        how: `torch`: plain torch on any device; `compiled`: the same through `torch.compile`;
            `ggml`: by ggml's own C code, on the CPU into f32.
        out: (rows, columns) of `dtype`, written and returned where something must be made.

    Returns:
        (rows, columns). A view into `packed` where type and dtype are the same.
    """
    if kind in PLAIN:
        stored = packed.view(PLAIN[kind])
        return stored.to(dtype) if out is None or stored.dtype == dtype else out.copy_(stored)
    if out is None:
        out = torch.empty(unpacked_shape(packed, kind), dtype=dtype, device=packed.device)
    if how == "ggml":
        threads = torch.get_num_threads()
        rows_to_floats(packed.numpy(), quant_type(kind), threads=threads, out=out.numpy())
        return out
    reader = READERS[kind]
    blocks = packed.reshape(-1, reader.block_bytes)
    halves = blocks.view(torch.float16) if reader.block_bytes % 2 == 0 else blocks
    tables = [table(name, packed.device) for name in reader.tables]
    inputs = (blocks, halves, *tables)
    by_block = out.view(-1, reader.block_size)
    if how == "compiled":
        compiling.compiled(reader.function)(by_block, *inputs)
        return out
    write = compiling.plain(reader.function)
    step = by_block.shape[0]
    if packed.device.type == "cpu":  # each operation's floats stay in the cache, and out of memory
        step = max(1, WEIGHTS_AT_ONCE // reader.block_size)
    for start in range(0, by_block.shape[0], step):
        some = slice(start, start + step)
        write(by_block[some], blocks[some], halves[some], *tables)
    return out


def unpacked_shape(packed: Tensor, kind: str) -> tuple[int, int]:
    """Return (rows, columns) of packed rows."""
    found = quant_type(kind)
    return packed.shape[0], packed.shape[1] // found.block_bytes * found.block_size
