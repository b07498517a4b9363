"""A GGUF header, read and checked in full before anything is believed.

Source: `docs/gguf.md` of ggml, and the checks that published holes in other readers teach.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from llamune.gguf.cursor import Cursor
from llamune.gguf.errors import GgufError, UnsupportedFileError
from llamune.gguf.quant_types import QUANT_TYPES, REMOVED_TYPES, QuantType
from llamune.gguf.source import Source
from llamune.gguf.values import SCALARS, ValueType

__all__ = [
    "ALIGNMENT_KEY",
    "DEFAULT_ALIGNMENT",
    "MAX_STRING_BYTES",
    "Header",
    "Slot",
    "TensorInfo",
    "read_header",
]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"

# Limits on what a header may claim. Real files stay far below; memory must not follow a lie.
MIN_FILE_BYTES = 24
MIN_KEY_BYTES = 13
MIN_TENSOR_BYTES = 33  # ggml writes at least one dimension
MAX_KEYS = 100_000
MAX_TENSORS = 1_000_000
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_STRING_BYTES = 16 << 20
MAX_ARRAY_ELEMENTS = 64 << 20
MAX_ARRAY_STRINGS = 4 << 20
MAX_ALIGNMENT = 1 << 20
MAX_ELEMENTS = (1 << 63) - 1

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
COUNTS = struct.Struct("<QQ")
ARRAY_HEADER = struct.Struct("<IQ")
TYPE_AND_OFFSET = struct.Struct("<IQ")
DIMENSIONS = [struct.Struct(f"<{n}Q") for n in range(MAX_DIMENSIONS + 1)]


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file, as the header describes it.

    Args:
        name: its name in the file.
        shape: torch order: rows first, the dimension that lies contiguous in memory last.
        type: how its weights are stored.
        offset: absolute position of its data in its shard, bytes.
        nbytes: size of its data.
        shard: which of the model's files holds it, from 0.
    """

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int
    nbytes: int
    shard: int = 0

    @property
    def n_elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def n_columns(self) -> int:
        """Weights a row (`ne[0]` of ggml)."""
        return self.shape[-1]

    @property
    def n_rows(self) -> int:
        """Number of rows, over all leading dimensions."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes a row."""
        return self.type.row_bytes(self.n_columns)


@dataclass(frozen=True)
class Slot:
    """Where a metadata value lies in the file.

    Args:
        value_type: its type.
        start: where its key begins, bytes.
        value_start: where its value begins; of an array, its element type.
        end: where the next key begins.
        element_type: type of an array's elements, else None.
        count: number of an array's elements, else 1.
    """

    value_type: ValueType
    start: int
    value_start: int
    end: int
    element_type: ValueType | None = None
    count: int = 1


@dataclass(frozen=True)
class Header:
    """What the header of one file says.

    Args:
        version: 2 or 3.
        alignment: bytes that every tensor's offset is a multiple of.
        data_offset: where the tensor data begins.
        slots: metadata key → where its value lies, in file order.
        tensors: in file order.
        spans: tensor name → (position, bytes) of its entry in the header.
        end: where the last entry ends; padding follows up to `data_offset`.
        warnings: things that are allowed but odd, in words.
    """

    version: int
    alignment: int
    data_offset: int
    slots: dict[str, Slot]
    tensors: tuple[TensorInfo, ...]
    spans: dict[str, tuple[int, int]]
    end: int
    warnings: tuple[str, ...] = field(default=())


def read_header(source: Source, shard: int = 0) -> Header:
    """Read and check the header of a file.

    Raises:
        GgufError: a rule of the format is broken.
        UnsupportedFileError: a version, byte order or tensor type that we do not read.
    """
    cursor = Cursor(source)
    version = read_version(cursor)
    n_tensors, n_keys = COUNTS.unpack(cursor.take(COUNTS.size, "the header"))
    check_count(cursor, n_keys, "metadata keys", MIN_KEY_BYTES, MAX_KEYS, offset=16)
    check_count(cursor, n_tensors, "tensors", MIN_TENSOR_BYTES, MAX_TENSORS, offset=8)
    slots = read_slots(cursor, n_keys)
    alignment = read_alignment(source, slots)
    relative, spans = read_tensor_infos(cursor, n_tensors, alignment, shard)
    end = cursor.position
    data_offset = padded(end, alignment)
    tensors = tuple(relative.values())
    placed, warnings = place(cursor, tensors, data_offset, alignment, spans)
    return Header(
        version=version,
        alignment=alignment,
        data_offset=data_offset,
        slots=slots,
        tensors=placed,
        spans=spans,
        end=end,
        warnings=warnings,
    )


def padded(position: int, alignment: int) -> int:
    """Return `position` rounded up to a multiple of `alignment`."""
    return -(-position // alignment) * alignment


def read_version(cursor: Cursor) -> int:
    """Check the magic and return the version."""
    path = cursor.source.path
    magic = cursor.source.read(0, min(len(MAGIC), cursor.source.size))
    if magic != MAGIC:
        raise GgufError(
            path,
            rule="magic",
            problem=f"begins with {magic!r} instead of {MAGIC!r}: not a GGUF file",
            offset=0,
        )
    if cursor.source.size < MIN_FILE_BYTES:
        raise GgufError(
            path,
            rule="complete",
            problem=f"has {cursor.source.size} bytes; a GGUF header has at least {MIN_FILE_BYTES}",
            offset=cursor.source.size,
        )
    cursor.skip(len(MAGIC), "the magic")
    version = cursor.number(U32, "the version")
    if version in VERSIONS:
        return version
    if version & 0xFFFF == 0 and version:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        raise UnsupportedFileError(
            path,
            rule="byte order",
            problem=f"is a big-endian GGUF file (version {swapped})",
            offset=4,
            hint="convert it with gguf-py's gguf_convert_endian script",
        )
    known = " and ".join(str(number) for number in VERSIONS)
    raise UnsupportedFileError(
        path,
        rule="version",
        problem=f"has GGUF version {version}; versions {known} are read",
        offset=4,
        hint="convert the original model again with a current llama.cpp" if version == 1 else None,
    )


def check_count(
    cursor: Cursor, count: int, what: str, min_bytes: int, most: int, *, offset: int
) -> None:
    """Refuse a count that the rest of the file cannot hold or that no real file has."""
    if count > most or count * min_bytes > cursor.remaining:
        raise cursor.error(
            "count",
            f"the header claims {count:,} {what}; {cursor.remaining:,} bytes remain and "
            f"at most {most:,} are allowed",
            offset=offset,
        )


def read_slots(cursor: Cursor, n_keys: int) -> dict[str, Slot]:
    """Return where each metadata value lies."""
    slots: dict[str, Slot] = {}
    for _ in range(n_keys):
        start = cursor.position
        key = read_name(cursor, "a metadata key", MAX_KEY_BYTES)
        if key in slots:
            raise cursor.error("unique keys", f"metadata key {key!r} appears twice", offset=start)
        slots[key] = read_slot(cursor, key, start)
    return slots


def read_name(cursor: Cursor, what: str, max_bytes: int) -> str:
    """Return the next string as a name: not empty, UTF-8."""
    start = cursor.position
    raw = cursor.string(what, max_bytes=max_bytes)
    if not raw:
        raise cursor.error("names", f"{what} is empty", offset=start)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise cursor.error("names", f"{what} ({raw[:80]!r}) is not UTF-8", offset=start) from error


def read_slot(cursor: Cursor, key: str, start: int) -> Slot:
    """Go past a metadata value and return where it lies."""
    kind = read_value_type(cursor, f"the value of {key!r}")
    value_start = cursor.position
    what = f"the value of {key!r}"
    if kind is ValueType.ARRAY:
        element_type, count = skip_array(cursor, key)
        return Slot(kind, start, value_start, cursor.position, element_type, count)
    if kind is ValueType.STRING:
        cursor.skip_string(what, max_bytes=MAX_STRING_BYTES)
    elif kind is ValueType.BOOL:
        check_flags(cursor, 1, what)
    else:
        cursor.skip(SCALARS[kind].itemsize, what)
    return Slot(kind, start, value_start, cursor.position)


def read_value_type(cursor: Cursor, what: str) -> ValueType:
    """Return the next value type."""
    start = cursor.position
    number = cursor.number(U32, what)
    if number > max(ValueType):
        raise cursor.error("value type", f"{what} has the unknown type {number}", offset=start)
    return ValueType(number)


def skip_array(cursor: Cursor, key: str) -> tuple[ValueType, int]:
    """Go past an array; return the type and the number of its elements."""
    start = cursor.position
    what = f"the array {key!r}"
    element_type = read_value_type(cursor, f"an element of {what}")
    count = cursor.number(U64, what)
    if element_type is ValueType.ARRAY:
        raise UnsupportedFileError(
            cursor.source.path,
            rule="nested arrays",
            problem=f"{what} holds arrays",
            offset=start,
            hint="no reader of llama.cpp or Ollama takes nested arrays either",
        )
    is_text = element_type is ValueType.STRING
    element_bytes = U64.size if is_text else SCALARS[element_type].itemsize
    most = MAX_ARRAY_STRINGS if is_text else MAX_ARRAY_ELEMENTS
    if count > most or count * element_bytes > cursor.remaining:
        raise cursor.error(
            "array length",
            f"{what} claims {count:,} elements; {cursor.remaining:,} bytes remain and "
            f"at most {most:,} elements are allowed",
            offset=start,
        )
    if is_text:
        cursor.skip_strings(count, f"an element of {what}", max_bytes=MAX_STRING_BYTES)
    elif element_type is ValueType.BOOL:
        check_flags(cursor, count, what)
    else:
        cursor.skip(count * element_bytes, what)
    return element_type, count


def check_flags(cursor: Cursor, count: int, what: str) -> None:
    """Go past `count` flags, each of which must be 0 or 1."""
    while count:
        start = cursor.position
        flags = np.frombuffer(cursor.take(min(count, 1 << 20), what), np.uint8)
        if flags.max() > 1:
            wrong = int(np.argmax(flags > 1))
            raise cursor.error(
                "flags", f"{what} holds {flags[wrong]} where 0 or 1 belongs", offset=start + wrong
            )
        count -= len(flags)


def read_alignment(source: Source, slots: dict[str, Slot]) -> int:
    """Return the alignment of tensor data."""
    slot = slots.get(ALIGNMENT_KEY)
    if slot is None:
        return DEFAULT_ALIGNMENT
    if slot.value_type is not ValueType.U32:
        raise GgufError(
            source.path,
            rule="alignment",
            problem=f"{ALIGNMENT_KEY} is a {slot.value_type.name}, not a U32",
            offset=slot.value_start,
        )
    alignment: int = U32.unpack(source.read(slot.value_start, U32.size))[0]
    if not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GgufError(
            source.path,
            rule="alignment",
            problem=f"{ALIGNMENT_KEY} is {alignment}; a power of two up to {MAX_ALIGNMENT:,} "
            "is needed",
            offset=slot.value_start,
        )
    return alignment


def read_tensor_infos(
    cursor: Cursor, n_tensors: int, alignment: int, shard: int
) -> tuple[dict[str, TensorInfo], dict[str, tuple[int, int]]]:
    """Return the tensors, their offsets relative to the data, and where their entries lie."""
    tensors: dict[str, TensorInfo] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_tensors):
        start = cursor.position
        name = read_name(cursor, "a tensor name", MAX_NAME_BYTES)
        if name in tensors:
            raise cursor.error("unique tensors", f"tensor {name!r} appears twice", offset=start)
        tensors[name] = read_tensor_info(cursor, name, alignment, shard)
        spans[name] = (start, cursor.position - start)
    return tensors, spans


def read_tensor_info(cursor: Cursor, name: str, alignment: int, shard: int) -> TensorInfo:
    """Return the next tensor, its offset relative to the data section."""
    what = f"the entry of tensor {name!r}"
    start = cursor.position
    n_dimensions = cursor.number(U32, what)
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(
            "dimensions",
            f"tensor {name!r} has {n_dimensions} dimensions; 1 to {MAX_DIMENSIONS} are allowed",
            offset=start,
        )
    layout = DIMENSIONS[n_dimensions]
    sizes = layout.unpack(cursor.take(layout.size, what))
    if not 0 < math.prod(sizes) <= MAX_ELEMENTS:
        raise cursor.error(
            "dimensions", f"tensor {name!r} has the impossible shape {sizes}", offset=start
        )
    type_offset = cursor.position
    number, offset = TYPE_AND_OFFSET.unpack(cursor.take(TYPE_AND_OFFSET.size, what))
    kind = known_type(cursor, name, number, offset=type_offset)
    if sizes[0] % kind.block_size:
        raise cursor.error(
            "whole blocks",
            f"tensor {name!r} has rows of {sizes[0]} weights; {kind} comes in blocks of "
            f"{kind.block_size}",
            offset=start,
        )
    if offset % alignment:
        raise cursor.error(
            "aligned data",
            f"tensor {name!r} begins at {offset:,}, not at a multiple of {alignment}",
            offset=type_offset + U32.size,
        )
    nbytes = kind.row_bytes(sizes[0]) * math.prod(sizes[1:])
    return TensorInfo(name, sizes[::-1], kind, offset, nbytes, shard)


def known_type(cursor: Cursor, name: str, number: int, *, offset: int) -> QuantType:
    """Return the quant type of a number, refused by name when there is none."""
    if number in QUANT_TYPES:
        return QUANT_TYPES[number]
    removed = REMOVED_TYPES.get(number)
    raise UnsupportedFileError(
        cursor.source.path,
        rule="tensor type",
        problem=f"tensor {name!r} has type {number}, "
        + (f"{removed}, which ggml has removed" if removed else "which is not known"),
        offset=offset,
    )


def place(
    cursor: Cursor,
    tensors: tuple[TensorInfo, ...],
    data_offset: int,
    alignment: int,
    spans: dict[str, tuple[int, int]],
) -> tuple[tuple[TensorInfo, ...], tuple[str, ...]]:
    """Return the tensors with absolute offsets, and what is odd about their places.

    Raises:
        GgufError: a tensor reaches past the end of the file or into another tensor.
    """
    size = cursor.source.size
    placed = tuple(
        TensorInfo(t.name, t.shape, t.type, data_offset + t.offset, t.nbytes, t.shard)
        for t in tensors
    )
    for tensor in placed:
        if tensor.offset + tensor.nbytes > size:
            raise cursor.error(
                "tensor bounds",
                f"tensor {tensor.name!r} should lie at bytes {tensor.offset:,} to "
                f"{tensor.offset + tensor.nbytes:,}, but the file ends at {size:,}",
                offset=spans[tensor.name][0],
            )
    in_data_order = sorted(placed, key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_data_order):
        if before.offset + before.nbytes > after.offset:
            raise cursor.error(
                "no overlaps",
                f"tensors {before.name!r} and {after.name!r} overlap at byte {after.offset:,}",
                offset=spans[after.name][0],
            )
    return placed, tuple(oddities(placed, data_offset, alignment, size))


def oddities(
    tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int, size: int
) -> list[str]:
    """Return what is allowed but odd about where tensors lie."""
    found = []
    expected = data_offset
    for tensor in tensors:
        if tensor.offset != expected:
            found.append(
                f"tensor {tensor.name!r} lies at byte {tensor.offset:,} instead of {expected:,}: "
                "llama.cpp refuses files whose tensors do not follow each other"
            )
            break
        expected = padded(tensor.offset + tensor.nbytes, alignment)
    end = max((padded(t.offset + t.nbytes, alignment) for t in tensors), default=data_offset)
    if size > end:
        found.append(f"{size - end:,} bytes follow the last tensor")
    return found
