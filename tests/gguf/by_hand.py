"""Lays GGUF bytes by hand, so that tests do not lean on our own writer."""

from __future__ import annotations

import struct


def u32(value: int) -> bytes:
    return struct.pack("<I", value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def array(name: str, element_kind: int, count: int, elements: bytes) -> bytes:
    return key(name, 9, u32(element_kind) + u64(count) + elements)


def entry(name: str | bytes, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    """Return a tensor's header entry; `sizes` in the file's order, columns first."""
    dimensions = b"".join(u64(size) for size in sizes)
    return text(name) + u32(len(sizes)) + dimensions + u32(kind) + u64(offset)


def gguf(
    *,
    keys: tuple[bytes, ...] = (),
    entries: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    n_keys: int | None = None,
    n_entries: int | None = None,
    alignment: int = 32,
) -> bytes:
    header = b"GGUF" + u32(version)
    header += u64(len(entries) if n_entries is None else n_entries)
    header += u64(len(keys) if n_keys is None else n_keys)
    header += b"".join(keys) + b"".join(entries)
    return header + b"\0" * (-len(header) % alignment) + data
