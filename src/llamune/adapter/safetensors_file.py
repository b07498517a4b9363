"""Safetensors files to float32 arrays and back, through the `safetensors` package, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamune.adapter.errors import AdapterError
from llamune.adapter.lora import Floats
from llamune.files import new_file

__all__ = ["read_safetensors", "write_safetensors"]

MAX_BYTES = 16 << 30  # an adapter is read whole; no real one is near this
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def read_safetensors(path: Path) -> dict[str, Floats]:
    """Return every tensor of a file as float32.

    Raises:
        AdapterError: damaged, too large, or of another type than F64, F32, F16, BF16.
    """
    from safetensors import SafetensorError, deserialize

    if path.stat().st_size > MAX_BYTES:
        raise AdapterError(f"{path}: {path.stat().st_size:,} bytes are no adapter")
    try:
        tensors = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise AdapterError(f"{path}: not a whole safetensors file: {error}") from error
    return {name: as_floats(path, name, tensor) for name, tensor in tensors}


def as_floats(path: Path, name: str, tensor: Mapping[str, Any]) -> Floats:
    """Return one tensor's numbers."""
    kind, data, shape = tensor["dtype"], tensor["data"], tensor["shape"]
    if kind == "BF16":  # the upper half of a float32
        numbers = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in DTYPES:
        numbers = np.frombuffer(data, DTYPES[kind]).astype(np.float32)
    else:
        raise AdapterError(f"{path}: tensor {name!r} is {kind}, an adapter has floats")
    if not np.isfinite(numbers).all():
        raise AdapterError(f"{path}: tensor {name!r} holds values that are not finite")
    return numbers.reshape(shape)


def write_safetensors(path: Path, tensors: Mapping[str, Floats]) -> None:
    """Write float32 tensors, whole or not at all."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(tensor, "<f4") for name, tensor in tensors.items()}
    with new_file(path) as out:
        out.write(save(arrays, {"format": "pt"}))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a small JSON file.

    Raises:
        AdapterError: not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: holds no JSON object")
    return value
