"""Rows of weights to floats and back, through ggml's own code.

Source: `ggml_get_type_traits(…)->to_float` and `ggml_quantize_chunk` of the shared library in
the wheel `libggml-python`. Both run without Python's lock, so threads help.
"""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llamune.errors import LlamuneError, UnsupportedError
from llamune.gguf.quant_types import QuantType

__all__ = ["floats_to_rows", "needs_importance", "rows_are_finite", "rows_to_floats"]

Floats = np.ndarray[Any, np.dtype[np.float32]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

LIBRARY_NAMES = {
    "linux": "libggml-base.so",
    "darwin": "libggml-base.dylib",
    "win32": "ggml-base.dll",
}
UNPACK_ONLY = {"Q8_1", "Q8_K"}  # ggml packs activations into them, never a file's weights
NUMPY_DTYPES = {
    "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"
}  # fmt: skip
MIN_THREAD_ELEMENTS = 1 << 16
MIN_PACKING_ELEMENTS = 1 << 13  # choosing scales takes ten times as long as reading them


class TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """Load ggml's shared library and declare the functions that we call.

    Raises:
        LlamuneError: the wheel lacks the library.
    """
    from importlib import metadata

    name = LIBRARY_NAMES.get(sys.platform, LIBRARY_NAMES["linux"])
    files = metadata.files("libggml-python") or []
    paths = [Path(str(file.locate())) for file in files if file.name == name]
    if not paths:
        raise LlamuneError(
            f"the package libggml-python holds no {name}",
            hint="install it again: pip install --force-reinstall libggml-python",
        )
    ggml = ctypes.CDLL(str(paths[0]))
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    ggml.ggml_get_type_traits.argtypes = [ctypes.c_int]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
    ggml.ggml_validate_row_data.restype = ctypes.c_bool
    ggml.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return ggml


def needs_importance(kind: QuantType) -> bool:
    """Whether ggml packs this type only with an importance matrix."""
    return bool(library().ggml_quantize_requires_imatrix(kind.id))


def rows_to_floats(
    packed: Bytes, kind: QuantType, *, threads: int | None = None, out: Floats | None = None
) -> Floats:
    """Unpack rows.

    Args:
        packed: uint8 (rows, row bytes).
        kind: how they are stored, in blocks where `out` is given.
        threads: at most this many; default all cores.
        out: contiguous float32 (rows, columns) to write into and return.

    Returns:
        float32 (rows, columns).

    Raises:
        UnsupportedError: ggml cannot unpack this type.
        LlamuneError: the rows are not whole blocks.
    """
    n_rows, row_bytes = packed.shape
    if row_bytes % kind.block_bytes:
        raise LlamuneError(
            f"rows of {row_bytes} bytes are not whole {kind} blocks of {kind.block_bytes} bytes"
        )
    packed = np.ascontiguousarray(packed)
    if kind.name in NUMPY_DTYPES:
        with np.errstate(over="ignore"):  # a double beyond float32's range becomes infinite
            return packed.view(NUMPY_DTYPES[kind.name]).astype(np.float32)
    to_float = library().ggml_get_type_traits(kind.id).contents.to_float
    if not to_float:
        raise UnsupportedError(f"ggml has no code that unpacks {kind}")
    n_columns = row_bytes // kind.block_bytes * kind.block_size
    floats = np.empty((n_rows, n_columns), np.float32) if out is None else out

    def unpack(first: int, last: int) -> None:
        to_float(
            packed.ctypes.data + first * row_bytes,
            floats.ctypes.data + first * floats.strides[0],
            (last - first) * n_columns,
        )

    in_parts(unpack, n_rows, n_columns, threads)
    return floats


def floats_to_rows(
    floats: Floats,
    kind: QuantType,
    importance: Floats | None = None,
    *,
    threads: int | None = None,
) -> Bytes:
    """Pack rows as ggml's reference does.

    Args:
        floats: float32 (rows, columns).
        kind: how to store them.
        importance: float32 (columns,), weight of each column's squared error.
        threads: at most this many; default all cores.

    Returns:
        uint8 (rows, row bytes).

    Raises:
        UnsupportedError: ggml cannot pack this type.
        LlamuneError: rows are not whole blocks, or the type needs an importance matrix.
    """
    n_rows, n_columns = floats.shape
    if n_columns % kind.block_size:
        raise LlamuneError(
            f"rows of {n_columns} weights are not whole {kind} blocks of {kind.block_size} weights"
        )
    if kind.is_integer or kind.name in UNPACK_ONLY or kind.name == "F64":
        raise UnsupportedError(f"ggml has no code that packs weights into {kind}")
    floats = np.ascontiguousarray(floats, np.float32)
    if kind.name == "F32":
        return floats.view(np.uint8)
    weights = checked_importance(importance, kind, n_columns)
    packed = np.empty((n_rows, kind.row_bytes(n_columns)), np.uint8)
    quantize = library().ggml_quantize_chunk

    def pack(first: int, last: int) -> None:
        quantize(
            kind.id,
            floats.ctypes.data,
            packed.ctypes.data,
            first * n_columns,
            last - first,
            n_columns,
            None if weights is None else weights.ctypes.data,
        )

    in_parts(pack, n_rows, n_columns, threads, fewest=MIN_PACKING_ELEMENTS)
    return packed


def checked_importance(importance: Floats | None, kind: QuantType, n_columns: int) -> Floats | None:
    """Return the importance matrix as ggml wants it."""
    if importance is None:
        if needs_importance(kind):
            raise LlamuneError(
                f"{kind} needs an importance matrix", hint="make one with `llamune imatrix`"
            )
        return None
    weights = np.ascontiguousarray(importance, np.float32)
    if weights.shape != (n_columns,):
        raise LlamuneError(
            f"the importance matrix has shape {weights.shape}, the rows need ({n_columns},)"
        )
    return weights


def rows_are_finite(packed: Bytes, kind: QuantType) -> bool:
    """Whether every scale (and, of float types, every weight) is a finite number."""
    packed = np.ascontiguousarray(packed)
    if kind.name == "F32":  # numpy looks at eight at a time, ggml's build at one
        return bool(np.isfinite(packed.view("<f4")).all())
    return bool(
        library().ggml_validate_row_data(
            kind.id, packed.ctypes.data, ctypes.c_size_t(packed.nbytes)
        )
    )


def in_parts(
    work: Any,
    n_rows: int,
    n_columns: int,
    threads: int | None,
    *,
    fewest: int = MIN_THREAD_ELEMENTS,
) -> None:
    """Call `work(first, last)` over ranges of rows, in threads where that pays."""
    wanted = threads or os.cpu_count() or 1
    parts = max(1, min(wanted, n_rows, n_rows * n_columns // fewest))
    if parts == 1:
        work(0, n_rows)
        return
    edges = [n_rows * part // parts for part in range(parts + 1)]
    list(workers(wanted).map(work, edges[:-1], edges[1:]))


@cache
def workers(n_threads: int) -> ThreadPoolExecutor:
    """Return the threads that work on parts, kept: starting them costs more than a small part."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="llamune-blocks")


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=workers.cache_clear)  # a fork has no thread of its parent
