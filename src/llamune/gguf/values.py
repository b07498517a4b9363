"""Metadata values: their types, and bytes to Python and back."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from llamune.errors import LlamuneError

__all__ = ["SCALARS", "Entry", "Scalar", "ValueType", "decode_scalar", "decode_strings"]

Scalar = int | float | bool


class ValueType(IntEnum):
    """The type number of a metadata value in the file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


SCALARS: Mapping[ValueType, np.dtype[Any]] = MappingProxyType(
    {
        ValueType.U8: np.dtype("u1"),
        ValueType.I8: np.dtype("i1"),
        ValueType.U16: np.dtype("<u2"),
        ValueType.I16: np.dtype("<i2"),
        ValueType.U32: np.dtype("<u4"),
        ValueType.I32: np.dtype("<i4"),
        ValueType.F32: np.dtype("<f4"),
        ValueType.BOOL: np.dtype("?"),
        ValueType.U64: np.dtype("<u8"),
        ValueType.I64: np.dtype("<i8"),
        ValueType.F64: np.dtype("<f8"),
    }
)
TYPE_OF_DTYPE = {dtype.newbyteorder("="): kind for kind, dtype in SCALARS.items()}
ARRAY_HEADER = struct.Struct("<IQ")  # element type, count
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Entry:
    """A metadata value as it lies in the file.

    Args:
        value_type: the type number that stands before the value.
        raw: the value's bytes; of an array with its element type and count in front.
    """

    value_type: ValueType
    raw: bytes

    @classmethod
    def of(cls, value: object, type: ValueType | None = None) -> Entry:  # noqa: A002  the contract
        """Return the entry of a Python value.

        Args:
            value: str, bool, int, float, a numpy array of one dimension, or a sequence of one
                of these kinds (bytes count as a string whose encoding is left alone).
            type: the scalar type, or the type of an array's elements; default the usual one:
                u32 for an int that fits (else i32, u64, i64), f32 for a float, i32 and f32
                for sequences of them, an array's own dtype.

        Raises:
            LlamuneError: the value does not fit the type, or no type fits the value.
        """
        if isinstance(value, str | bytes):
            return cls(ValueType.STRING, packed_string(value))
        if isinstance(value, np.ndarray) or (
            isinstance(value, Sequence) and not isinstance(value, str | bytes)
        ):
            return cls(ValueType.ARRAY, packed_array(value, type))
        kind = scalar_type(value) if type is None else type
        return cls(kind, packed_numbers(np.asarray(value), kind))

    @property
    def value(self) -> Any:
        """The value: a number, flag or text, a list of texts, or a numpy array."""
        if self.value_type is ValueType.STRING:
            return self.raw[LENGTH.size :].decode("utf-8", errors="replace")
        if self.value_type is not ValueType.ARRAY:
            return decode_scalar(self.value_type, self.raw)
        element, count = ARRAY_HEADER.unpack_from(self.raw)
        body = memoryview(self.raw)[ARRAY_HEADER.size :]
        if element == ValueType.STRING:
            return [text.decode("utf-8", errors="replace") for text in decode_strings(body, count)]
        return np.frombuffer(body, SCALARS[ValueType(element)], count)


def decode_scalar(kind: ValueType, raw: bytes) -> Scalar:
    """Return the number or flag that `raw` holds."""
    number: Scalar = np.frombuffer(raw, SCALARS[kind], 1)[0].item()
    return number


def decode_strings(body: bytes | memoryview, count: int) -> list[bytes]:
    """Return the bytes of each of `count` length-prefixed strings."""
    data = bytes(body)
    strings = []
    position = 0
    length_at = LENGTH.unpack_from
    for _ in range(count):
        start = position + LENGTH.size
        position = start + length_at(data, position)[0]
        strings.append(data[start:position])
    return strings


def scalar_type(value: object) -> ValueType:
    """Return the usual type of a Python scalar."""
    if isinstance(value, bool | np.bool_):
        return ValueType.BOOL
    if isinstance(value, np.generic) and value.dtype in TYPE_OF_DTYPE:
        return TYPE_OF_DTYPE[value.dtype]
    if isinstance(value, int):
        return integer_type(value)
    if isinstance(value, float):
        return ValueType.F32
    raise LlamuneError(f"metadata cannot hold a {type(value).__name__}")


def integer_type(value: int) -> ValueType:
    """Return the first of u32, i32, u64, i64 that holds `value`."""
    for kind in (ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64):
        limits = np.iinfo(SCALARS[kind])
        if limits.min <= value <= limits.max:
            return kind
    raise LlamuneError(f"metadata cannot hold the number {value}: it needs more than 64 bits")


def packed_string(text: str | bytes) -> bytes:
    """Return a string with its length in front."""
    data = text.encode() if isinstance(text, str) else text
    return LENGTH.pack(len(data)) + data


def packed_array(values: Any, kind: ValueType | None) -> bytes:
    """Return an array with its element type and count in front."""
    if len(values) and all(isinstance(value, str | bytes) for value in values):
        header = ARRAY_HEADER.pack(ValueType.STRING, len(values))
        return header + b"".join(packed_string(text) for text in values)
    if kind is ValueType.STRING:  # an empty list of texts
        return ARRAY_HEADER.pack(kind, 0)
    array = numbers_array(values)
    if array.ndim != 1:
        raise LlamuneError("metadata arrays have one dimension and elements of one type")
    chosen = kind if kind is not None else element_type(values, array)
    return ARRAY_HEADER.pack(chosen, len(array)) + packed_numbers(array, chosen)


def numbers_array(values: Any) -> np.ndarray[Any, Any]:
    """Return numbers or flags as an array that keeps them exactly."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "fO" and all(isinstance(value, int) for value in values):
            return np.array(values, np.uint64)  # numpy would mix i64 and u64 into floats
    except (ValueError, OverflowError) as error:
        raise LlamuneError(f"metadata cannot hold this array: {error}") from error
    return array


def element_type(values: object, array: np.ndarray[Any, Any]) -> ValueType:
    """Return the usual element type of an array or a sequence of scalars."""
    if isinstance(values, np.ndarray):
        if array.dtype.newbyteorder("=") in TYPE_OF_DTYPE:
            return TYPE_OF_DTYPE[array.dtype.newbyteorder("=")]
        raise LlamuneError(f"metadata cannot hold an array of {array.dtype}")
    if array.dtype == np.bool_:
        return ValueType.BOOL
    if array.dtype.kind == "f" or not len(array):
        return ValueType.F32
    if array.dtype.kind in "iu":
        limits = np.iinfo(np.int32)
        fits = limits.min <= array.min() and array.max() <= limits.max
        return ValueType.I32 if fits else TYPE_OF_DTYPE[array.dtype]
    raise LlamuneError("metadata arrays have one dimension and elements of one type")


def packed_numbers(array: np.ndarray[Any, Any], kind: ValueType) -> bytes:
    """Return numbers or flags as bytes of a type; a value that does not fit is an error."""
    if kind not in SCALARS or array.dtype.kind not in "biuf":
        raise LlamuneError(f"a {array.dtype} is not a metadata value of type {kind.name}")
    dtype = SCALARS[kind]
    with np.errstate(all="ignore"):
        packed = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(packed, array):
        raise LlamuneError(f"a value does not fit into a metadata value of type {kind.name}")
    return packed.tobytes()
